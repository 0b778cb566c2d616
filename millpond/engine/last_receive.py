"""LastReceive: what is not given back, since its queue would redrive it without a word."""

from __future__ import annotations

import logging
import math

import msgspec

from millpond.app.config import QueueSettings
from millpond.engine.delivery import Delivery, DeliveryKeeper
from millpond.engine.groups import BEHIND_FAILED
from millpond.engine.outcomes import FAILURES, joined
from millpond.engine.pause import Pause
from millpond.hub.clock import Clock, Timer
from millpond.message import Outcome
from millpond.observe import log

#: What goes on is logged this often.
LOG_SECONDS = 60.0
#: Causes with which a message does not stay in hand: it failed, or no thread was free for it. In the second case it has
#: waited already, and others need its permit. (BEHIND_FAILED does not stay either: while this worker holds it, SQS
#: gives nobody the failed message before it in its group.)
NOT_KEPT = FAILURES | {"no_thread"}
SERVER_DOWN = Outcome("released", reason="a server that its queue needs was down")


class LastReceive:
    """Messages at the last receive that maxReceiveCount permits: none is given back.

    1. What came before its time waits in hand, and runs again then.
    2. What waits for a server that is down stands in line: one after another is the probe (`next`). One that cannot be
       held until its turn comes is given up.
    3. What cannot stay is a dead letter that says why, where there is a dead-letter queue.

    The leases are held meanwhile, by their own heartbeats.
    """

    def __init__(self, queue: str, settings: QueueSettings, pause: Pause, clock: Clock, owner: DeliveryKeeper) -> None:
        self.max_receive_count = 0  # 0: there is none, or it is not known yet
        self._queue = queue
        # Begun later, it could not be held for a whole visibility time-out.
        self._hold_seconds = settings.max_hold_seconds - settings.visibility_seconds
        self._pause = pause
        self._clock = clock
        self._owner = owner
        self._waiting: dict[Delivery, Timer] = {}
        self._line: dict[Delivery, Timer] = {}  # in its order
        self._logged_at = -math.inf

    def includes(self, delivery: Delivery) -> bool:
        """SQS delivers it no more: at the next receive it moves it to the dead-letter queue, without a reason."""
        return 0 < self.max_receive_count <= delivery.received.receive_count

    def keep(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Keep in hand what did not fail. False: it cannot stay."""
        is_down, now = outcome.cause == "unavailable", self._clock.now()
        seconds = self._pause.seconds_left() if is_down else outcome.delay_seconds
        if outcome.cause in NOT_KEPT or outcome is BEHIND_FAILED or delivery.lease.is_lost(now):
            return False
        if now + seconds >= self._held_until(delivery):
            return False
        if is_down:
            self.stand_in_line(delivery, outcome)
        else:
            self._wait(delivery, seconds)
        self._log_kept()
        return True

    def dead_letter(self, delivery: Delivery, outcome: Outcome, has_dead_letters: bool) -> Outcome:
        """A dead letter with its reason, before SQS makes one without; the same reason where none can be sent."""
        reason, reached = outcome.reason or outcome.cause, f"maxReceiveCount = {self.max_receive_count} is reached"
        if (attempts := delivery.attempts) is not None:
            reason, reached = outcome.reason, f"{attempts}; {reached}, before max_attempts = {attempts.max_attempts}"
        outcome = msgspec.structs.replace(outcome, reason=joined(reason, f"{reached}: raise it"))
        return msgspec.structs.replace(outcome, name="dead_lettered") if has_dead_letters else outcome

    def stand_in_line(self, delivery: Delivery, outcome: Outcome = SERVER_DOWN) -> None:
        """Wait for its turn as the probe. `outcome`: where that comes too late."""
        late = msgspec.structs.replace(outcome, name="released", cause="")

        def give_up() -> None:
            del self._line[delivery]
            self._owner.end_soon(delivery, late)

        self._line[delivery] = self._clock.timer(self._held_until(delivery) - self._clock.now(), give_up)
        self._pause.wake_pollers()

    def next(self) -> Delivery | None:
        if not self._line:
            return None
        delivery = next(iter(self._line))
        self._line.pop(delivery).cancel()
        return delivery

    def end_line(self) -> None:
        """The server is back: the time of all in line has come."""
        while (delivery := self.next()) is not None:
            self._wait(delivery, 0.0)

    def take_all(self) -> list[Delivery]:
        timers = self._waiting | self._line
        for timer in timers.values():
            timer.cancel()
        self._waiting.clear()
        self._line.clear()
        return list(timers)

    def _held_until(self, delivery: Delivery) -> float:
        return delivery.lease.held_since + self._hold_seconds

    def _wait(self, delivery: Delivery, seconds: float) -> None:
        def run_again() -> None:
            del self._waiting[delivery]
            self._owner.run_again(delivery)

        self._waiting[delivery] = self._clock.timer(seconds, run_again)

    def _log_kept(self) -> None:
        """At once, and each minute in which there is one more."""
        if (now := self._clock.now()) < self._logged_at + LOG_SECONDS:
            return
        self._logged_at = now
        number = len(self._waiting) + len(self._line)
        stay = "1 message stays in hand until it" if number == 1 else f"{number} messages stay in hand until they"
        text = f"maxReceiveCount = {self.max_receive_count} is reached: {stay} can run; raise maxReceiveCount"
        log.event(logging.WARNING, "queue.kept", text, queue=self._queue)
