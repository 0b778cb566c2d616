"""LastHour: what one process did in the last hour, ten seconds by ten seconds, and each type in the last minute."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

import msgspec

from millpond.observe.last_minute import ERRORS, GOOD, MINUTE_SECONDS
from millpond.observe.metrics import MetricSecond
from millpond.observe.time_spread import TimeSpread

BUCKET_SECONDS = 10.0
#: Buckets that are kept: one hour.
MAX_BUCKETS = 360
COUNTED_OUTCOMES = frozenset({"succeeded", "retried", "dead_lettered", "discarded", "released", "lease_lost"})


class HourBucket(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """About ten seconds. `at`: its begin, seconds since the epoch; `seconds`: how long it is.

    `failed` counts what failed, timed out, was rejected or did not decode; it is in `outcomes` too, as retried or
    dead-lettered. Percentiles are in seconds: the wait from the send to a first receive's handler, and the run of
    handlers. None: there was none.
    """

    at: float
    seconds: float
    outcomes: dict[str, int] = {}
    failed: int = 0
    wait_p50: float | None = None
    wait_p95: float | None = None
    run_p50: float | None = None
    run_p95: float | None = None


class MinuteSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The last minute of a type, or of all. `failed_percent`: of what ended well or failed. Percentiles in seconds."""

    seconds: float
    ended: int
    failed: int
    failed_percent: float
    wait_p50: float | None
    wait_p95: float | None
    run_p50: float | None
    run_p95: float | None


class TypeTally:
    """What became of one type in one bucket."""

    __slots__ = ("ended", "failed", "good", "run", "wait")

    def __init__(self) -> None:
        self.ended = self.failed = self.good = 0
        self.wait, self.run = TimeSpread(), TimeSpread()

    def merge(self, other: TypeTally) -> None:
        """Add another bucket of it, or another type."""
        self.ended += other.ended
        self.failed += other.failed
        self.good += other.good
        self.wait.merge(other.wait)
        self.run.merge(other.run)

    def percentiles(self) -> dict[str, float | None]:
        """As they are called in a bucket and a summary; in seconds, to four digits after the point."""
        return {
            "wait_p50": in_seconds(self.wait.percentile(50)),
            "wait_p95": in_seconds(self.wait.percentile(95)),
            "run_p50": in_seconds(self.run.percentile(50)),
            "run_p95": in_seconds(self.run.percentile(95)),
        }


class OpenBucket:
    """The bucket that is being filled. `at`: on the wall's clock, `began`: on the monotonic one."""

    def __init__(self, at: float, began: float) -> None:
        self.at = at
        self.began = began
        self.seconds = 0.0
        self.outcomes: Counter[str] = Counter()
        self.types: dict[str, TypeTally] = {}

    def add(self, second: MetricSecond) -> None:
        """Add what is new."""
        for key, number in second.counts.items():
            if not key.event_type:
                continue
            if key.name in COUNTED_OUTCOMES:
                self.outcomes[key.name] += number
                self._tally(key.event_type).ended += number
            if key.name in ERRORS:
                self._tally(key.event_type).failed += number
            elif key.name in GOOD:
                self._tally(key.event_type).good += number
        for key, times in second.times.items():
            if key.event_type and key.name == "latency":
                self._tally(key.event_type).wait.add(times)
            elif key.event_type and key.name == "duration":
                self._tally(key.event_type).run.add(times)

    def _tally(self, event_type: str) -> TypeTally:
        return self.types.setdefault(event_type, TypeTally())

    def as_bucket(self) -> HourBucket:
        """Its numbers."""
        whole = merged(self.types.values())
        return HourBucket(
            at=round(self.at, 1),
            seconds=round(self.seconds, 1),
            outcomes=dict(self.outcomes),
            failed=whole.failed,
            **whole.percentiles(),
        )


class LastHour:
    """Keeps the last hour of one process. `clock`: monotonic seconds; `wall_clock`: seconds since the epoch.

    `minute` and `minutes` (by type) are of the last six buckets that are full: they are made anew every ten seconds.
    """

    def __init__(self, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self.closed = 0  # buckets, so far
        self.minute: MinuteSummary | None = None
        self.minutes: dict[str, MinuteSummary] = {}
        self._clock = clock
        self._wall_clock = wall_clock
        self._buckets: deque[HourBucket] = deque(maxlen=MAX_BUCKETS)
        self._recent: deque[OpenBucket] = deque(maxlen=round(MINUTE_SECONDS / BUCKET_SECONDS))
        self._open = OpenBucket(wall_clock(), clock())

    def take(self, second: MetricSecond) -> None:
        """Add what is new, and close the bucket when its time is over, or it was set to another one."""
        now = self._clock()
        if abs(self._wall_clock() - self._open.at - (now - self._open.began)) > BUCKET_SECONDS:
            self._jump(now)
        self._open.add(second)
        self._open.seconds = now - self._open.began
        if self._open.seconds >= BUCKET_SECONDS:
            self._close(now)

    def since(self, closed: int) -> list[HourBucket]:
        """The buckets closed after this number of them, and the open one where anything has ended in it."""
        missing = min(self.closed - closed, len(self._buckets))
        buckets = list(self._buckets)[len(self._buckets) - missing :]
        return [*buckets, self._open.as_bucket()] if self._open.types else buckets

    def _jump(self, now: float) -> None:
        """The machine has slept, or its clock was set: what is new would be shown at the time of before."""
        gap = now - self._open.began - self._open.seconds
        if self._open.seconds:
            self._close(now)
        self._open = OpenBucket(self._wall_clock() - gap, now - gap)

    def _close(self, now: float) -> None:
        self._buckets.append(self._open.as_bucket())
        self._recent.append(self._open)
        self.closed += 1
        self._open = OpenBucket(self._wall_clock(), now)
        self._sum_up()

    def _sum_up(self) -> None:
        seconds = sum(bucket.seconds for bucket in self._recent)
        kinds = dict.fromkeys(kind for bucket in self._recent for kind in bucket.types)
        tallies = {kind: merged(one.types[kind] for one in self._recent if kind in one.types) for kind in kinds}
        self.minutes = {kind: summary_of(tally, seconds) for kind, tally in tallies.items()}
        self.minute = summary_of(merged(tallies.values()), seconds)


def merged(tallies: Iterable[TypeTally]) -> TypeTally:
    """All of them as one."""
    whole = TypeTally()
    for tally in tallies:
        whole.merge(tally)
    return whole


def summary_of(tally: TypeTally, seconds: float) -> MinuteSummary:
    """The tally of these seconds in numbers for people."""
    return MinuteSummary(
        seconds=round(seconds, 1),
        ended=tally.ended,
        failed=tally.failed,
        failed_percent=round(100 * tally.failed / (tally.failed + tally.good), 1) if tally.failed else 0.0,
        **tally.percentiles(),
    )


def in_seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 1000, 4)
