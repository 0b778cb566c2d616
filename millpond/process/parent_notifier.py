"""ParentNotifier: what systemd learns of several workers, from their parent alone.

A worker that is replaced would say STOPPING=1, and systemd would end them all.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress

from millpond.foreign.number import number_within
from millpond.process.member import Member, MemberState

#: While workers drain, systemd is asked for this much more time, every few seconds.
DRAIN_EXTENSION_SECONDS, PARENT_LOOK_SECONDS = 60, 10.0


class ParentNotifier:
    """Sends READY=1 once all workers have been ready, STOPPING=1, a status line, and WATCHDOG=1 at half of WatchdogSec.

    A worker that hangs ends itself (max_block_seconds), so the watchdog is that of the parent.
    """

    def __init__(self, name: str, watchdog_usec: str) -> None:
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._socket: socket.socket | None = None
        if name:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        watchdog_seconds = number_within(watchdog_usec, 1, 10**15, 0) / 1e6
        self._watchdog = ["WATCHDOG=1"] if watchdog_seconds else []
        self._every = min(PARENT_LOOK_SECONDS, watchdog_seconds / 2 or PARENT_LOOK_SECONDS)
        self._is_ready = False
        self._said = ""
        self.due = 0.0  # when it is to look next

    def look(self, members: Sequence[Member], stopping: bool, now: float) -> None:
        """Send what is new, and what is due."""
        ready = sum(member.state is MemberState.READY for member in members)
        lines = [f"STATUS={ready} of {len(members)} workers are ready{', and all drain' if stopping else ''}"]
        if ready == len(members) and not self._is_ready:
            self._is_ready = True
            lines.append("READY=1")
        if stopping:
            lines += ["STOPPING=1", f"EXTEND_TIMEOUT_USEC={DRAIN_EXTENSION_SECONDS * 1_000_000}"]
        if now >= self.due or lines[0] != self._said:
            self._said, self.due = lines[0], now + self._every
            self._send(*lines, *self._watchdog)

    def ended(self) -> None:
        self._send("STATUS=stopped")
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # systemd restarts a service that is silent for too long
                self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
