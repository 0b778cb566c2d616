"""Schedule: which key is due when."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

# How many obsolete entries a heap may keep before it is rebuilt.
_SLACK = 64


class Schedule:
    """When each key is due: one time for each, in O(log n), with memory for at most twice the keys it has."""

    def __init__(self) -> None:
        self._times: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, key: int) -> bool:
        return key in self._times

    def time(self, key: int) -> float | None:
        """When the key is due; None for never."""
        return self._times.get(key)

    def set(self, key: int, time: float) -> None:
        """Make the key due at `time`, and at no other."""
        self._times[key] = time
        heappush(self._heap, (time, key))
        self._compact()

    def drop(self, key: int) -> None:
        """Make the key due never."""
        if self._times.pop(key, None) is not None:
            self._compact()

    def pop_due(self, now: float) -> Iterator[int]:
        """Take out every key that is due, the earliest first."""
        while self._heap and self._heap[0][0] <= now:
            time, key = heappop(self._heap)
            if self._times.get(key) == time:
                del self._times[key]
                yield key

    def next_time(self) -> float | None:
        """When the next key is due; None for never."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def clear(self) -> None:
        """Forget every key."""
        self._times.clear()
        self._heap.clear()

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._times) + _SLACK:
            self._heap = [(time, key) for key, time in self._times.items()]
            heapify(self._heap)
