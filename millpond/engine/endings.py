"""Endings: from the outcome of a delivery to its settling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millpond.engine.delivery import SETTLING, Delivery
from millpond.engine.groups import Groups
from millpond.engine.held_back import WORKING, HeldBack
from millpond.engine.in_hand import InHand
from millpond.engine.last_receive import LastReceive
from millpond.engine.outcomes import DONE, GIVEN_BACK, SUCCEEDED
from millpond.engine.pause import Pause
from millpond.engine.permits import Share
from millpond.engine.settler import Settler
from millpond.hub.clock import Clock
from millpond.message import Outcome


class Endings:
    """Each delivery ends once; what ends in one turn of the hub is settled together.

    The permits come back when the outcomes are queued, not before, and only while settling keeps up (released at once,
    2,950 messages were held instead of 20).
    """

    def __init__(
        self,
        settler: Settler,
        hand: InHand,
        share: Share,
        *,
        pause: Pause,
        last_receive: LastReceive,
        held_back: HeldBack,
        groups: Groups | None,
        clock: Clock,
        spawn: Callable[..., Any],
    ) -> None:
        self._settler = settler
        self._hand = hand
        self._share = share
        self._pause = pause
        self._last_receive = last_receive
        self._held_back = held_back
        self._groups = groups
        self._clock = clock
        self._spawn = spawn
        self._ended = 0  # deliveries with an outcome, in this turn of the hub
        self._succeeded: list[Delivery] = []  # of these
        self._owed = 0  # permits that wait until what is to be settled falls below the limit

    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        """Queue its outcome for settling; at its last receive it may stay in hand instead. Never blocks."""
        if delivery.state is SETTLING:
            return
        if outcome is not SUCCEEDED or self._pause.is_on:
            if self._pause.notice(delivery, outcome):
                self._last_receive.end_line()
            if outcome.name in GIVEN_BACK and self._last_receive.includes(delivery):
                if self._held_back.phase is WORKING and self._last_receive.keep(delivery, outcome):
                    return
                outcome = self._last_receive.dead_letter(outcome, self._settler.sender.dead_letters is not None)
            if self._groups is not None and outcome.name not in DONE:
                self._groups.fail(delivery)
        delivery.state = SETTLING
        if outcome is SUCCEEDED:
            self._succeeded.append(delivery)
        else:
            self._settler.settle([delivery], outcome)
        self._ended += 1
        if self._ended == 1:
            self._clock.soon(self._settle_swarm)

    def end_soon(self, delivery: Delivery, outcome: Outcome) -> None:
        """End it from another greenlet: this one may be in the middle of its group, or in its handler."""
        self._spawn(self.end, delivery, outcome)

    def _settle_swarm(self) -> None:
        """Handlers end in swarms, as they began: what succeeded in one turn of the hub is settled together, and the
        permits of all come back together."""
        self._owed += self._ended
        self._ended = 0
        succeeded, self._succeeded = self._succeeded, []
        try:
            if succeeded:
                self._settler.settle(succeeded, SUCCEEDED)
            self.release_permits()
        except BaseException as error:  # in the hub nobody would learn of it, and leases would be kept for nothing
            self._spawn(_fail, error)

    def release_permits(self) -> None:
        """Give permits back while there is room for what their messages will have to settle.

        Where all that is in hand waits for its delete no handler runs: no delete is going to join those.
        """
        if self._owed and not self._settler.is_full:
            owed, self._owed = self._owed, 0
            self._share.release(owed)
        if self._settler.deletes.count == self._hand.number:
            self._settler.deletes.flush()


def _fail(error: BaseException) -> None:
    raise error
