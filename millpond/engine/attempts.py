"""Attempts: how often a message has failed, as far as it is known, in numbers and in words."""

from __future__ import annotations

import msgspec

from millpond.observe.screen import counted


class Attempts(msgspec.Struct, frozen=True):
    """The attempts of a message at one of its failures, which is counted in.

    SQS counts receives. How often it failed is known where its claims count that, or where this worker saw every
    receive; else it may have failed in other workers, or been given back by them.
    """

    received: int
    seen: int = 1  # failures that this worker saw
    spared: int = 0  # receives that were no failure, as far as this worker knows
    known: int | None = None  # failures, where its claims count them
    max_attempts: int = 1

    @property
    def failures(self) -> int | None:
        """How often it has failed; None where that is not known."""
        if self.known is not None:
            return self.known
        return self.seen if self.seen + self.spared == self.received else None

    @property
    def used(self) -> int:
        """How many attempts it has used up: its failures, or else the receives that may have been one."""
        return self.received - self.spared if self.known is None else self.known

    def __str__(self) -> str:
        received, failures = f"received {counted(self.received, 'time')}", self.failures
        if failures is None:
            were = "was" if self.spared == 1 else "were"
            spared = f", {self.spared} of which {were} no failure" if self.spared else ""
            return f"{received}{spared}; this worker saw {counted(self.seen, 'failure')}"
        failed = f"failed {counted(failures, 'time')}"
        return failed if failures == self.received else f"{failed}, {received}"
