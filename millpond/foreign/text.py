"""Any value as a text that is fit to be shown: cut, escaped, without secrets."""

from __future__ import annotations

from itertools import islice
from typing import Any, cast

from millpond.errors import Interrupt
from millpond.foreign.scrub import scrubbed

#: Characters of one foreign text in a log line or an error.
MAX_SHOWN = 500
#: Characters of the name of a type.
MAX_NAME = 100
#: Characters of a text of several lines, and of each of them: Heroku splits a log line after 10 kB.
MAX_LINES, MAX_LINE = 8_000, 500
#: Items of a container that are shown, and how deep: repr() of ten million numbers takes the hub a second.
MAX_ITEMS, MAX_NESTED = 20, 3

# The interpreter's own slots of a type and of an exception, which no property of a user's can falsify.
_NAME: Any = type.__dict__["__name__"]
_MRO: Any = type.__dict__["__mro__"]
_OWN: Any = type.__dict__["__dict__"]
_ARGS: Any = BaseException.__dict__["args"]

_CONTAINERS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """Any value as one line of at most `limit` printable characters, without secrets."""
    return _cut(escaped(scrubbed(text_of(value), limit)), limit)


def clean(value: object, limit: int = MAX_SHOWN) -> str:
    """Any value as text of at most `limit` characters, without secrets, for a place that escapes it itself (JSON)."""
    return _cut(scrubbed(text_of(value), limit), limit)


def escaped(text: str) -> str:
    """The text with all that is not printable escaped: line breaks, control characters, half characters."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def lines(value: object) -> str:
    """A text of several lines, each cut and without secrets; the end of it, where it is long."""
    text = text_of(value)
    if len(text) > 2 * MAX_LINES:  # from the beginning of a line on: half a secret would not be recognised
        text = text[-2 * MAX_LINES :].partition("\n")[2] or text[: 2 * MAX_LINES]
    return "\n".join([clean(line, MAX_LINE) for line in text.splitlines()])[-MAX_LINES:]


def text_of(value: object) -> str:
    """Any value as text; its type's name where it has none."""
    text = own_text(value)
    return f"<{type_name(value)}>" if text is None else text


def own_text(value: object) -> str | None:
    """The text of a value; None where it cannot be made one."""
    kind = type(value)
    if kind is str:
        return cast("str", value)
    try:
        if issubclass(kind, BaseException) and _has_base_text(kind):
            return _text_of_args(_ARGS.__get__(value))
        return _brief(value, MAX_NESTED) if kind in _CONTAINERS else str.__str__(str(value))
    except Interrupt:  # the engine's own, which stops the handler that this is called from
        raise
    except BaseException:  # a user's __str__ may do anything, even call sys.exit()
        return None


def type_name(value: object) -> str:
    """The name of a value's type."""
    return name_of(type(value))


def name_of(kind: type) -> str:
    """The name of a type, which can be anything: of any length, with line breaks, even one that lies."""
    return shown(str.__str__(_NAME.__get__(kind)), MAX_NAME)


def _has_base_text(kind: type) -> bool:
    """Whether its text is BaseException's: made of its args, which may be anything, of any size."""
    return next(base for base in _MRO.__get__(kind) if "__str__" in _OWN.__get__(base)) is BaseException


def _text_of_args(args: tuple[object, ...]) -> str | None:
    if len(args) == 1:
        return own_text(args[0])
    return _brief(args, MAX_NESTED) if args else ""


def _brief(value: Any, levels: int) -> str:
    """The beginning of a container's repr()."""
    kind = type(value)
    if kind is str or kind is bytes:
        return repr(value[:MAX_LINES])
    if kind not in _CONTAINERS:
        return str.__str__(repr(value))
    if not levels:
        return "..."
    if kind is dict:
        items = [f"{_brief(key, levels - 1)}: {_brief(value[key], levels - 1)}" for key in islice(value, MAX_ITEMS)]
    else:
        items = [_brief(item, levels - 1) for item in islice(value, MAX_ITEMS)]
    more = ["..."] if len(value) > MAX_ITEMS else [""] if kind is tuple and len(value) == 1 else []
    begin, end = _CONTAINERS[kind]
    return f"{begin}{', '.join([*items, *more]).rstrip(' ')}{end}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
