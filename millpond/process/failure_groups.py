"""FailureGroups: what failed in this process, counted by type and normalised error, as `dlq ls --group` does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec
from msgspec import structs

from millpond.dead_letters.error_groups import MAX_COMPARED, normalised
from millpond.engine.delivery import Delivery
from millpond.foreign.text import shown
from millpond.message import Outcome
from millpond.observe.metric_row import UNKNOWN_TYPE

#: Groups that are kept: of more, those that failed last.
MAX_GROUPS = 50
#: How long a group is kept after its last failure.
GROUP_SECONDS = 3_600.0


@lru_cache(maxsize=256)
def error_of(text: str) -> str:
    """The error by which a failure is known again. Most have a text that another had just before: one takes 60 us."""
    return shown(normalised(text), MAX_COMPARED)


class FailureGroup(msgspec.Struct):
    """Deliveries of one type that failed the same way. `first` and `last`: seconds since the epoch. `error`: without
    what differs from case to case; `last_error`: of the last one, as it was."""

    event_type: str
    error: str
    cause: str
    count: int
    first: float
    last: float
    last_event_id: str
    last_error: str
    last_queue: str


class FailureGroups:
    """Counts failures since the start; a group is forgotten an hour after its last one."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self.noted = 0
        self.unlisted = 0  # failures of groups that there is no room for any more
        self._wall_clock = wall_clock
        self._groups: dict[tuple[str, str], tuple[int, FailureGroup]] = {}  # the last one failed last

    def note(self, delivery: Delivery, outcome: Outcome, fields: Mapping[str, object]) -> None:
        """Count a failure. `fields`: those of its line in the log."""
        now, self.noted = round(self._wall_clock(), 1), self.noted + 1
        text = (outcome.error or outcome.reason).strip().partition("\n")[0][: 2 * MAX_COMPARED]
        event_type = delivery.desk.route.event_type if delivery.desk is not None else UNKNOWN_TYPE
        key = event_type, error_of(text)
        _, group = self._groups.pop(key, (0, None))
        if group is None:
            group = FailureGroup(*key, outcome.cause, 0, now, now, "", "", "")
        group.count += 1
        group.last, group.cause = now, outcome.cause
        group.last_event_id, group.last_queue = str(fields["event_id"]), str(fields["queue"])
        group.last_error = text
        self._groups[key] = self.noted, group
        self._forget(now)

    def since(self, noted: int) -> list[FailureGroup]:
        """The groups that have failed after this number of failures, the last one last."""
        oldest = self._wall_clock() - GROUP_SECONDS
        groups = [group for number, group in self._groups.values() if number > noted and group.last >= oldest]
        return [structs.replace(group, last_error=shown(group.last_error, MAX_COMPARED)) for group in groups]

    def _forget(self, now: float) -> None:
        """Make room: the first one is that whose last failure is the longest ago."""
        key = next(iter(self._groups))
        group = self._groups[key][1]
        if group.last < now - GROUP_SECONDS:
            del self._groups[key]
        elif len(self._groups) > MAX_GROUPS:
            del self._groups[key]
            self.unlisted += group.count
