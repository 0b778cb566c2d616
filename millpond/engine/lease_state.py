"""LeaseState: whose a message is, and how that changes."""

from __future__ import annotations

from enum import Enum


class LeaseState(Enum):
    """Whose a message is. Each transition happens in one method, in the hub's thread.

    | from                 | to          | when |
    |----------------------|-------------|------|
    |                      | HELD        | `LeaseKeeper.take`: a receive has brought the message |
    | HELD                 | DELETING    | `Lease.withhold`: the delete goes |
    | DELETING             | HELD        | `Lease._hold_on`: that delete failed, or must wait |
    | HELD, DELETING       | LOST        | `Lease._lose`: the deadline passed, or SQS says that it is lost |
    | HELD, DELETING, LOST | HELD        | `Lease.redelivered`: SQS delivered the message again, to us |
    | HELD                 | LETTING_GO  | `Lease.let_go`: its visibility changes for the last time, now or later |
    | any                  | ENDED       | `end_all`: SQS has confirmed, or nobody tries any more |

    A lost lease stays LOST while its delete is on its way: a late delete can still save a duplicate.
    """

    HELD = "held"
    DELETING = "deleting"
    LOST = "lost"
    LETTING_GO = "letting go"
    ENDED = "ended"


HELD, DELETING, LOST, LETTING_GO, ENDED = LeaseState
#: A message that is delivered again now is another delivery, with a lease of its own.
LEAVING = frozenset({LETTING_GO, ENDED})
