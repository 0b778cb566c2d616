"""The call of a handler: payload decoded, @around entered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from millpond.app.payload_errors import payload_error
from millpond.app.routing import Around, Route
from millpond.engine.delivery import Delivery
from millpond.errors import Interrupt, MillpondError
from millpond.foreign.trace import describe
from millpond.hub.home import system
from millpond.message import Message
from millpond.observe import log

HandlerCall = Callable[[Route, Delivery], object]

_get_ident = system("_thread", "get_ident")


class PayloadError(MillpondError):
    """A payload that does not become what its handler takes."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def call_handler(route: Route, delivery: Delivery) -> object:
    """What the handler of a delivery returns. Raises PayloadError, and whatever the user's code raises."""
    log.delivery.set(delivery)
    envelope: Any = delivery.envelope
    try:
        payload = route.decode(envelope.payload)
    except Interrupt:
        raise
    except BaseException as error:  # the user's own types decode themselves: anything can come out
        raise PayloadError(payload_error(error, envelope.payload, envelope.path)) from None
    if route.around is not None:
        return _call_around(route.around, route, payload, delivery.message())
    return route.call(payload, delivery.message()) if route.takes_message else route.call(payload)


def only_decode(payload: object) -> None:
    """The handler of a payload that is decoded before its own handler may be called."""


def call_in_thread(call: HandlerCall, route: Route, delivery: Delivery) -> object:
    """The same by `call`, in a real thread, which the delivery knows meanwhile."""
    delivery.thread = _get_ident()
    try:
        return call(route, delivery)
    finally:
        delivery.thread = 0


#: The function below which every handler runs: the watchdog looks for it in a stack.
HANDLER_CODE = call_handler.__code__


def _call_around(around: Around, route: Route, payload: Any, message: Message) -> object:
    """The context manager sees what the handler raises, and cannot change it."""
    raised: BaseException | None = None
    value: object = None
    over = False
    try:
        with around(message):
            try:
                value = route.call(payload, message) if route.takes_message else route.call(payload)
            except BaseException as error:
                raised = error
                raise
            finally:
                over = True
    except BaseException as error:
        if not over:
            raise
        if error is not raised:
            log.event(logging.WARNING, "around.failed", f"{route.where}: @around raised {describe(error)}")
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None  # its traceback has this frame: the message would stay for the garbage collector
    return value
