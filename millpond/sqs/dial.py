"""Dialer: opens connections to one host, by the first of its addresses that answers, within a time limit."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import zip_longest
from time import monotonic
from typing import Any, NamedTuple

from millpond.errors import Unreachable
from millpond.foreign.text import shown
from millpond.hub.home import Errand, Home
from millpond.sqs.stream import Stream, TlsStream

#: The time from one address to the next while none has answered; earlier attempts go on (RFC 8305).
STAGGER_SECONDS = 0.25
#: The time between probes of an idle connection, which a gateway on the way forgets otherwise (AWS's own after 350 s).
KEEPALIVE_SECONDS = 60

_TCP_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), seconds)
        for name, seconds in (("TCP_KEEPIDLE", KEEPALIVE_SECONDS), ("TCP_KEEPINTVL", 10))
        if hasattr(socket, name)  # not on every system
    ),
]


class HostAddress(NamedTuple):
    """One address of a host, as getaddrinfo gives it."""

    family: int
    kind: int
    protocol: int
    name: str
    address: tuple[Any, ...]


class Dialer:
    """Looks the host up, tries its addresses, and shakes hands where `tls` is given.

    The addresses are tried one after another, each before the one ahead of it has failed; the first that answers wins.
    A handshake gets half of the time that is left, the other addresses the rest. The address that worked last is tried
    first the next time.
    """

    def __init__(self, home: Home, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._home = home
        self._host = host
        self._port = port
        self._tls = tls
        self._good: HostAddress | None = None

    def dial(self, end: float) -> Stream:
        """Open a connection by the time `end` (monotonic). Raises Unreachable."""
        problems: list[str] = []
        missing = "no connection"
        try:
            with closing(_Attempts(self._home, self._addresses(end), end, problems)) as attempts:
                for address, sock in attempts:
                    missing = "no TLS" if self._tls else missing
                    try:
                        stream = self._stream(sock, attempts.share(end))
                    except OSError as error:
                        sock.close()
                        problems.append(_problem(address, error))
                        continue
                    except BaseException:
                        sock.close()
                        raise
                    self._good = address
                    return stream
        except (OSError, UnicodeError, RuntimeError) as error:  # UnicodeError: a name that cannot be in the DNS
            problems = [f"{error}"]
        raise Unreachable(f"{missing} to {self._host}:{self._port}: {shown('; '.join(problems) or 'no address')}")

    def _addresses(self, end: float) -> list[HostAddress]:
        ask = self._home("socket", "getaddrinfo")
        lookup = Errand(lambda: ask(self._host, self._port, type=socket.SOCK_STREAM), self._home)
        try:
            found = lookup.result(end - monotonic())
        except TimeoutError:
            raise OSError("its address was not found in time") from None
        return ordered([HostAddress(*one) for one in found], self._good)

    def _stream(self, sock: socket.socket, end: float) -> Stream:
        for option in _TCP_OPTIONS:
            sock.setsockopt(*option)
        if self._tls is None:
            return Stream(sock)
        stream = TlsStream(sock, self._tls, self._host)
        stream.handshake(end)
        return stream


class _Attempts:
    """The attempts to connect to some addresses: yields each socket once it is connected, until `end`."""

    def __init__(self, home: Home, addresses: Sequence[HostAddress], end: float, problems: list[str]) -> None:
        self._home = home
        self._waiting = list(addresses)
        self._open: dict[int, tuple[HostAddress, socket.socket]] = {}
        self._poll: Any = home("select", "poll")()
        self._end = end
        self._problems = problems
        self._stagger = min(STAGGER_SECONDS, (end - monotonic()) / (len(addresses) + 1))

    def close(self) -> None:
        for _address, sock in self._open.values():
            sock.close()

    def share(self, end: float) -> float:
        """The moment by which a handshake must be done, so that the other addresses have time too."""
        now = monotonic()
        return now + (end - now) / 2 if self._open or self._waiting else end

    def __iter__(self) -> Iterator[tuple[HostAddress, socket.socket]]:
        while self._waiting or self._open:
            if self._waiting:
                self._begin(self._waiting.pop(0))
            yield from self._answered()
            if monotonic() >= self._end:
                self._problems += [_problem(address, "timed out") for address, _ in self._open.values()]
                return

    def _begin(self, address: HostAddress) -> None:
        try:
            sock = self._home("socket", "socket")(address.family, address.kind, address.protocol)
        except OSError as error:  # a system without IPv6
            self._problems.append(_problem(address, error))
            return
        self._open[sock.fileno()] = address, sock
        sock.settimeout(0)
        code = sock.connect_ex(address.address)
        self._poll.register(sock.fileno(), select.POLLOUT)
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self._failed(sock.fileno(), code)

    def _answered(self) -> Iterator[tuple[HostAddress, socket.socket]]:
        """The sockets that are connected before the next attempt begins."""
        until = monotonic() + self._stagger if self._waiting else self._end
        while self._open and (left := min(until, self._end) - monotonic()) > 0:
            for number, _ in self._poll.poll(left * 1000):
                if number not in self._open:
                    continue
                if code := self._open[number][1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._failed(number, code)
                else:
                    self._poll.unregister(number)
                    yield self._open.pop(number)

    def _failed(self, number: int, code: int) -> None:
        self._poll.unregister(number)
        address, sock = self._open.pop(number)
        sock.close()
        self._problems.append(_problem(address, OSError(code, os.strerror(code))))


def ordered(found: Sequence[HostAddress], good: HostAddress | None) -> list[HostAddress]:
    """Each once, the good one first, then IPv6 and IPv4 in turn: where IPv6 leads nowhere, IPv4 comes second."""
    families: dict[int, list[HostAddress]] = {}
    for address in dict.fromkeys(found):
        families.setdefault(address.family, []).append(address)
    turns = [address for turn in zip_longest(*families.values()) for address in turn if address is not None]
    return sorted(turns, key=lambda address: address != good)


def _problem(address: HostAddress, error: object) -> str:
    return f"{address.address[0]}: {error}"
