"""LastReceive: what is not given back, since its queue would redrive it without a word."""

from __future__ import annotations

import logging
import math

import msgspec

from millpond.engine.delivery import Delivery
from millpond.engine.groups import BEHIND_FAILED
from millpond.engine.hold import Hold
from millpond.engine.outcomes import FAILURES, attempts_of, joined
from millpond.hub.clock import Clock
from millpond.message import Outcome
from millpond.observe import log

#: What goes on is logged this often.
LOG_SECONDS = 60.0
#: Causes with which a message does not stay in hand: it failed, it cannot be held, or no thread was free for it. In the
#: last case it has waited already. (BEHIND_FAILED does not stay either: while this worker holds it, SQS gives nobody
#: the failed message before it in its group.)
NOT_KEPT = FAILURES | {"no_room", "no_thread"}


class LastReceive:
    """Messages at the last receive that maxReceiveCount permits: none is given back.

    1. What came before its time, or is put off without a failure, is held until its time has come.
    2. What cannot stay is a dead letter that says why, where there is a dead-letter queue.
    """

    def __init__(self, queue: str, hold: Hold, clock: Clock) -> None:
        self.max_receive_count = 0  # 0: there is none, or it is not known yet
        self._queue = queue
        self._hold = hold
        self._clock = clock
        self._logged_at = -math.inf

    def includes(self, delivery: Delivery) -> bool:
        """SQS delivers it no more: at the next receive it moves it to the dead-letter queue, without a reason."""
        return 0 < self.max_receive_count <= delivery.received.receive_count

    def keep(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Keep in hand what did not fail. False: it cannot stay."""
        if outcome.cause in NOT_KEPT or outcome is BEHIND_FAILED:
            return False
        if not self._hold.wait(delivery, outcome.delay_seconds):
            return False
        self._log_kept()
        return True

    def dead_letter(self, delivery: Delivery, outcome: Outcome, has_dead_letters: bool) -> Outcome:
        """A dead letter with its reason, before SQS makes one without; the same reason where none can be sent."""
        reason, reached = outcome.reason or outcome.cause, f"maxReceiveCount = {self.max_receive_count} is reached"
        if (attempts := attempts_of(delivery, outcome)) is not None:
            reason, reached = outcome.reason, f"{attempts}; {reached}, before max_attempts = {attempts.max_attempts}"
        outcome = msgspec.structs.replace(outcome, reason=joined(reason, f"{reached}: raise it"))
        return msgspec.structs.replace(outcome, name="dead_lettered") if has_dead_letters else outcome

    def _log_kept(self) -> None:
        """At once, and each minute in which there is one more."""
        if (now := self._clock.now()) < self._logged_at + LOG_SECONDS:
            return
        self._logged_at = now
        number = self._hold.number
        stay = "1 message stays in hand until it" if number == 1 else f"{number} messages stay in hand until they"
        text = f"maxReceiveCount = {self.max_receive_count} is reached: {stay} can run; raise maxReceiveCount"
        log.event(logging.WARNING, "queue.kept", text, queue=self._queue)
