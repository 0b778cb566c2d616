"""Endings: from the outcome of a delivery to its settling."""

from __future__ import annotations

from collections.abc import Callable

from millpond.engine.books import Books
from millpond.engine.delivery import Delivery, DeliveryKeeper
from millpond.engine.delivery_state import ON_HOLD, SETTLING
from millpond.engine.gate import IN_LINE
from millpond.engine.groups import Groups
from millpond.engine.held_back import HeldBack
from millpond.engine.hold import Hold
from millpond.engine.in_hand import InHand
from millpond.engine.last_receive import LastReceive
from millpond.engine.outcomes import DONE, LOST_ON_HOLD, NOT_STARTED, SUCCEEDED, VISIBLE_AGAIN
from millpond.engine.permits import Share
from millpond.engine.settler import Settler, SettlerOwner
from millpond.hub.clock import Clock
from millpond.message import Outcome


class Endings(SettlerOwner):
    """Each delivery ends once; what ends in one turn of the hub is settled together.

    The permits come back when the outcomes are queued, not before, and only while settling keeps up (released at once,
    2,950 messages were held instead of 20).
    """

    def __init__(
        self,
        settler: Callable[[SettlerOwner], Settler],
        owner: DeliveryKeeper,
        books: Books,
        share: Share,
        hold: Hold,
        last_receive: LastReceive,
        held_back: HeldBack,
        groups: Groups | None,
        clock: Clock,
        on_settled: Callable[[list[Delivery]], object] | None = None,
    ) -> None:
        self.settler = settler(self)
        self.hand = InHand(owner, self.settler.leases, books, share, clock)
        self._owner = owner
        self._books = books
        self._share = share
        self._hold = hold
        self._last_receive = last_receive
        self._held_back = held_back
        self._groups = groups
        self._clock = clock
        self._on_settled = on_settled
        self._ended = 0  # deliveries with an outcome, in this turn of the hub
        self._succeeded: list[Delivery] = []  # of these
        self._owed = 0  # permits that wait until what is to be settled falls below the limit

    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        """Queue its outcome for settling; it may be held instead. Never blocks."""
        if delivery.state is SETTLING:
            return
        if outcome is SUCCEEDED:
            if delivery.desk.gate.watches:
                delivery.desk.gate.succeeded(delivery)
        else:
            decided = self._decide(delivery, outcome)
            if decided is None:
                return
            outcome = decided
        delivery.state = SETTLING
        if outcome is SUCCEEDED:
            self._succeeded.append(delivery)
        else:
            self.settler.settle([delivery], outcome)
        self._ended += 1
        if self._ended == 1:
            self._clock.soon(self._settle_swarm)

    def _decide(self, delivery: Delivery, outcome: Outcome) -> Outcome | None:
        """What is to be settled; None where the delivery is held, or held back."""
        if outcome is IN_LINE:
            return None
        if delivery.state is ON_HOLD:
            if outcome is LOST_ON_HOLD and not delivery.lease.is_lost(self._clock.now()):
                return None  # SQS has given it to us again
            self._hold.take(delivery)
        elif outcome is LOST_ON_HOLD:
            return None  # its time has come in the same moment: the slot that takes it sees the loss
        desk = delivery.desk
        if desk is not None and (desk.gate.watches or outcome.name != "succeeded"):
            outcome = desk.gate.ended(delivery, outcome)
        if outcome is NOT_STARTED:
            self._held_back.add(delivery)
            return None
        if outcome is IN_LINE or self._waits(delivery, outcome):
            return None
        if outcome.name in VISIBLE_AGAIN and self._last_receive.includes(delivery):
            has_place = self.settler.sender.dead_letters is not None
            outcome = self._last_receive.dead_letter(delivery, outcome, has_place)
        if self._groups is not None and outcome.name not in DONE:
            self._groups.fail(delivery)
        return outcome

    def _waits(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Whether it is held until its own time has come."""
        asked = outcome.asked_seconds
        seconds = outcome.delay_seconds if asked is None else asked
        if outcome.cause == "waiting" and self._hold.wait(delivery, seconds):
            return True
        is_last = outcome.name in VISIBLE_AGAIN and self._last_receive.includes(delivery)
        return is_last and self._last_receive.keep(delivery, outcome)

    def lost_while_held(self, delivery: Delivery) -> None:
        """It may be another worker's now: it does not begin."""
        self._owner.end_soon(delivery, LOST_ON_HOLD)

    def _settle_swarm(self) -> None:
        """Handlers end in swarms, as they began: what succeeded in one turn of the hub is settled together, and the
        permits of all come back together."""
        self._owed += self._ended
        self._ended = 0
        succeeded, self._succeeded = self._succeeded, []
        if succeeded:
            self.settler.settle(succeeded, SUCCEEDED)
        self.has_room()

    def has_room(self) -> None:
        """Give permits back while there is room for what their messages will have to settle.

        Where every message in hand waits for its delete, no handler runs, and no further delete will come: they go now.
        """
        if self._owed and not self.settler.is_full:
            owed, self._owed = self._owed, 0
            self._share.release(owed)
        if self.settler.deletes.count == self.hand.number:
            self.settler.deletes.flush()

    # Settled

    def finished(self, deliveries: list[Delivery]) -> None:
        self._books.finish(deliveries)
        if self._groups is not None:
            for delivery in deliveries:
                (self._groups.leave if delivery.outcome.name in DONE else self._groups.fail)(delivery)
        self.hand.finish(deliveries)
        if self._on_settled is not None:
            self._on_settled(deliveries)

    def abandoned(self, delivery: Delivery, error: str) -> None:
        self._books.abandon(delivery, error)
        if self._groups is not None:
            self._groups.fail(delivery)
        self.hand.abandon(delivery)
