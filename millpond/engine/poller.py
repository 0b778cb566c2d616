"""Pollers: permits first, then the long poll."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Protocol

from millpond.app.config import QueueSettings
from millpond.engine.ask import Asks
from millpond.engine.intake import Intake
from millpond.engine.permits import Share
from millpond.engine.poller_state import Poller, PollerState
from millpond.engine.receiving import QUIET, RECEIVING, STOPPED, Receiving
from millpond.engine.trouble import EARLY, EARLY_IN_A_ROW
from millpond.errors import QueueError, Unreachable
from millpond.hub.backoff import call_back_off_seconds
from millpond.hub.clock import Clock, Event
from millpond.hub.countdown import Countdown
from millpond.observe import log
from millpond.observe.screen import counted
from millpond.sqs.http_connection import TOO_LARGE
from millpond.sqs.queue import Queue, Received

#: A poll whose answer has not come this long after its wait is overdue.
OVERDUE_SECONDS = 1.0
#: Beside other queues a poll that expects messages waits this long, because it holds a permit for each message that it
#: asks for. A poll of a quiet queue waits four times as long, then longer. So when a busy queue falls quiet, the other
#: queues soon have its permits.
BRIEF_SECONDS = 2


class Receiver(Protocol):
    """Who the pollers receive for: the consumer. `name`: of its queue."""

    name: str

    def accept(self, messages: list[Received], latest: float, earliest: float) -> object:
        """Take what a receive brought. SQS has handed it out between these two moments."""

    def receive_failed(self, error: QueueError, in_a_row: int) -> object:
        """Report a receive that failed; `in_a_row` have failed one after another."""

    def receives_work(self) -> object:
        """Report that a receive came back as it should, after others that did not."""


class Pollers:
    """The pollers of one queue.

    1. One is at work while the queue is quiet; another joins when a receive comes back full, one leaves when it comes
       back empty. There are never more than `pollers`.
    2. A receive that fails backs off by the kind of error and never ends the process. A poller that rests or is overdue
       is not counted on: the others stay, and another takes the place of the last one.
    3. While the intake is narrow (see Intake) one poller looks now and then, for one message.
    4. After `stop` no receive begins; the open ones are left to return, for an aborted poll still takes messages.
    """

    def __init__(
        self,
        queue: Queue,
        settings: QueueSettings,
        share: Share,
        clock: Clock,
        spawn: Callable[..., Any],
        intake: Intake,
        receiver: Receiver,
    ) -> None:
        self._queue = queue
        self._settings = settings
        self._share = share
        self._clock = clock
        self._spawn = spawn
        self._receiver = receiver
        self._asks = Asks(settings.max_messages, settings.is_fifo)
        self._pollers: dict[Poller, None] = {}  # in the order in which they joined
        self._overdue: Countdown[Poller] = Countdown(settings.wait_seconds + OVERDUE_SECONDS, self._miss, clock)
        self._lost_until = -math.inf  # SQS takes messages for a poll whose connection was lost until its wait is over
        self.failures = 0  # in a row
        self._early = 0  # empty answers in a row that came long before their time
        self.receiving = Receiving(clock)
        self.intake = intake
        self.empty_in_a_row = 0
        self.empty_since = 0.0  # when the last receive that came back empty was asked for
        self.received_at = -math.inf  # when the last receive was asked for that came back
        self.ended: Event = clock.event()  # stopped, and no poller is left

    def start(self) -> None:
        poller = Poller()
        self._pollers[poller] = None
        self._spawn(self._run, poller)

    def quiet(self) -> None:
        """Begin no receive until `resume`; the open ones are left to return."""
        self.receiving.quiet()
        self._share.dismiss()

    def resume(self) -> None:
        """Receive again."""
        self.empty_in_a_row = 0  # of before: messages may have come since
        self.receiving.resume()

    def stop(self) -> None:
        self.receiving.stop()
        self.intake.stop()
        self._share.dismiss()
        if not self._pollers:
            self.ended.set()

    def abandon(self) -> None:
        """Wait for no open receive any more, after `stop`: what one still brings comes back by its time-out."""
        self.ended.set()

    @property
    def ever_received(self) -> bool:
        """Whether any receive has come back."""
        return self.received_at > -math.inf

    @property
    def open_number(self) -> int:
        """How many receives are open at SQS."""
        return sum(poller.state in (PollerState.OPEN, PollerState.OVERDUE) for poller in self._pollers)

    @property
    def active(self) -> int:
        """How many pollers there are, in whatever state."""
        return len(self._pollers)

    def open_until(self) -> float:
        """When the last open poll can still take messages; 0.0 where none is open."""
        is_open = PollerState.OPEN, PollerState.OVERDUE
        until = max([self._lost_until, *(poller.until for poller in self._pollers if poller.state in is_open)])
        return until if until > self._clock.now() else 0.0

    @property
    def is_rightly_silent(self) -> bool:
        """Whether none may begin: quiet, all permits in hand, or a narrow intake by an open breaker."""
        may_begin = self._share.polling or self._share.room() > 0
        return self.intake.is_narrow or self.receiving.state is QUIET or not may_begin

    def well_until(self, now: float) -> float:
        """Until when nothing need happen here: a receive is open, a poller rests, or none may begin (now). Where that
        is long past, a poll is due."""
        if self.is_rightly_silent:
            return now
        return max((poller.until for poller in self._pollers), default=-math.inf) + self._settings.pause_seconds

    def _run(self, poller: Poller) -> None:
        try:
            while self._step(poller):
                pass
        finally:
            del self._pollers[poller]
            if self.receiving.state is STOPPED and not self._pollers:
                self.ended.set()

    def _step(self, poller: Poller) -> bool:
        """Permits, one receive, and what it brought handed on. False: this poller leaves."""
        if not self.receiving.may_begin():
            return False
        narrow = self.intake.is_narrow
        if narrow:
            if self._at_work() > 1:
                return False
            if not self.intake.wait_for_look():
                return self.receiving.state is not STOPPED
        quiet = not (self._asks.brought or self._share.alone)
        permits = self._acquire(quiet, narrow)
        if permits == 0:
            return self.receiving.state is not STOPPED
        started, wait_seconds = self._clock.now(), self._wait_seconds(quiet)
        answer = self._receive(poller, permits, wait_seconds)
        if isinstance(answer, QueueError):
            self._share.polled(permits, 0, quiet)
            return self._failed(poller, answer)
        got = len(answer)
        if log.is_debug:
            self._log_receive(permits, got, started)
        if self._share.bytes.mean or (got and answer[0].size):  # before the permits go back: others wait for both
            self._share.bytes.add(answer)
        self._share.polled(permits, got, quiet)
        if self.failures:
            self.failures = 0
            self._receiver.receives_work()
        self.received_at = started
        self._receiver.accept(answer, started + wait_seconds, started)
        if narrow:
            self.intake.looked(got)
        return self._after(poller, permits, got, started, wait_seconds)

    def _acquire(self, quiet: bool, narrow: bool) -> int:
        if self.receiving.state is not RECEIVING:
            return 0
        number = 1 if narrow else self._asks.number(self._share.alone, self._clock.now())
        permits = self._share.acquire(number, self.empty_in_a_row == 0, quiet)
        if permits and self.receiving.state is not RECEIVING:
            self._share.polled(permits, 0, quiet)
            return 0
        return permits

    def _wait_seconds(self, quiet: bool) -> int:
        longest = self._settings.wait_seconds
        if self._share.alone:
            return longest
        seconds = min(longest, BRIEF_SECONDS << 2 * min(self.empty_in_a_row, 2))
        return self._share.permits.look_seconds(seconds) if quiet else seconds

    def _receive(self, poller: Poller, permits: int, wait_seconds: int) -> list[Received] | QueueError:
        started = self._clock.now()
        ask = self._asks.make(permits, started)
        poller.state, poller.until = PollerState.OPEN, started + wait_seconds
        self._overdue.add(poller)
        try:
            return self._queue.receive(ask.number, wait_seconds, self._settings.visibility_seconds, ask.attempt_id)
        except QueueError as error:
            self._asks.fail(ask, permits, error, started)
            return error
        finally:
            poller.state = PollerState.WAITING
            self._overdue.remove(poller)

    def _log_receive(self, asked: int, got: int, started: float) -> None:
        seconds = round(self._clock.now() - started, 3)
        text = f"a receive of {asked} brought {got} in {seconds:g} s; {counted(self.active, 'poller')}"
        log.event(logging.DEBUG, "poll.done", text, queue=self._receiver.name, asked=asked, got=got, seconds=seconds)

    def _miss(self, poller: Poller) -> None:
        """In the hub: this poller is overdue. Where no other is at work one more joins, or nobody would receive."""
        poller.state = PollerState.OVERDUE
        may_join = len(self._pollers) < self._settings.pollers and self.receiving.state is not STOPPED
        if may_join and self._at_work() == 0:
            self.start()

    def _at_work(self) -> int:
        """Pollers to count on; none leaves where it is the only one of these."""
        return sum(poller.state in (PollerState.WAITING, PollerState.OPEN) for poller in self._pollers)

    def _failed(self, poller: Poller, error: QueueError) -> bool:
        self.failures += 1
        if isinstance(error, Unreachable) and error.code != TOO_LARGE:  # then SQS has answered: nothing is open there
            self._lost_until = max(self._lost_until, poller.until)
        self._receiver.receive_failed(error, self.failures)
        return self._back_off(poller, call_back_off_seconds(self.failures, error))

    def _back_off(self, poller: Poller, seconds: float) -> bool:
        """In an outage one poller alone asks: another that rests, and will be back sooner, is enough."""
        until = self._clock.now() + seconds
        if any(other.state is PollerState.RESTING and other.until <= until for other in self._pollers):
            return False
        self._rest(poller, seconds)
        return self._at_work() == 1 and self.receiving.state is not STOPPED

    def _rest(self, poller: Poller, seconds: float) -> None:
        poller.state, poller.until = PollerState.RESTING, self._clock.now() + seconds
        self.receiving.rest(seconds)
        poller.state = PollerState.WAITING

    def _after(self, poller: Poller, asked: int, got: int, started: float, wait_seconds: int) -> bool:
        self._asks.brought = got
        self.empty_in_a_row = 0 if got else self.empty_in_a_row + 1
        self.empty_since = 0.0 if got else started
        if got == asked and not self.intake.is_narrow and self._is_one_too_few():
            self.start()
        if got and self._early:
            self._end_early()
        if self._settings.pause_seconds:  # the gap between two polls
            self.receiving.rest(self._settings.pause_seconds)
        return self._after_empty(poller, started, wait_seconds) if got == 0 else self.receiving.state is not STOPPED

    def _is_one_too_few(self) -> bool:
        """The last receive came back full: another poller would have permits, and no larger receive would do."""
        alone = self._share.alone
        grown = alone or self._asks.is_at_most(alone, self._clock.now())
        return grown and len(self._pollers) < self._settings.pollers and self._share.room() > 0

    def _after_empty(self, poller: Poller, started: float, wait_seconds: int) -> bool:
        """A long poll that comes back empty long before its time (SQS at its in-flight limit, a proxy's error page)
        must not become a hot loop."""
        if self._at_work() > 1:
            return False
        if self._clock.now() - started >= wait_seconds / 2:
            self._end_early()
            return self.receiving.state is not STOPPED
        self._early += 1
        if self._early >= EARLY_IN_A_ROW:
            self._receiver.receive_failed(EARLY, self._early)
        self._rest(poller, call_back_off_seconds(self._early, None))
        return self.receiving.state is not STOPPED

    def _end_early(self) -> None:
        if self._early >= EARLY_IN_A_ROW:
            self._receiver.receives_work()
        self._early = 0
