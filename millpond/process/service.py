"""Service: one process, from the first poll to the exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from millpond.engine.consumer import Consumer
from millpond.errors import CRASHED, LEFT
from millpond.hub.process_title import ProcessTitle
from millpond.observe import log
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import Metrics
from millpond.process.core import Core
from millpond.process.depths import Depths
from millpond.process.drain import Drain
from millpond.process.follower import Follower
from millpond.process.gauges import SnapshotGauges
from millpond.process.observer import Observer
from millpond.process.report import log_end, log_progress
from millpond.process.steering import Steering
from millpond.process.watchdog import Watchdog
from millpond.process.wiring import Queues

PROGRESS_SECONDS, EMPTY_LOOK_SECONDS = 30.0, 0.1
#: How often the watchdog's keys are renewed.
KEEP_SECONDS = 10.0
#: How often the title of the process is renewed.
TITLE_SECONDS = 2.0
#: Two long polls that come back empty: only then --until-empty believes it.
EMPTY_POLLS = 2


class Service:
    """Runs until a signal, until its queues are empty (`until_empty`), or until it cannot work; then it drains.

    `observer` sees the queues from here on. `teardowns` are called at the end of the drain. `followers` tell the
    platform how the process fares.
    """

    def __init__(
        self,
        core: Core,
        metrics: Metrics,
        queues: Queues,
        observer: Observer,
        steering: Steering | None = None,
        *,
        teardowns: Sequence[Callable[[], object]] = (),
        until_empty: bool = False,
        followers: Sequence[Follower] = (),
    ) -> None:
        self.core = core
        self.consumers = queues.consumers
        self._metrics = metrics
        self._queues = queues
        self._observer = observer
        observer.queues = queues
        self._steering = steering or Steering(core, observer)
        self._teardowns = teardowns
        self._until_empty = until_empty
        self._followers = followers

    def run(self) -> int:
        """Receive and work until something ends it, drain, and return the exit code."""
        core = self.core
        core.signals.allow(core.limit_seconds, LEFT)
        self._start_reading()
        core.pulse.start()
        if watchdog := self._queues.watchdog:
            watchdog.start()
            core.spawn(self._keep_watchdog, watchdog)
        core.spawn(self._keep_title)
        if not core.stopping:
            self._start_pollers()
        while self._step():
            pass
        for follower in self._followers:
            follower.draining()
        in_hand = any(consumer.in_hand for consumer in self.consumers)
        core.signals.allow(core.limit_seconds, core.end_code(in_hand))
        if core.exit_code != CRASHED:
            drain = Drain(core, self.consumers)
            drain.run(self._queues.close_local_polls)
            drain.tear_down(self._teardowns)
        if watchdog:
            watchdog.stop()
        for follower in self._followers:
            follower.ended()
        code = log_end(core, self.consumers, self._queues.refusals, self._until_empty)
        self._metrics.close()
        log.flush()
        return code

    def _start_pollers(self) -> None:
        for follower in self._followers:
            follower.ready(self.consumers)
        for consumer in self.consumers:
            if self._steering.has_quieted(consumer.name):
                consumer.pollers.quiet()
            consumer.pollers.start()
        text, names = "waiting for messages", [consumer.name for consumer in self.consumers]
        if unanswered := self._queues.unanswered:
            text = f"started, but SQS has not answered yet for {', '.join(unanswered)}: the worker keeps asking"
        text += "; Ctrl-C or SIGTERM finishes what is in hand and stops"
        log.event(logging.INFO, "worker.ready", text, queues=names)

    def _step(self) -> bool:
        if self._until_empty and self._is_empty():
            self.core.stop("empty")
        stopping = self.core.wait(EMPTY_LOOK_SECONDS if self._until_empty else PROGRESS_SECONDS)
        if not stopping and not self._until_empty:
            for consumer in self.consumers:
                log_progress(consumer)
        return not stopping

    def _is_empty(self) -> bool:
        refuses = self._queues.refusals.refuses
        return all(refuses(consumer) or _is_empty(consumer) for consumer in self.consumers)

    def _keep_watchdog(self, watchdog: Watchdog) -> None:
        """Ask for keys, which the watchdog's threads may not do themselves."""
        while True:
            watchdog.hand_over_keys()
            self.core.clock.sleep(KEEP_SECONDS)

    def _keep_title(self) -> None:
        """Show in `ps` how many slots are at work, and what the process does where it does not just run."""
        title, pool = ProcessTitle(), self.core.pool
        while True:
            state = "" if self._observer.state == "running" else f" {self._observer.state}"
            title.show(f"[{pool.busy}/{pool.size}]{state}")
            self.core.clock.sleep(TITLE_SECONDS)

    def _start_reading(self) -> None:
        """Read the gauges each second, and ask for the depths each minute, where anybody sees them; else on a look."""
        core, metrics = self.core, self._metrics
        metrics.gauge(MetricKey("worker.hub_lag_ms"), core.pulse.take_lag_ms)
        metrics.reader(SnapshotGauges(self._observer, core.clock).read)
        depths = Depths(core, self._observer.depths, metrics.waited_seconds)
        depths.watch(self.consumers)
        self._observer.on_look = depths.refresh
        if metrics.is_on:
            core.spawn(depths.run)


def _is_empty(consumer: Consumer) -> bool:
    """Nothing is in hand, and the queue was empty since all that this worker has put off is visible again."""
    pollers = consumer.pollers
    return (
        consumer.in_hand == 0
        and pollers.empty_in_a_row >= EMPTY_POLLS
        and pollers.empty_since >= consumer.hand.back_off_until
    )
