"""Member: one of the workers of a parent: its process, what it says, and when it is started again."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Any

import msgspec

from millpond.errors import CRASHED, FINISHED
from millpond.process.parent_plan import STEERING

#: Tells a worker the descriptor of its link to the parent, its number, from 1 on, and its quiet queues: '5 2 ["jobs"]'.
PARENT_VARIABLE = "MILLPOND_PARENT"
#: After its end a worker is started again: the first time nearly at once, then twice as late each time, to a minute.
FIRST_RESTART_SECONDS, MOST_RESTART_SECONDS = 0.5, 60.0
#: One that has worked for this long was well: its end is the first one again.
WELL_SECONDS = 60.0
#: In the place of the names of queues: all of them, also where their names are not known yet.
ALL_QUEUES = ("",)
#: Why a worker ends that has grown past max_memory_mb: another goes on with its work.
OVER_MEMORY = "memory"
_LINK_BYTES = 65_536


class MemberState(Enum):
    """See the table of Member."""

    RESTING = auto()
    BOOTING = auto()
    READY = auto()
    OVER = auto()


class Word(msgspec.Struct):
    """What a worker says to its parent.

    `ready`: it receives; `quiet`: these queues are quiet from now on; `books`: what became of its messages, by queue,
    and `why` it ends.
    """

    ready: bool = False
    quiet: tuple[str, ...] | None = None
    books: dict[str, dict[str, Any]] | None = None
    why: str = ""


def restart_seconds(ends: int) -> float:
    """The wait before a worker is started again, after this many ends in a row."""
    return min(MOST_RESTART_SECONDS, FIRST_RESTART_SECONDS * 2.0 ** min(ends - 1, 10))


class Member:
    """One worker of several.

    | from | to | when |
    |---|---|---|
    | RESTING | BOOTING | its time has come: a process is started, by exec |
    | BOOTING | READY | it says that it receives |
    | BOOTING, READY | RESTING | its process has ended, and another takes its place |
    | BOOTING, READY | OVER | its process has ended, and none takes its place |
    | RESTING | OVER | the parent stops |
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = MemberState.RESTING
        self.due = 0.0  # RESTING: when it is to be started
        self.pid = 0
        self.ends = 0  # in a row
        self.why = ""  # it has ended
        self.end = "has ended"  # or by which signal it was killed
        self.books: dict[str, dict[str, Any]] | None = None  # of the process that runs, or ran last
        self.quiet: tuple[str, ...] = ()  # queues of which it receives nothing, nor does who takes its place
        self._known_quiet: tuple[str, ...] = ()  # as its process knows it
        self._since = 0.0
        self.link: socket.socket | None = None
        self._unread = b""

    @property
    def is_alive(self) -> bool:
        return self.state in (MemberState.BOOTING, MemberState.READY)

    def start(self, command: Sequence[str], now: float) -> None:
        """Start its process, with a link that tells both sides of the other's end. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            ours.setblocking(False)
            seat = f"{theirs.fileno()} {self.number} {msgspec.json.encode(self.quiet).decode()}"
            environ = {**os.environ, PARENT_VARIABLE: seat}
            self.pid = os.posix_spawn(sys.executable, [sys.executable, *command], environ, setsigmask=STEERING)
        self.state, self._since, self.link, self._unread, self.books = MemberState.BOOTING, now, ours, b"", None
        self.why = ""
        self._known_quiet = self.quiet

    def read_words(self) -> bool:
        """Read what it has said. True: it has just become ready."""
        was = self.state
        with suppress(OSError):
            while self.link is not None:
                more = self.link.recv(_LINK_BYTES)
                self._unread += more
                if not more:  # its end, or it has closed all that it had open
                    self._close()
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            with suppress(msgspec.DecodeError):  # a library that wrote to a descriptor not its own ends no parent
                self._note(msgspec.json.decode(line, type=Word))
        return self.state is not was

    def _note(self, word: Word) -> None:
        self.books, self.why = word.books or self.books, word.why or self.why
        if word.ready:
            self.state = MemberState.READY
            if self.quiet != self._known_quiet:  # a signal that it would not have lived through has waited for it
                self.signal(signal.SIGUSR1 if self.quiet else signal.SIGUSR2)
        elif word.quiet is not None:
            self.quiet = self._known_quiet = word.quiet

    def _close(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end_by(self, status: int, asked: bool) -> int:
        """The exit code of its process, of which wait() says this. `asked`: as for `exit_code_of`."""
        self.end = end_text(status)
        return exit_code_of(status, asked)

    def ended(self, now: float) -> None:
        """Its process is no more, and all its words are read."""
        self._close()
        was_well = self.state is MemberState.READY and (now - self._since > WELL_SECONDS or self.why == OVER_MEMORY)
        self.ends = 1 if was_well else self.ends + 1

    def rest(self, now: float) -> float:
        """Another process takes its place after a wait, which is returned."""
        seconds = restart_seconds(self.ends)
        self.state, self.due = MemberState.RESTING, now + seconds
        return seconds


def exit_code_of(status: int, asked: bool) -> int:
    """The exit code of a process. `asked`: it was asked to end before anything could be in hand."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    return FINISHED if asked and -code in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) else CRASHED


def end_text(status: int) -> str:
    """How a process ended: of its own, or killed by a signal, and by whom then."""
    number = -os.waitstatus_to_exitcode(status)
    if number <= 0:
        return "has ended"
    name = next((one.name for one in signal.Signals if one == number), f"signal {number}")
    by: dict[int, str] = {
        signal.SIGKILL: " (by the kernel for its memory, or by kill -9)",
        signal.SIGSEGV: " (by a library in C)",
    }
    return f"was killed by {name}{by.get(number, '')}"
