"""LeaseKeeper: the leases of one queue, and the calls in which their changes travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from millpond.app.config import QueueSettings
from millpond.engine.lease import LIMIT_SECONDS, Change, Lease, LeaseOwner, LeaseTerms, end_all
from millpond.engine.lease_state import LETTING_GO
from millpond.engine.trouble import Trouble, is_denied, log_call
from millpond.hub.clock import Clock
from millpond.hub.countdown import Countdown
from millpond.observe import log
from millpond.sqs.batcher import Batcher
from millpond.sqs.entries import results_of
from millpond.sqs.limits import lease_seconds
from millpond.sqs.queue import Failure, Queue

#: In a drain, what is denied is tried for this long.
DENIED_SECONDS = 3.0
#: Changes linger this long to travel ten to a call; with beats at a third of the visibility time-out there is time.
BEAT_LINGER_SECONDS = 0.05
#: Calls of one kind under way at once: at 50 ms a round trip enough for 3,200 messages a second.
FLUSHERS = 16


class LeaseKeeper:
    """The leases of one queue: their visibility time-out and beat, and the calls in which changes travel."""

    def __init__(
        self,
        name: str,
        settings: QueueSettings,
        queue: Queue,
        max_waiting: int,
        owner: LeaseOwner,
        clock: Clock,
        spawn: Callable[..., Any],
    ) -> None:
        self.changes: Batcher[Change] = Batcher(
            self._send,
            clock,
            spawn,
            linger_seconds=BEAT_LINGER_SECONDS,
            flushers=FLUSHERS,
            max_waiting=max_waiting,
            on_room=owner.has_room,
        )
        self.terms = LeaseTerms(
            owner,
            clock,
            spawn,
            settings.visibility_seconds,
            lease_seconds(settings.visibility_seconds),
            settings.beat_seconds,
            min(settings.max_hold_seconds, LIMIT_SECONDS),
            Countdown(settings.beat_seconds, Lease.start_beating, clock),
            self.changes,
        )
        self._clock = clock
        self._name = name
        self._queue = queue
        self._trouble = Trouble("sqs:ChangeMessageVisibility", name, clock)
        self._drain_began: float | None = None

    def take(self, item: Any, handle: str, since: float, receive_count: int = 1) -> Lease:
        """The lease of a message (`item`) that SQS delivered at `since`; it beats from `begin` on."""
        terms = self.terms
        return Lease(terms, item, handle, since, since + terms.lease_seconds, receive_count)

    def begin(self, leases: Sequence[Lease], since: float) -> None:
        """The first beat is due beat_seconds from now; at once where the messages were delivered long ago."""
        if since + self.terms.beat_seconds > self._clock.now():
            self.terms.before_first_beat.add_all(leases)
            return
        for lease in leases:
            lease.start_beating()

    def end(self, leases: Sequence[Lease]) -> list[Any]:
        """Their messages are settled, or given up: nothing more is sent. Gives the items of those that were lost."""
        self.terms.before_first_beat.remove_all(leases)
        return end_all(leases)

    def hurry(self) -> None:
        """Let nothing linger from now on, and give up soon what is denied: the drain has begun."""
        self._drain_began = self._clock.now()
        self.changes.hurry()

    def _send(self, changes: list[Change]) -> list[Change]:
        """Make one call. Gives the changes to send again: those that failed, and those whose lease is marked."""
        marked = [change for change in changes if change.lease.marked]
        sent = [(change, call) for change in changes if change not in marked and (call := change.take()) is not None]
        if not sent:
            return marked
        started = self._clock.now()
        results = results_of(self._queue.change_visibility, [call for _, call in sent])
        if log.is_debug:
            failed, seconds = len(results) - results.count(None), self._clock.now() - started
            log_call(self._name, "change of visibility", failed, len(results), seconds)
        if self._trouble.since or any(results):
            self._trouble.read(self._queue.url, results, started, self.changes.count)
        return marked + [
            change
            for (change, call), failure in zip(sent, results, strict=True)
            if change.answered(*call, started, failure) and not self._gives_up(change.lease, failure)
        ]

    def _gives_up(self, lease: Lease, failure: Failure | None) -> bool:
        """Whether a let-go that failed is not tried again: its message comes back with its visibility time-out."""
        if lease.state is not LETTING_GO or failure is None:
            return False
        now = self._clock.now()
        hopeless = is_denied(failure) and self._drain_began is not None and now - self._drain_began >= DENIED_SECONDS
        if hopeless or now >= lease.deadline:
            lease.end_letting_go(failure)
            return True
        return False
