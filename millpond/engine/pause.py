"""Pause: whether a queue receives after a handler said Unavailable."""

from __future__ import annotations

import logging
import math
from enum import Enum, auto

from millpond.engine.delivery import Delivery
from millpond.engine.outcomes import DONE
from millpond.engine.permits import Share
from millpond.hub.clock import Clock, Event
from millpond.message import Outcome
from millpond.observe import log

#: Outcomes of a handler that ran, and did not say Unavailable.
GOT_THROUGH = DONE | {"retried"}
#: While nothing gets through the pauses grow up to this.
MAX_PAUSE_SECONDS = 60.0


class PauseState(Enum):
    """See the table of Pause."""

    RECEIVING = auto()
    PAUSED = auto()
    PROBING = auto()


class Pause:
    """The pause of one queue.

    | from | to | when |
    |---|---|---|
    | RECEIVING | PAUSED | a handler says Unavailable (`begin`) |
    | PAUSED | PAUSED | another one says it (`begin`): the later end counts |
    | PAUSED | PROBING | its time is over: one message at a time is received, the probe |
    | PROBING | PAUSED | a handler says Unavailable again (`begin`): the least time doubles, from 1 s to 60 s |
    | PROBING | RECEIVING | a message that began after the pause got through (`end`) |
    """

    def __init__(self, queue: str, share: Share, clock: Clock) -> None:
        self.is_on = False  # PAUSED or PROBING: an attribute, since it is looked at for each message
        self._queue = queue
        self._share = share
        self._until = -math.inf
        self._least_seconds: float  # while it is on: the longer the more probes have not got through
        self._in_hand_probed = False  # the last probe was a message in hand
        self._clock = clock
        self._probe_over: Event = clock.event()

    @property
    def state(self) -> PauseState:
        if not self.is_on:
            return PauseState.RECEIVING
        return PauseState.PAUSED if self.seconds_left() else PauseState.PROBING

    def seconds_left(self) -> float:
        """Seconds until a probe may begin."""
        return max(0.0, self._until - self._clock.now())

    def notice(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Learn from how a delivery ended. True: it got through, and the pause is over."""
        if outcome.cause == "unavailable":
            if not self.is_on:
                why, seconds = outcome.reason or "Unavailable", outcome.delay_seconds
                text = f"{why}: no receive begins for {seconds} s, then one message at a time"
                log.event(logging.WARNING, "queue.paused", text, queue=self._queue)
            self.begin(outcome.delay_seconds)
        elif self.is_on:
            if self._got_through(delivery, outcome):
                log.event(logging.INFO, "queue.resumed", "a message got through", queue=self._queue)
                self.end()
                return True
            self.end_probe()
        return False

    def _got_through(self, delivery: Delivery, outcome: Outcome) -> bool:
        """What began before the pause was over, messages of other types among them, shows nothing."""
        said = delivery.started and outcome.cause != "undecodable" and outcome.name in GOT_THROUGH
        return bool(said) and delivery.started >= self._until

    def begin(self, seconds: float) -> None:
        """Receive nothing for these seconds, and for longer where probes have failed already."""
        match self.state:
            case PauseState.RECEIVING:
                self._least_seconds = 1.0
            case PauseState.PROBING:
                self._least_seconds = min(MAX_PAUSE_SECONDS, 2 * self._least_seconds)
        self.is_on = True
        self._until = max(self._until, self._clock.now() + max(seconds, self._least_seconds))
        self.end_probe()
        self.wake_pollers()

    def end(self) -> None:
        """Receive as before: a probe got through."""
        self.is_on = self._in_hand_probed = False
        self.end_probe()

    def wake_pollers(self) -> None:
        """Let pollers that wait for permits look again: they know nothing of the pause, or of a message in hand."""
        self._share.dismiss()

    # The probe: one message at a time

    def is_queues_turn(self) -> bool:
        """Whether the next probe is received from the queue, and not one in hand.

        They take turns, because a message of the queue may be of another type, and get through. Where all permits are
        with messages in hand, the probe is one of these.
        """
        is_turn = self._in_hand_probed and self._share.room() > 0
        self._in_hand_probed = False
        return is_turn

    def begin_probe(self, in_hand: bool = False) -> None:
        """Let the next probe wait until this one has ended."""
        self._in_hand_probed = in_hand
        self._probe_over.clear()

    def end_probe(self) -> None:
        """Let the next probe begin: this one has ended, whatever it has shown."""
        self._probe_over.set()

    def wait_for_probe(self, seconds: float) -> None:
        """Wait until the probe has ended, these seconds at the most."""
        self._probe_over.wait(seconds)
