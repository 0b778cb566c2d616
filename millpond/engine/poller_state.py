"""Poller: one of the pollers of a queue, and how far its receive is."""

from __future__ import annotations

from enum import Enum, auto

import msgspec


class PollerState(Enum):
    """See the table of Poller."""

    WAITING = auto()
    OPEN = auto()
    OVERDUE = auto()
    RESTING = auto()


class Poller(msgspec.Struct, eq=False):
    """A greenlet that makes one receive after another.

    | from | to | when |
    |---|---|---|
    | WAITING (for permits, for a look) | OPEN | it has permits, and its receive begins |
    | OPEN | OVERDUE | SQS has not answered in time: another poller takes its place |
    | OPEN, OVERDUE | WAITING | SQS has answered, or the call has failed |
    | WAITING | RESTING | that failed, or was empty long before its time: it backs off |
    | RESTING | WAITING | its time is over |

    It leaves from WAITING or RESTING: where others are enough, and after `Pollers.stop`.
    """

    state: PollerState = PollerState.WAITING
    until: float = 0.0  # OPEN, OVERDUE: the end of its wait; RESTING: of its rest
