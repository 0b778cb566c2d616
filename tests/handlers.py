"""Handlers that tests of any wing use."""

from __future__ import annotations

from typing import Any

from gevent.event import Event

from millpond.errors import Interrupt, Reject


def fine(payload: Any, message: Any) -> None:
    return None


def reject(payload: Any, message: Any) -> None:
    raise Reject("no such customer")


class Gate:
    """A handler that waits until the test lets it go; knows who came, who is inside and what was thrown."""

    def __init__(self) -> None:
        self.event = Event()
        self.inside: list[str] = []
        self.seen: list[tuple[str, int]] = []
        self.thrown: list[type[Interrupt]] = []

    def __call__(self, payload: Any, message: Any) -> None:
        self.inside.append(message.id)
        self.seen.append((message.id, message.attempt))
        try:
            self.event.wait()
        except Interrupt as error:
            self.thrown.append(type(error))
            raise
        finally:
            self.inside.remove(message.id)
