"""Follower: who follows the life of a process, and tells the platform of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from millpond.engine.consumer import Consumer


class Follower(Protocol):
    """What stands between a process and its platform; each call must return at once."""

    def ready(self, consumers: Sequence[Consumer]) -> object:
        """The worker receives from these queues; not called where a signal came before."""

    def draining(self) -> object:
        """The drain begins."""

    def ended(self) -> object:
        """Nothing is in hand any more, or nothing more can be done; the exit follows."""
