"""Parent: starts several workers, forwards signals, replaces those that end, adds up their books. It has no gevent."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from millpond.errors import CRASHED, FINISHED, LEFT, MISCONFIGURED
from millpond.observe.screen import counted
from millpond.process.member import ALL_QUEUES, OVER_MEMORY, Member, MemberState
from millpond.process.parent_log import ParentLog
from millpond.process.parent_notifier import ParentNotifier
from millpond.process.parent_plan import ENDING, STEERING, ParentPlan

#: A second Ctrl-C counts from here on, as in a worker.
SECOND_CTRL_C_SECONDS = 0.5
#: A worker that has not ended this long after its drain's limit is killed: it ends itself within seven seconds.
KILL_SECONDS = 10.0
#: Where none is ready, and this many in a row have died before they were, there is no use in another.
MOST_BOOT_DEATHS = 3


class Parent:
    """Keeps `number` workers running until a signal, then until the last has ended.

    1. The first SIGTERM, SIGINT or SIGHUP goes on to each worker once, as SIGTERM, which changes nothing where Heroku
       or a terminal has signalled them too. A later Ctrl-C goes on as it is.
    2. Quiet, resume and dump go on each time. Of a quiet worker the one that takes its place is quiet from its start,
       whoever has made it so: it says so on its link.
    3. One that ends is replaced after a back-off. Where none is ready and it died at its boot (exit code 3, or three
       times), all end, with that code.
    4. When the parent dies, each worker sees the end of its link, and drains.
    """

    def __init__(self, plan: ParentPlan, log: ParentLog, notifier: ParentNotifier) -> None:
        self._plan = plan
        self._log = log
        self._notifier = notifier
        self._members = [Member(number) for number in range(1, plan.number + 1)]
        self._started = time.monotonic()
        self._signals, self._wakeup = socket.socketpair()
        self._why, self._stopped_at = "", 0.0
        self._boot_deaths = 0  # in a row, none ready between them
        self._codes: list[int] = []
        self._books: dict[str, Counter[str]] = {}
        self._without_books = 0

    def run(self) -> int:
        """Return the exit code: the worst one of the workers at their end."""
        self._install_signals()
        while self._step():
            pass
        code = max(self._codes, default=FINISHED)
        self._report(code)
        return code

    def _install_signals(self) -> None:
        for one in (self._signals, self._wakeup):
            one.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in (*ENDING, *STEERING, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*ENDING, *STEERING})

    def _step(self) -> bool:
        now = time.monotonic()
        for member in self._members:
            if member.state is MemberState.RESTING and now >= member.due:
                self._start(member, now)
        self._notifier.look(self._members, bool(self._why), now)
        self._wait(now)
        for member in self._members:
            if member.read_words():
                self._boot_deaths = 0
        self._obey()
        self._reap(time.monotonic())
        return any(member.state is not MemberState.OVER for member in self._members)

    def _wait(self, now: float) -> None:
        """Until a signal, a word of a worker, or the next moment at which something is due."""
        due = [member.due for member in self._members if member.state is MemberState.RESTING]
        if self._why and self._plan.drain_seconds is not None:
            due.append(self._stopped_at + self._plan.drain_seconds + KILL_SECONDS)
            if now >= due[-1]:
                self._signal(signal.SIGKILL)
                due[-1] = now + 1
        links = [member.link for member in self._members if member.link is not None]
        select.select([self._signals, *links], [], [], max(0.0, min([*due, self._notifier.due]) - now))

    def _start(self, member: Member, now: float) -> None:
        try:
            member.start(self._plan.command, now)
        except OSError as error:
            text = f"cannot start worker {member.number}: {error.strerror}"
            self._log.event(logging.ERROR, "workers.failed", text, number=member.number)
            self._note_end(member, CRASHED, now)

    # Signals

    def _obey(self) -> None:
        numbers = b""
        with suppress(BlockingIOError):
            numbers = self._signals.recv(4_096)
        for number in numbers:
            if number in STEERING:
                self._steer(number)
            elif number in ENDING and not self._why:
                self._stop(signal.Signals(number).name)
            elif number == signal.SIGINT and time.monotonic() - self._stopped_at > SECOND_CTRL_C_SECONDS:
                self._signal(number)

    def _steer(self, number: int) -> None:
        for member in self._members:
            if number != signal.SIGQUIT:
                member.quiet = ALL_QUEUES if number == signal.SIGUSR1 else ()
        self._signal(number, [MemberState.READY])  # it would end one that has not seen to it yet

    def _stop(self, why: str) -> None:
        self._why, self._stopped_at = why, time.monotonic()
        self._signal(signal.SIGTERM)
        for member in self._members:
            if member.state is MemberState.RESTING:
                member.state = MemberState.OVER

    def _signal(self, number: int, states: Sequence[MemberState] = (MemberState.BOOTING, MemberState.READY)) -> None:
        for member in self._members:
            if member.state in states:
                member.signal(number)

    # The ends of workers

    def _reap(self, now: float) -> None:
        """Note what has ended; in a container orphans of the workers too are this process's to wait for."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                for member in self._members:
                    if member.pid == ended[0] and member.is_alive:
                        member.read_words()
                        asked = bool(self._why) and member.state is MemberState.BOOTING
                        self._note_end(member, member.end_by(ended[1], asked), now)

    def _note_end(self, member: Member, code: int, now: float) -> None:
        was_ready = member.state is MemberState.READY
        member.ended(now)
        for queue, numbers in (member.books or {}).items():
            self._books.setdefault(queue, Counter()).update(numbers)
        self._without_books += was_ready and member.books is None
        is_done = self._plan.until_empty and code in (FINISHED, LEFT) and member.why != OVER_MEMORY
        if self._why or is_done:
            member.state = MemberState.OVER
            self._codes.append(code)
        else:
            self._boot_deaths += not was_ready
            self._replace(member, code, now)

    def _replace(self, member: Member, code: int, now: float) -> None:
        seconds = member.rest(now)
        is_hopeless = code == MISCONFIGURED or self._boot_deaths >= MOST_BOOT_DEATHS
        if is_hopeless and not any(other.state is MemberState.READY for other in self._members):
            code = code if code == MISCONFIGURED else CRASHED
            text = f"no worker gets ready, and all end: look at their own lines above; exit code {code}"
            self._log.event(logging.CRITICAL, "workers.failed", text, number=member.number)
            self._codes.append(code)
            self._stop("failed")
            return
        who = f"worker {member.number} (process {member.pid})"
        text = f"{who} {member.end}, exit code {code}: another starts in {seconds:g} s"
        level = logging.INFO if code == FINISHED else logging.ERROR
        self._log.event(level, "workers.replaced", text, number=member.number, exit_code=code, seconds=seconds)

    def _report(self, code: int) -> None:
        end = {"why": self._why or "empty", "seconds": round(time.monotonic() - self._started, 1), "exit_code": code}
        workers = len(self._members)
        who = f"all {workers} workers have" if workers > 1 else "the worker has"
        for queue, numbers in self._books.items():
            done = f"{numbers['succeeded']:,} of {numbers['received']:,} messages succeeded"
            text = f"{queue}: {who} stopped ({end['why']}); {done}"
            self._log.event(logging.INFO, "workers.stopped", text, queue=queue, workers=workers, **numbers, **end)
        if self._without_books:
            text = f"{counted(self._without_books, 'worker')} ended without books: what they had comes back, uncounted"
            self._log.event(logging.WARNING, "workers.uncounted", text, workers=self._without_books)
        self._notifier.ended()


def main(text: str) -> int:
    """Be the parent, by the plan that `become_parent` wrote."""
    plan = msgspec.json.decode(text, type=ParentPlan)
    notifier = ParentNotifier(os.environ.pop("NOTIFY_SOCKET", ""), os.environ.pop("WATCHDOG_USEC", ""))
    return Parent(plan, ParentLog(plan.level, plan.format), notifier).run()
