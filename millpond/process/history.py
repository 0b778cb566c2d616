"""History: the last hour of this process: failures by error, and for its page series and marks.

The series are made from what is counted anyway, once a second, where the page is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from millpond import __version__
from millpond.engine.consumer import Consumer
from millpond.engine.receiving import QUIET
from millpond.observe.last_hour import HourBucket, LastHour
from millpond.observe.metrics import MetricSecond, MetricSink
from millpond.process.core import Core
from millpond.process.failure_groups import FailureGroup, FailureGroups
from millpond.process.hour_marks import HourMark, HourMarks, MarkedState
from millpond.process.observer import Observer


class HistoryPlace(NamedTuple):
    """How much of it a viewer has: buckets, marks and failures, counted from the start."""

    closed: int = 0
    made: int = 0
    noted: int = 0


class HistoryPart(msgspec.Struct, frozen=True, kw_only=True):
    """What is new for a viewer. A bucket takes the place of one that began at the same moment, a group that of the same
    type and error. `whole`: it is all that there is; `unlisted`: failures of groups that are not kept any more.
    """

    whole: bool = False
    buckets: list[HourBucket] = []
    marks: list[HourMark] = []
    failures: list[FailureGroup] = []
    unlisted: int = 0

    @property
    def is_news(self) -> bool:
        """Whether there is anything new in it."""
        return self.whole or bool(self.buckets or self.marks or self.failures)


class History(MetricSink):
    """Keeps it. As a sink of the metrics it is called once a second."""

    def __init__(self, core: Core, observer: Observer) -> None:
        clock = core.clock
        self._core = core
        self._observer = observer
        self.hour = observer.hour = LastHour(clock.now, clock.time)
        self.marks = HourMarks(clock.time(), __version__)
        self.failures = observer.failures = FailureGroups(clock.time)

    def watch(self, consumers: Sequence[Consumer]) -> None:
        """Note what fails in these queues from now on."""
        for consumer in consumers:
            consumer.books.on_failure = self.failures.note

    def take(self, second: MetricSecond) -> None:
        self.hour.take(second)
        self.marks.look(self._core.clock.time(), self._state())

    def since(self, place: HistoryPlace) -> HistoryPart:
        """What is new since then."""
        return HistoryPart(
            whole=place == HistoryPlace(),
            buckets=self.hour.since(place.closed),
            marks=self.marks.since(place.made),
            failures=self.failures.since(place.noted),
            unlisted=self.failures.unlisted,
        )

    @property
    def place(self) -> HistoryPlace:
        """How much of it there is."""
        return HistoryPlace(self.hour.closed, self.marks.made, self.failures.noted)

    def _state(self) -> MarkedState:
        queues = self._observer.queues
        if queues is None:
            return MarkedState()
        quiet = frozenset(one.name for one in queues.consumers if one.pollers.receiving.state is QUIET)
        desks = queues.consumers[0].desks if queues.consumers else ()
        shut = {desk.route.event_type: desk.gate.reason for desk in desks if desk.gate.is_shut}
        blocked = queues.watchdog.hub_blocked if queues.watchdog is not None else 0
        return MarkedState(quiet, shut, blocked, self._core.why)
