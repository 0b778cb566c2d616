"""botocore does once what it does anew for each session: that takes 30 ms, and a thousand tests make one.

Importing this is enough. What a session or a client does is not changed: the same models, handlers and names.
"""

import inspect
from functools import cache
from typing import Any

import botocore.session
from botocore import hooks
from botocore.loaders import create_loader


def _accepts_kwargs(function: Any) -> Any:
    """The same as botocore's, of the function's code: it takes the signature of 130 functions for each session."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return bool(code.co_flags & inspect.CO_VARKEYWORDS) if code is not None else _slow_accepts_kwargs(function)


def _share_names(aliaser: hooks.EventAliaser, *arguments: Any) -> None:
    """Tries each of 60 aliases on each name of an event; the aliases are constants, so the names are too."""
    _init_aliaser(aliaser, *arguments)
    aliaser._alias_name_cache = _names


_names: dict[str, str] = {}
_init_aliaser, hooks.EventAliaser.__init__ = hooks.EventAliaser.__init__, _share_names
_slow_accepts_kwargs, hooks.accepts_kwargs = hooks.accepts_kwargs, _accepts_kwargs
botocore.session.create_loader = cache(create_loader)
