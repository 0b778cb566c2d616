"""Millpond: a gevent worker for Amazon SQS.

Everything here is loaded when it is first used: a web process that imports `millpond` to send a message gets no
monkey patch, no gevent, and boto3 only at its first send.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millpond.app.handler_options import Breaker
    from millpond.app.routing import around, handler
    from millpond.errors import Discard, Reject, Retry, TooFast, Unavailable, Wait
    from millpond.message import Message
    from millpond.producer import Producer

__version__ = "0.1.0"

__all__ = [
    "Breaker",
    "Discard",
    "Message",
    "Producer",
    "Reject",
    "Retry",
    "TooFast",
    "Unavailable",
    "Wait",
    "around",
    "handler",
]

_HOMES = {
    "Breaker": "millpond.app.handler_options",
    "Discard": "millpond.errors",
    "Message": "millpond.message",
    "Producer": "millpond.producer",
    "Reject": "millpond.errors",
    "Retry": "millpond.errors",
    "TooFast": "millpond.errors",
    "Unavailable": "millpond.errors",
    "Wait": "millpond.errors",
    "around": "millpond.app.routing",
    "handler": "millpond.app.routing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'millpond' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
