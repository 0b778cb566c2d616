"""OwnClaim: the claim of one delivery of an idempotent handler, as this worker knows it."""

from __future__ import annotations

import math
from enum import Enum

import msgspec

from millpond.claims.claim import new_token
from millpond.errors import LeaseLost
from millpond.hub.clock import Timer


class OwnClaimState(Enum):
    """How far a delivery's claim is.

    | from        | to      | when |
    |-------------|---------|------|
    |             | ASKED   | `Claiming._ask`: the store is asked; it stays so where the store does not answer |
    | ASKED       | OURS    | `Claiming._ask`: the store says Claimed |
    | OURS        | TAKEN   | `Claiming.renew`: the store says that another token has it |
    | ASKED, OURS | CLOSING | `ClaimKeeper.close`: what its outcome asks for is written at the store |

    A delivery has no claim before its first begin, where the store says anything but Claimed, and once it is closed.
    """

    ASKED = "asked"
    OURS = "ours"
    TAKEN = "taken"
    CLOSING = "closing"


ASKED, OURS, TAKEN, CLOSING = OwnClaimState


class ClaimLost(LeaseLost):
    """Another delivery has the claim by now: of the same message, or of one with the same event_id."""


class ClaimLapsed(LeaseLost):
    """The claim was not renewed in time: another delivery may have it by now."""


class OwnClaim(msgspec.Struct, eq=False):
    """The token is one claim's alone: what a write of an earlier one does late, the store refuses."""

    key: str
    digest: str
    token: str = msgspec.field(default_factory=new_token)
    state: OwnClaimState = ASKED
    until: float = math.inf  # on the clock: the store keeps it for at least as long
    is_renewing: bool = False  # a renewal is on its way, or about to be
    lapse: Timer | None = None  # rings where no renewal gets through in time

    def __repr__(self) -> str:  # gevent writes it to the log where a greenlet fails: without key and token
        return f"<OwnClaim {self.state.value}>"

    def stop_lapse(self) -> None:
        if self.lapse is not None:
            self.lapse.cancel()
            self.lapse = None
