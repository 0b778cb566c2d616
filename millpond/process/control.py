"""Control: the socket by which `worker.py status`, `quiet`, `level` and others reach a process on this machine.

Nobody but the same user, or root, in the same container is answered: the system says who has connected.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

import gevent
import msgspec
from gevent.server import StreamServer
from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.observe import log
from millpond.process.observer import Observer
from millpond.process.snapshot import Snapshot
from millpond.process.steering import Steering, SteeringRefused

#: Connections at once, and how long one may take.
MAX_CONTROLLERS, CONTROL_SECONDS = 8, 5.0
#: Bytes of an order.
MAX_ORDER = 4_096
#: Bytes of an answer that is believed.
MAX_CONTROL_ANSWER = 16 * 1024 * 1024
_NAME = "millpond-control"
#: Sockets without a file, where there are any: nothing is left behind, and a file system may be read-only.
HAS_ABSTRACT = sys.platform == "linux"
_PEER = struct.Struct("3i")  # pid, uid, gid

Verb = Literal["status", "quiet", "resume", "level", "weight", "dump"]


class Order(msgspec.Struct, frozen=True):
    """What is asked of a process: a line of JSON. `queue`: of this one alone; `value`: the level, or the weight."""

    do: Verb
    queue: str = ""
    value: str = ""


class ControlAnswer(msgspec.Struct, frozen=True):
    """What it answers. `done` is false where it refuses; `text` says why, or what was done."""

    done: bool
    text: str = ""
    snapshot: Snapshot | None = None


class ControlServer:
    """The socket of this process."""

    def __init__(self, steering: Steering, observer: Observer) -> None:
        self._steering = steering
        self._observer = observer
        self._server: StreamServer | None = None
        self._address = ""

    def start(self) -> None:
        """Listen; where that cannot be, it is logged, and the work goes on without."""
        try:
            self._address = _new_address()
            listener = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(self._address)
            listener.listen(MAX_CONTROLLERS)
        except OSError as error:
            text = f"cannot listen for `worker.py status` and its like: {shown(error)}; signals work all the same"
            log.event(logging.WARNING, "control.failed", text)
            return
        self._server = StreamServer(listener, self._serve, spawn=MAX_CONTROLLERS)
        self._server.start()

    def ready(self, consumers: object) -> None:
        """Nothing: the observer sees them."""

    def draining(self) -> None:
        """Nothing: a drain can be looked at, too."""

    def ended(self) -> None:
        """Close the socket."""
        if self._server is not None:
            self._server.stop(timeout=0)
        if self._address and not HAS_ABSTRACT:
            with suppress(OSError):
                os.unlink(self._address)

    def _serve(self, connection: Any, address: object) -> None:
        with suppress(OSError), gevent.Timeout(CONTROL_SECONDS, False), connection:
            if is_own_peer(connection):
                connection.sendall(msgspec.json.encode(self._answer(_line_of(connection, MAX_ORDER))))

    def _answer(self, line: bytes) -> ControlAnswer:
        try:
            order = msgspec.json.decode(line, type=Order)
            text = self._obey(order)
            return ControlAnswer(True, text, self._observer.take(failures=True))
        except (SteeringRefused, msgspec.DecodeError) as error:
            return ControlAnswer(False, shown(error))
        except Exception as error:
            return ControlAnswer(False, f"the worker failed at it: {describe(error)}")

    def _obey(self, order: Order) -> str:
        steering = self._steering
        obey: dict[Verb, Callable[[], str]] = {
            "status": self._look,
            "quiet": lambda: steering.quiet(order.queue),
            "resume": lambda: steering.resume(order.queue),
            "level": lambda: steering.set_level(order.value),
            "weight": lambda: steering.set_weight(order.queue, order.value),
            "dump": steering.dump,
        }
        return obey[order.do]()

    def _look(self) -> str:
        self._observer.on_look()
        return ""


def _new_address() -> str:
    """Another one for each process: containers that share the host's network have the same process ids."""
    name = f"{_NAME}-{os.getuid()}"
    if HAS_ABSTRACT:
        return f"\0{name}/{os.getpid()}-{token_hex(4)}"
    folder = Path(tempfile.gettempdir(), name)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
    return str(folder / f"{os.getpid()}-{token_hex(4)}")


def is_own_peer(connection: Any) -> bool:
    """Whether at the other end is the same user, or root, in a container that sees this one's processes."""
    if not HAS_ABSTRACT:
        return True  # the folder of the socket is this user's alone
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid > 0 and (uid in (0, os.getuid()) or os.getuid() == 0)


def _line_of(connection: Any, limit: int) -> bytes:
    """What comes until a line ends, or the other end has no more; it is cut at the limit."""
    data = b""
    while b"\n" not in data and len(data) < limit and (piece := connection.recv(min(65_536, limit))):
        data += piece
    return data[:limit]


# From outside


def addresses() -> list[str]:
    """Where processes of this user (for root: of any) listen."""
    own = f"{_NAME}-" if os.getuid() == 0 else f"{_NAME}-{os.getuid()}/"
    if HAS_ABSTRACT:
        return sorted(f"\0{name}" for name in _listening() if name.startswith(own))
    return sorted(str(path) for path in Path(tempfile.gettempdir()).glob(f"{own.rstrip('/')}*/*"))


def _listening() -> Iterator[str]:
    """The names of the abstract sockets that listen here."""
    with suppress(OSError):
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            columns = line.split(maxsplit=7)
            if len(columns) == 8 and columns[3] == "00010000" and columns[7].startswith("@"):
                yield columns[7].removeprefix("@")


def ask(address: str, order: Order, seconds: float = CONTROL_SECONDS) -> ControlAnswer:
    """The answer of the process that listens there. Raises OSError, and msgspec.DecodeError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(address)
        if not is_own_peer(connection):
            raise PermissionError("the process that listens there is another user's")
        connection.sendall(msgspec.json.encode(order) + b"\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        return msgspec.json.decode(answer[:MAX_CONTROL_ANSWER], type=ControlAnswer)
