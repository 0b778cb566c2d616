"""DomainShares: which mail may use a connection now; neither a slow domain nor a slow server holds up the others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from millpond import Wait

#: A mail waits for a connection in a slot of the worker for this long at the most, and only where its turn is likely to
#: come by then; any longer, and it waits in hand (Wait), where it holds nothing up.
SLOT_WAIT_SECONDS = 2.0
#: A domain is slow whose mails take longer than this on the average: a healthy server takes a mail in milliseconds.
SLOW_SECONDS = 1.0
#: A mean goes over this many mails at the least; and none takes less time than this, which the mean could not take.
LEAST_MAILS, LEAST_SECONDS = 4, 0.001
#: How long a mail is taken to last before one has ended: long enough to keep most of a slow domain out of the slots.
UNKNOWN_SECONDS = 1.0
#: The longest time for which a mail is sent to wait in hand: after a server that hung for a while the means are far too
#: long, until a few mails have gone, and those that asked meanwhile wait for nothing.
LONGEST_WAIT_SECONDS = 10.0
#: Domains that are remembered while there are no mails to them.
MAX_KEPT_DOMAINS = 1_000


@dataclass(slots=True, eq=False)
class Load:
    """The mails that share `allowed` connections: those to one domain, or all.

    `busy` and `waiting`: connections in use, mails that wait for one in a slot. `turned_away`: mails that were sent to
    wait in hand since the last one began. `seconds`: how long a mail takes of late, 0.0 before the first. It is a
    geometric mean: one mail that hangs for minutes makes no domain slow, nor do some slow mails the whole server.
    """

    allowed: int
    weight: float
    busy: int = 0
    waiting: int = 0
    turned_away: int = 0
    seconds: float = 0.0

    @property
    def has_room(self) -> bool:
        """Whether a mail may begin."""
        return self.busy < self.allowed

    def begin(self) -> None:
        """Count one more mail."""
        self.busy += 1
        self.turned_away = 0

    def turn_seconds(self, ahead: int, unknown: float) -> float:
        """How long a mail is likely to wait that has `ahead` others before it; `unknown`: of one, before the first."""
        return 0.0 if self.has_room else (self.seconds or unknown) * (ahead + 1) / self.allowed

    def learn(self, seconds: float) -> None:
        """Take the time of one mail, which counts as one of those that run at once."""
        seconds = max(LEAST_SECONDS, seconds)
        self.seconds = (self.seconds or seconds) ** (1 - self.weight) * seconds**self.weight


@dataclass(slots=True, eq=False)
class _Waiting:
    """A mail that waits in a slot for its turn; `kept`: the loads in which it has a place already."""

    loads: Sequence[Load]
    turn: SimpleQueue[None]
    kept: list[Load] = field(default_factory=list)


class DomainShares:
    """Connections for `most` mails at once, of which the mails to one domain have their share.

    A domain begins with `per_domain`. With each mail that is quick it may take one more, as long as `per_domain` are
    left for the others; where its mails become slow it is back at `per_domain`. A mail to several domains needs a place
    in the share of each; as nobody can see which of them makes it slow, it changes no share. One such mail at a time
    goes first and keeps each place as it becomes free, or it would never find all of them free at once.
    """

    def __init__(self, most: int, per_domain: int) -> None:
        self._all = Load(most, _weight(most))
        self._per_domain = min(most, per_domain)
        self._weight = _weight(self._per_domain)
        self._quick = max(self._per_domain, most - self._per_domain)
        self._domains: dict[str, Load] = {}
        self._waiting: list[_Waiting] = []
        self._first: _Waiting | None = None  # of these, a mail to several domains

    def take(self, recipients: Sequence[str]) -> Sequence[Load]:
        """A place for a mail, to be given back, as soon as there is one. Raises Wait where that would take long."""
        loads = [self._all, *map(self._load, sorted({name.rpartition("@")[2].lower() for name in recipients}))]
        if all(load.has_room for load in loads):
            for load in loads:
                load.begin()
        else:
            self._wait(loads)
        return loads

    def give_back(self, loads: Sequence[Load], seconds: float | None) -> None:
        """End the use of a place; `seconds`: how long the mail took, None where none was sent. Never switches."""
        for load in loads:
            load.busy -= 1
        if seconds is not None:
            self._all.learn(seconds)
            if len(loads) == 2:
                self._learn(loads[1], seconds)
        if self._waiting:
            self._next()

    def _load(self, domain: str) -> Load:
        load = self._domains.get(domain)
        if load is None:
            if len(self._domains) >= MAX_KEPT_DOMAINS:
                self._domains = {name: load for name, load in self._domains.items() if load.busy or load.waiting}
            load = self._domains[domain] = Load(self._per_domain, self._weight)
        return load

    def _learn(self, load: Load, seconds: float) -> None:
        load.learn(seconds)
        if load.seconds > SLOW_SECONDS:
            load.allowed = self._per_domain
        elif load.allowed < self._quick:
            load.allowed += 1

    def _wait(self, loads: Sequence[Load]) -> None:
        """Wait for a place, which the one who gives it back takes for us."""
        goes_first = len(loads) > 2 and self._first is None
        seconds = max(load.turn_seconds(0 if goes_first else load.waiting, UNKNOWN_SECONDS) for load in loads)
        if seconds > SLOT_WAIT_SECONDS:
            raise _turned_away(loads)
        mine = _Waiting(loads, SimpleQueue())
        self._waiting.insert(0 if goes_first else len(self._waiting), mine)
        for load in loads:
            load.waiting += 1
        if goes_first:
            self._first = mine
            self._keep(mine)
        try:
            mine.turn.get(timeout=SLOT_WAIT_SECONDS)
        except Empty:
            if self._leave(mine):
                raise _turned_away(loads) from None
        except BaseException:  # an interrupt
            if not self._leave(mine):
                self.give_back(loads, None)
            raise

    def _leave(self, mine: _Waiting) -> bool:
        """Wait no longer. False: the place came at the same moment."""
        if mine not in self._waiting:
            return False
        self._waiting.remove(mine)
        for load in mine.loads:
            load.waiting -= 1
        if mine is self._first:
            self._first = None
            for load in mine.kept:
                load.busy -= 1
            self._next()
        return True

    def _keep(self, first: _Waiting) -> None:
        """Keep for it the places that are free in its domains."""
        for load in first.loads[1:]:
            if load.has_room and load not in first.kept:
                load.busy += 1
                first.kept.append(load)

    def _next(self) -> None:
        """Give the places that are free to those that wait: to the one that goes first, then the longest waiting."""
        if self._first is not None:
            self._keep(self._first)
        for waiting in self._waiting[:]:
            if not self._all.has_room:
                return
            if all(load.has_room or load in waiting.kept for load in waiting.loads):
                self._begin(waiting)

    def _begin(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        if waiting is self._first:
            self._first = None
        for load in waiting.loads:
            load.waiting -= 1
            load.busy -= load in waiting.kept
            load.begin()
        waiting.turn.put(None)


def _weight(allowed: int) -> float:
    return 1 / max(LEAST_MAILS, allowed)


def _turned_away(loads: Sequence[Load]) -> Wait:
    """The verdict on a mail whose turn is not near. Those that wait in hand count as ahead of it: the more there are,
    the seldomer each one asks."""
    seconds = max(load.turn_seconds(load.waiting + load.turned_away, 0.0) for load in loads)
    for load in loads:
        load.turned_away += not load.has_room
    after = min(LONGEST_WAIT_SECONDS, max(1.0, seconds)) * random.uniform(0.5, 1.0)
    whose = "mails to its domain" if loads[0].has_room else "other mails"
    return Wait(f"all connections for {whose} are in use", after)
