"""ParentLink: what a worker among several says to their parent, and how it learns of the parent's end."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from gevent.monkey import get_original

from millpond.app.config import AllSettings
from millpond.engine.consumer import Consumer
from millpond.observe import log
from millpond.process.core import Core
from millpond.process.member import PARENT_VARIABLE, Word
from millpond.process.report import numbers_of
from millpond.process.steering import Steering

_start_thread: Any = get_original("_thread", "start_new_thread")
_read: Any = get_original("os", "read")
# gevent's makes the link non-blocking, for both: a read that a SIGSTOP has interrupted ends with an error then.
_Socket: Any = get_original("socket", "socket")


class Seat(NamedTuple):
    """A worker's place among several: its link, its number, from 1 on, and what the one before it was made to leave."""

    descriptor: int
    number: int
    quiet: frozenset[str] = frozenset()  # queues of which it is to receive nothing

    def settle(self, settings: AllSettings) -> AllSettings:
        """The settings of this worker: a name and a port of its own."""
        http, worker = settings.http, settings.worker
        worker = msgspec.structs.replace(worker, name=f"{worker.name}-{self.number}")
        if http.listen and http.address[1]:
            host, _, port = http.listen.rpartition(":")
            http = msgspec.structs.replace(http, listen=f"{host}:{min(65_535, int(port) + self.number - 1)}")
        return msgspec.structs.replace(settings, worker=worker, http=http)


def seat_of(environ: MutableMapping[str, str]) -> Seat | None:
    """The seat of this process among several; None where it is alone. What it starts itself does not see it."""
    text = environ.pop(PARENT_VARIABLE, "")
    if not text:
        return None
    descriptor, number, quiet = text.split(" ", 2)
    os.set_inheritable(int(descriptor), False)
    return Seat(int(descriptor), int(number), msgspec.json.decode(quiet, type=frozenset[str]))


class ParentLink:
    """Says to the parent when this worker receives, what is made quiet, and at the end what became of its messages.

    A native thread waits for the parent's end, and then sends this process SIGTERM: it drains.
    """

    def __init__(self, seat: Seat) -> None:
        self._descriptor = seat.descriptor
        self._quiet = seat.quiet
        self._consumers: Sequence[Consumer] = ()
        self._core: Core | None = None

    def start(self) -> None:
        _start_thread(self._wait_for_end, ())

    def watch(self, core: Core, steering: Steering) -> None:
        """Let the worker be as quiet from its start as the one before it was; the parent learns of each change."""
        self._core = core
        steering.start_quiet(self._quiet)
        steering.on_quiet = lambda queues: self._send(Word(quiet=tuple(sorted(queues))))

    def ready(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = consumers
        self._send(Word(ready=True))

    def draining(self) -> None:
        """Nothing: the parent sees the end of this process."""

    def ended(self) -> None:
        books = {consumer.name: _counts_of(consumer) for consumer in self._consumers}
        self._send(Word(books=books, why=self._core.why if self._core is not None else ""))

    def _send(self, word: Word) -> None:
        with suppress(OSError):  # the parent is gone, or does not read: nothing waits for it
            line = msgspec.json.encode(word) + b"\n"
            with _Socket(fileno=os.dup(self._descriptor)) as link:
                link.send(line, socket.MSG_DONTWAIT)

    def _wait_for_end(self) -> None:
        with suppress(OSError):
            while _read(self._descriptor, 64):
                pass
        text = "the parent of this worker has ended: the worker drains"
        log.from_thread(logging.WARNING, "worker.orphaned", text)
        os.kill(os.getpid(), signal.SIGTERM)


def _counts_of(consumer: Consumer) -> dict[str, Any]:
    """The numbers of its books that can be added up."""
    return {name: value for name, value in numbers_of(consumer).items() if isinstance(value, int)} | {
        "requests": consumer.requests
    }
