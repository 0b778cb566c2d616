"""Service: one process, from the first poll to the exit code."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gevent

from millpond.engine.consumer import Consumer
from millpond.engine.delivery import Delivery
from millpond.errors import CRASHED, LEFT, MISCONFIGURED, STOPPED, AccessDenied, QueueError, QueueMissing, Stopped
from millpond.foreign.number import number_within
from millpond.foreign.trace import describe, traceback_of
from millpond.hub.clock import Clock, Event
from millpond.hub.pool import Pool, watch
from millpond.hub.pulse import Pulse
from millpond.hub.signals import ExitSignals
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.observe.screen import counted
from millpond.process.watchdog import Watchdog

#: The end of drain_seconds that is kept for giving back what was interrupted: a fifth, 3 s at the most.
RESERVE_SHARE, MAX_RESERVE_SECONDS = 0.2, 3.0
PROGRESS_SECONDS = 30.0
#: How often the watchdog's counts are read, and its keys renewed.
KEEP_SECONDS = 10.0
#: A second Ctrl-C counts from here on: terminals and wrappers send the first one twice.
SECOND_SIGNAL_SECONDS = 0.5
#: teardown() has so long at the most.
TEARDOWN_SECONDS = 10.0
#: SQS's counts lag behind: what they say is left is asked for again so often.
LEFT_CHECKS, LEFT_CHECK_SECONDS = 3, 0.5
#: More than that in one queue is no number of messages.
MAX_MESSAGES = 10**15
#: A boot that a signal ends has so long to let go of what it waits for.
LET_GO_SECONDS = 1.0
#: What has not come to its end so long after the drain's is ended by force: platforms kill 5 s after it.
GRACE_SECONDS = 1.0
#: A queue that is refused is told of this often.
TELL_SECONDS = 60.0
#: Two long polls that come back empty: only then --until-empty believes it.
EMPTY_POLLS = 2


def reserve_seconds(drain_seconds: float) -> float:
    """How long before the end of the drain handlers are interrupted."""
    return min(MAX_RESERVE_SECONDS, drain_seconds * RESERVE_SHARE)


class Service:
    """One process.

    1. It owns the pool and hands every core greenlet out: one that dies, or is killed, takes the process down
       (exit code 2).
    2. It runs until a signal, until its queues are empty, or until it cannot work.
    3. It drains (`drain_seconds` may be infinite): no new receive, handlers finish, what cannot finish is given back,
       and the numbers are logged.
    """

    def __init__(self, concurrency: int, drain_seconds: float, metrics: Metrics, clock: Clock) -> None:
        self.pool: Pool[Delivery] = Pool(concurrency, self._crashed)
        self.consumers: list[Consumer] = []
        self.teardowns: Sequence[Callable[[], object]] = ()
        self.until_empty = False
        self.at_drain: Callable[[], object] = lambda: None  # the embedded queue answers its open polls
        self.started = clock.now()
        self._drain_seconds = drain_seconds
        self._metrics = metrics
        self._clock = clock
        self.pulse = Pulse(clock)
        self.watchdog: Watchdog | None = None
        self.hand_overs: Sequence[Callable[[], object]] = ()  # keys for the watchdog's own calls
        self._stop: Event = clock.event()
        self._over: Event = clock.event()  # all is settled, or nothing more is to be waited for
        self._why = ""
        self._exit_code = STOPPED
        self._stopped_at: float
        self.signals = ExitSignals()
        self._refused: dict[str, float] = {}  # queues that are not to be received from, and when it was told last

    # Signals, crashes: whoever comes first says why

    def install_signals(self) -> None:
        """SIGTERM, SIGINT, SIGHUP drain; a second SIGINT gives back at once."""
        loop = gevent.get_hub().loop
        self.signals.on_signal(lambda number: loop.run_callback_threadsafe(self._signalled, number))

    def _signalled(self, number: int) -> None:
        if not self._stop.is_set():
            self.stop(signal.Signals(number).name)
        elif number == signal.SIGINT and self._clock.now() - self._stopped_at > SECOND_SIGNAL_SECONDS:
            self._over.set()

    def stop(self, why: str, exit_code: int = STOPPED) -> None:
        """Begin the drain. The first reason counts; a crash outweighs it."""
        if not self._stop.is_set():
            self._why, self._stopped_at = why, self._clock.now()
        if exit_code == CRASHED or self._exit_code == STOPPED:
            self._exit_code = exit_code
        if not self._stop.is_set():
            in_hand = any(consumer.in_hand for consumer in self.consumers)
            self.signals.end_within(self._drain_seconds + GRACE_SECONDS, exit_code or (LEFT if in_hand else STOPPED))
        self._stop.set()

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet:
        """Start a core greenlet: one that nobody but the end of the process ends."""
        greenlet = gevent.spawn(function, *args)
        watch(greenlet, self._crashed)
        return greenlet

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        error = greenlet.exception or greenlet.value  # the GreenletExit of one that was killed: by a handler, say
        text = f"a core greenlet died: {describe(error)}"
        log.event(logging.CRITICAL, "worker.crashed", text, traceback=traceback_of(error))
        self.stop("crash", CRASHED)
        self._over.set()

    def refused(self, name: str, error: QueueError) -> None:
        """A receive failed before any of this queue has come back: what only a person can mend.

        Where no queue can be received from, it ends the boot; else this one is tried again, and told of each minute.
        """
        if not isinstance(error, AccessDenied | QueueMissing):
            return
        now, told = self._clock.now(), self._refused.get(name, -math.inf)
        self._refused.setdefault(name, told)
        if all(self._is_refused(consumer) for consumer in self.consumers):
            log.event(logging.CRITICAL, "worker.refused", str(error), queue=name, code=error.code)
            self.stop("refused", MISCONFIGURED)
        elif now - told >= TELL_SECONDS:
            self._refused[name] = now
            text = f"nothing can be received from it, only the other queues are worked on; it is tried again: {error}"
            log.event(logging.ERROR, "queue.refused", text, queue=name, code=error.code)

    def _is_refused(self, consumer: Consumer) -> bool:
        return consumer.name in self._refused and not consumer.polls.ever_received

    # Run

    @property
    def stopping(self) -> bool:
        """True once the drain was asked for."""
        return bool(self._stop.is_set())

    def wait(self, seconds: float) -> bool:
        """Sleep, but not past a signal. True: the drain was asked for."""
        self._stop.wait(seconds)
        return self.stopping

    def boot(self, build: Callable[[], object]) -> None:
        """Call `build` in a greenlet of its own, so that a signal ends what it waits for. Raises what it raises."""
        booting = gevent.spawn(_caught, build)
        gevent.wait([booting, self._stop], count=1)
        if not booting.ready():
            booting.kill(Stopped("the boot is ended"), timeout=LET_GO_SECONDS)
        error = booting.value if booting.successful() else None
        if error is not None and not self.stopping:
            raise error

    def run(self) -> int:
        """Receive and work until something ends it, drain, and return the exit code."""
        self.signals.allow(self._drain_seconds + GRACE_SECONDS, LEFT)
        self._register_gauges()
        self.pulse.start()
        if self.watchdog is not None:
            self.watchdog.start()
            self.spawn(self._keep_watchdog, self.watchdog)
        if not self.stopping:
            for consumer in self.consumers:
                consumer.polls.start()
            text = "waiting for messages; Ctrl-C or SIGTERM finishes what is in hand and stops"
            log.event(logging.INFO, "worker.ready", text, queues=[consumer.name for consumer in self.consumers])
        while self._step():
            pass
        if self._exit_code != CRASHED:
            self._drain()
        if self.watchdog is not None:
            self.watchdog.stop()
        return self._report()

    def _step(self) -> bool:
        if self.until_empty and self._is_empty():
            self.stop("empty")
        if not self._stop.wait(0.1 if self.until_empty else PROGRESS_SECONDS) and not self.until_empty:
            self._tell_progress()
        return not self._stop.is_set()

    def _is_empty(self) -> bool:
        return all(
            self._is_refused(consumer)
            or (
                consumer.in_hand == 0
                and consumer.polls.empty_in_a_row >= EMPTY_POLLS
                and consumer.polls.empty_since >= consumer.back_off_until
            )
            for consumer in self.consumers
        )

    def _tell_progress(self) -> None:
        for consumer in self.consumers:
            if consumer.in_hand:
                log.event(logging.INFO, "worker.progress", "", **self._numbers(consumer))

    def _keep_watchdog(self, watchdog: Watchdog) -> None:
        """What the watchdog's thread may not do itself: count, and ask for keys."""
        blocked, extended = self._metrics.tally("worker.hub_blocked"), self._metrics.tally("worker.leases_rescued")
        while True:
            for hand_over in self.hand_overs:
                hand_over()
            blocked.total, extended.total = watchdog.blocks, watchdog.extended
            self._clock.sleep(KEEP_SECONDS)

    def _register_gauges(self) -> None:
        self._metrics.gauge("worker.hub_lag_ms", self.pulse.take_lag_ms)
        for consumer in self.consumers:
            self._metrics.gauge(f"{consumer.name}.in_hand", partial(getattr, consumer, "in_hand"))
            self._metrics.gauge(f"{consumer.name}.ready", partial(getattr, consumer, "ready"))
            self._metrics.gauge(f"{consumer.name}.requests_per_1000", partial(getattr, consumer, "requests_per_1000"))

    # Drain

    def _drain(self) -> None:
        deadline = self._stopped_at + self._drain_seconds
        self._tell_draining()
        for consumer in self.consumers:
            consumer.drain(deadline)
        self.at_drain()
        for work, delivery in self.pool.take_ready():
            work(delivery)  # a consumer that drains holds it back
        settled = gevent.spawn(gevent.joinall, [self.spawn(_settle, consumer) for consumer in self.consumers])
        settled.rawlink(lambda _: self._over.set())
        self._wait(self._over, deadline - reserve_seconds(self._drain_seconds))
        if not settled.ready():
            self._interrupt(deadline)
        self._tear_down(deadline)

    def _interrupt(self, deadline: float) -> None:
        """What runs is interrupted, what is not started goes back; then what still runs goes back as well."""
        for consumer in self.consumers:
            consumer.interrupt(Stopped)
            consumer.give_back_held()
        idle = self._clock.event()
        waiting = gevent.spawn(lambda: [consumer.idle.wait() for consumer in self.consumers])
        waiting.rawlink(lambda _: idle.set())
        left = min(deadline - self._clock.now(), reserve_seconds(self._drain_seconds))
        self._wait(idle, self._clock.now() + left / 2)
        for consumer in self.consumers:
            consumer.write_off_running()
        self._wait(idle, self._clock.now() + left / 2 - 0.1)

    def _wait(self, event: Event, until: float) -> None:
        event.wait(None if math.isinf(until) else max(0.0, until - self._clock.now()))

    def _tear_down(self, deadline: float) -> None:
        greenlets = [gevent.spawn(teardown) for teardown in self.teardowns]
        gevent.joinall(greenlets, timeout=max(0.1, min(TEARDOWN_SECONDS, deadline - self._clock.now() - 0.1)))
        self.pool.close(0.0 if any(consumer.in_hand for consumer in self.consumers) else 0.1)

    # The numbers

    def _tell_draining(self) -> None:
        in_hand = sum(consumer.in_hand for consumer in self.consumers)
        limit = "until all is done" if math.isinf(self._drain_seconds) else f"at most {self._drain_seconds:g} s"
        text = f"{self._why}: {counted(in_hand, 'message')} in hand, {limit}"
        now = self._clock.now()
        polls = max((consumer.polls.open_until() - now for consumer in self.consumers), default=0.0)
        if polls > 0:
            text += f"; an open long poll may last {polls:.0f} s"
        if self._why == "SIGINT":
            text += "; Ctrl-C again gives everything back at once"
        log.event(logging.INFO, "worker.draining", text, why=self._why, in_hand=in_hand)

    def _numbers(self, consumer: Consumer) -> dict[str, Any]:
        books = consumer.books
        numbers = {"queue": consumer.name, "received": books.received, **books.outcomes, **books.causes}
        numbers |= {"follow_ups_dead_lettered": books.rejected_follow_ups} if books.rejected_follow_ups else {}
        numbers |= {"redelivered": books.redelivered} if books.redelivered else {}
        return {**numbers, "in_hand": consumer.in_hand, "abandoned": books.abandoned}

    def _is_something_left(self) -> bool:
        """What --until-empty could not do: messages with other consumers, delayed ones, dead letters."""
        left = False
        for consumer in self.consumers:
            if letters := consumer.books.outcomes["dead_lettered"] + consumer.books.rejected_follow_ups:
                text = f"{counted(letters, 'dead letter')}: see the dead-letter queue"
                log.event(logging.WARNING, "queue.left", text, queue=consumer.name)
                left = True
        for consumer in self.consumers:
            counts = self._counts_left(consumer)
            if self._is_refused(consumer):
                log.event(logging.WARNING, "queue.left", "nothing could be received from it", queue=consumer.name)
                left = True
            if any(counts.values()):
                text = "messages are left in the queue"
                log.event(logging.WARNING, "queue.left", text, queue=consumer.name, **counts)
                left = True
        return left

    def _counts_left(self, consumer: Consumer) -> dict[str, int]:
        counts = _counts(consumer)
        for _ in range(LEFT_CHECKS if self._why == "empty" else 0):  # a signal leaves no time to ask again
            if not any(counts.values()):
                break
            gevent.sleep(LEFT_CHECK_SECONDS)
            counts = _counts(consumer)
        return counts

    def _report(self) -> int:
        seconds = round(self._clock.now() - self.started, 1)
        left = any(consumer.left for consumer in self.consumers) or (self.until_empty and self._is_something_left())
        if left and self._exit_code == STOPPED:
            self._exit_code = LEFT
        for consumer in self.consumers:
            numbers = self._numbers(consumer)
            log.event(
                logging.INFO,
                "worker.stopped",
                self._why,
                **numbers,
                requests=consumer.requests,
                requests_per_1000=consumer.requests_per_1000,
                seconds=seconds,
                stuck=self.pool.written_off,
                exit_code=self._exit_code,
            )
            self._tell_what_is_gone(consumer)
        if not self.consumers:
            log.event(logging.INFO, "worker.stopped", self._why, seconds=seconds, exit_code=self._exit_code)
        self._metrics.close()
        log.flush()
        return self._exit_code

    def _tell_what_is_gone(self, consumer: Consumer) -> None:
        """The embedded queue keeps messages in memory only."""
        if not consumer.in_memory:
            return
        letters = consumer.books.outcomes["dead_lettered"] + consumer.books.rejected_follow_ups
        waiting = sum(_counts(consumer).values())
        if waiting or letters:
            text = (
                f"{counted(waiting, 'waiting message')} and {counted(letters, 'dead letter')} end with the local queue"
            )
            log.event(logging.WARNING, "local.gone", text, queue=consumer.name)


def _caught(call: Callable[[], object]) -> BaseException | None:
    """What it raises: the hub would print it, and end the process for a SystemExit."""
    try:
        call()
    except BaseException as error:
        return error
    return None


def _settle(consumer: Consumer) -> None:
    """What no slot has taken waits until no open poll of its own queue could fetch it again."""
    consumer.polls.ended.wait()
    consumer.give_back_held()
    consumer.idle.wait()


def _counts(consumer: Consumer) -> dict[str, int]:
    """How many messages SQS says there are; nothing where it does not say."""
    try:
        attributes = consumer.queue.attributes()
    except QueueError:
        return {}
    names = {"visible": "", "in_flight": "NotVisible", "delayed": "Delayed"}
    said = {name: attributes.get(f"ApproximateNumberOfMessages{part}") for name, part in names.items()}
    return {name: number_within(count, 0, MAX_MESSAGES, 0) for name, count in said.items()}
