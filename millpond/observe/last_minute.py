"""LastMinute: what the counts and times of one minute say: the rate of errors, and how long messages wait."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from millpond.observe.metric_row import MetricKey

MINUTE_SECONDS = 60.0
#: Causes that are errors of a handler or of a message.
ERRORS = frozenset({"failed", "timed_out", "rejected", "undecodable"})
#: What ended without an error. What was put off or given back is neither.
GOOD = frozenset({"succeeded", "discarded"})


class LastMinute:
    """The seconds of the last minute, summed up."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[float, Counter[tuple[MetricKey, bool]]]] = deque()
        self._sums: Counter[tuple[MetricKey, bool]] = Counter()  # by the key of the gauge: errors (True) and good ones
        self._known: dict[MetricKey, None] = {}  # each gauge that was ever other than 0: StatsD repeats its last value
        self._waits: dict[str, deque[tuple[float, float]]] = {}  # of each queue: when, and the longest in seconds

    def add(self, now: float, counts: Mapping[MetricKey, int], times: Mapping[MetricKey, list[float]]) -> None:
        """Add one second, and forget what is older than a minute."""
        ended: Counter[tuple[MetricKey, bool]] = Counter()
        for key, number in counts.items():
            if key.event_type and (key.name in ERRORS or key.name in GOOD):
                ended[MetricKey("error_percent", key.queue), key.name in ERRORS] += number
                ended[MetricKey("type.error_percent", "", key.event_type), key.name in ERRORS] += number
        self._sums += ended
        self._known |= dict.fromkeys(key for key, _ in ended)
        self._seconds.append((now, ended))
        while self._seconds[0][0] <= now - MINUTE_SECONDS:
            self._sums -= self._seconds.popleft()[1]
        waits: dict[str, float] = {}
        for key, values in times.items():
            if key.name == "latency":
                waits[key.queue] = max(waits.get(key.queue, 0.0), max(values) / 1000)
        for queue, seconds in waits.items():
            self._waits.setdefault(queue, deque(maxlen=64)).append((now, seconds))

    def gauges(self) -> dict[MetricKey, float]:
        """The share of errors in percent; of what ended nothing in this minute: 0."""
        return {key: self._percent(self._sums[key, True], self._sums[key, False]) for key in self._known}

    @staticmethod
    def _percent(errors: int, good: int) -> float:
        return 100 * errors / (errors + good) if errors else 0.0

    def waited_seconds(self, queue: str, now: float) -> float | None:
        """The longest wait in this queue that a message had which began in this minute; of an earlier one the longest
        is as much older now. None: none has begun here."""
        waits = self._waits.get(queue)
        if not waits:
            return None
        recent = [seconds for at, seconds in waits if at > now - MINUTE_SECONDS]
        return max(recent) if recent else max(0.0, waits[-1][1] + now - waits[-1][0])
