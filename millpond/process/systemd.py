"""SystemdNotifier: tells systemd by its notify socket that the worker is ready, how it fares, and that it stops."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from millpond.engine.consumer import Consumer
from millpond.foreign.number import number_within
from millpond.observe import log
from millpond.process.core import Core
from millpond.process.health import Health, Stage

#: The status line is renewed this often, where it has changed.
STATUS_SECONDS = 10.0
#: While the drain lasts, systemd is asked for this much more time, again and again: TimeoutStopSec cuts nothing short.
EXTEND_SECONDS = 60
#: These are said once. Without the first systemd ends the worker after TimeoutStartSec, so what finds a full socket
#: goes with the next lines.
SAID_ONCE = ("READY=1", "STOPPING=1")
#: More is no time-out of a watchdog.
_MAX_USEC = 10**15


class NotifySocket:
    """The socket of $NOTIFY_SOCKET: a path, or an abstract name that begins with @."""

    def __init__(self, name: str) -> None:
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0.0)  # a full socket must not hold the worker up
        self._failed = False

    def send(self, *lines: str) -> bool:
        """Send these lines as one datagram. False: it did not go out; the first of a run of failures is logged."""
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
            self._failed = False
        except OSError as error:
            if not self._failed:
                text = f"cannot reach systemd by NOTIFY_SOCKET: {error.strerror or error}; the work goes on"
                log.event(logging.WARNING, "systemd.failed", text)
            self._failed = True
        return not self._failed


class SystemdNotifier:
    """Sends READY=1, STOPPING=1, a status line, and WATCHDOG=1 at half of WatchdogSec, as long as the worker is well.

    A greenlet sends them: where a handler blocks the hub for longer than WatchdogSec, or the pollers hang, systemd ends
    the worker and starts it again.
    """

    def __init__(self, core: Core, health: Health, place: NotifySocket, watchdog_seconds: float) -> None:
        self._core = core
        self._health = health
        self._socket = place
        self._watchdog = ["WATCHDOG=1"] if watchdog_seconds else []
        self._step_seconds = min(STATUS_SECONDS, watchdog_seconds / 2 or STATUS_SECONDS)
        self._consumers: Sequence[Consumer] = ()
        self._status = ""
        self._unsent: list[str] = []
        self._ended = False

    def start(self) -> None:
        self._send(f"STATUS={Stage.BOOTING.value}")

    def ready(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = consumers
        self._send("READY=1", *self._watchdog)
        self._core.spawn(self._run)

    def draining(self) -> None:
        self._send("STOPPING=1", *self._more_time(), *self._news())

    def ended(self) -> None:
        self._ended = True
        self._send("STATUS=stopped")

    def _run(self) -> None:
        while not self._ended:
            self._step()
            self._core.clock.sleep(self._step_seconds)

    def _step(self) -> None:
        well = self._health.healthz().status is HTTPStatus.OK
        lines = [*(self._watchdog if well else ()), *self._more_time(), *self._news()]
        if lines or self._unsent:
            self._send(*lines)

    def _send(self, *lines: str) -> None:
        """Send these lines, and what could not be sent before."""
        lines = (*self._unsent, *lines)
        sent = self._socket.send(*lines)
        self._unsent = [] if sent else [line for line in lines if line in SAID_ONCE]
        if not sent:
            self._status = ""  # the next step sends it again

    def _more_time(self) -> list[str]:
        return [f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}"] if self._core.stopping else []

    def _news(self) -> list[str]:
        """The status line, where it is another than the last one."""
        status = self._status_now()
        news = [f"STATUS={status}"] if status != self._status else []
        self._status = status
        return news

    def _status_now(self) -> str:
        if (answer := self._health.healthz()).status is not HTTPStatus.OK:
            return answer.text.partition("\n")[0]
        in_hand = sum(consumer.in_hand for consumer in self._consumers)
        outcomes = sum((consumer.books.outcomes for consumer in self._consumers), Counter[str]())
        numbers = (
            f"{in_hand:,} in hand, {outcomes['succeeded']:,} succeeded, {outcomes['dead_lettered']:,} dead-lettered"
        )
        return f"{self._health.stage.value.partition(':')[0]}: {numbers}"


def notify_socket(environ: Mapping[str, str]) -> NotifySocket | None:
    """The socket of a service of Type=notify; None where this process is none."""
    name = environ.get("NOTIFY_SOCKET", "")
    return NotifySocket(name) if name.startswith(("/", "@")) else None


def watchdog_seconds(environ: Mapping[str, str]) -> float:
    """WatchdogSec of the unit; 0.0 where it has none, or it is another process's."""
    if environ.get("WATCHDOG_PID") not in (None, "", str(os.getpid())):
        return 0.0
    return number_within(environ.get("WATCHDOG_USEC"), 1, _MAX_USEC, 0) / 1e6
