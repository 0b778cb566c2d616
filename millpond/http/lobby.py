"""Lobby: connections whose request has not come yet. They have no greenlet, few descriptors, and little time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from socket import MSG_PEEK, SO_RCVLOWAT, SOL_SOCKET
from typing import Any

import gevent
from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.http.page_request import MAX_PAGE_BODY

#: Connections that wait here at once. One more, and who has waited longest is closed.
MAX_GUESTS = 100
#: A connection is closed here whose request has not come whole by then.
GUEST_SECONDS = 2.0
#: Of the head of a request; one that is longer is passed on as it is, to be refused.
MAX_HEAD = 16_384
#: Where the lobby is full, this many are let in each time that it looks: 500 a second, which takes 2 % of a core. A
#: health check has its answer within two seconds where 1,000 slow clients came before it.
LOBBY_LOOK_SECONDS, ENTRANTS_A_LOOK = 0.02, 10
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_READABLE = 1


def missing_bytes(data: bytes) -> int:
    """How many bytes of this request are still to come, at the least; 0: it is whole, or need not be awaited."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return 1 if len(data) < MAX_HEAD else 0
    length = _LENGTH.search(head + b"\r\n")
    if length is None or int(length[1]) > MAX_PAGE_BODY or b"100-continue" in head.lower():
        return 0  # the body is refused, or its sender waits to be asked for it
    return max(0, int(length[1]) - len(body))


class Guest:
    """A connection that waits. `wanted`: bytes that are to be there before it is looked at again."""

    def __init__(self, connection: Socket, address: Any, due: float) -> None:
        self.connection = connection
        self.address = address
        self.due = due
        self.wanted = 1
        self.watcher = gevent.get_hub().loop.io(connection.fileno(), _READABLE)


class Lobby:
    """Passes a connection on to `admit` once its request is there. Nothing here blocks: it runs in the hub.

    `on_room` is called when others may enter again.
    """

    def __init__(self, admit: Callable[[Socket, Any], object], on_room: Callable[[], object]) -> None:
        self._admit = admit
        self._on_room = on_room
        self._guests: dict[Guest, None] = {}  # in the order in which they came
        self._entered = 0  # since the last look
        self._timer = gevent.get_hub().loop.timer(LOBBY_LOOK_SECONDS, LOBBY_LOOK_SECONDS)

    @property
    def is_full(self) -> bool:
        """Whether nobody may enter before the next look."""
        return len(self._guests) >= MAX_GUESTS and self._entered >= ENTRANTS_A_LOOK

    def enter(self, connection: Socket, address: Any) -> None:
        """Let this connection wait for its request."""
        self._entered += 1
        if len(self._guests) >= MAX_GUESTS:
            self._close(next(iter(self._guests)))
        connection.settimeout(0)
        guest = Guest(connection, address, time.monotonic() + GUEST_SECONDS)
        self._guests[guest] = None
        guest.watcher.start(self._read, guest)
        if not self._timer.active:
            self._timer.start(self._look)

    def close(self) -> None:
        """Close all that wait."""
        for guest in list(self._guests):
            self._close(guest)
        self._timer.stop()
        self._timer.close()

    def _read(self, guest: Guest) -> None:
        """Look at what has come, and leave it where it is: the next reader has it too."""
        try:
            data = guest.connection.recv(MAX_HEAD + MAX_PAGE_BODY, MSG_PEEK)
        except BlockingIOError:  # nothing has come after all
            return
        except OSError:
            data = b""
        missing = missing_bytes(data)
        if len(data) < guest.wanted:  # it has been closed at the other end
            self._close(guest)
        elif missing:
            guest.wanted = len(data) + missing
            guest.connection.setsockopt(SOL_SOCKET, SO_RCVLOWAT, guest.wanted)
        else:
            self._forget(guest)
            guest.connection.setsockopt(SOL_SOCKET, SO_RCVLOWAT, 1)
            guest.connection.settimeout(None)
            self._admit(guest.connection, guest.address)

    def _look(self) -> None:
        self._entered, now = 0, time.monotonic()
        while self._guests and (guest := next(iter(self._guests))).due <= now:
            self._close(guest)
        self._on_room()
        if not self._guests:
            self._timer.stop()

    def _close(self, guest: Guest) -> None:
        self._forget(guest)
        guest.connection.close()

    def _forget(self, guest: Guest) -> None:
        del self._guests[guest]
        guest.watcher.stop()
        guest.watcher.close()
