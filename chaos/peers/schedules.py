"""The experiments: what is done to the workers, and when. Pure but for the clock that it waits by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import msgspec

from chaos.chance import chance
from chaos.hits import Hit, hits

#: Between two blows of the timetable, in the mean; each may be earlier or later by a part of that. Were they as regular
#: as a visibility time-out, what one of them returned to the queue would meet the next, and the next.
HIT_SECONDS, JITTER = 4.0, 0.45


@dataclass(frozen=True)
class Experiment:
    """`blows` makes the blows of a seed and a number of workers, without end; None: none."""

    name: str
    title: str
    scale: float  # of the rates of network faults
    blows: Callable[[int, int], Iterator[Hit]] | None


def _kills(seed: int, workers: int) -> Iterator[Hit]:
    random = Random(f"{seed}/kills")
    while True:
        yield Hit("kill -9", random.randrange(workers), 0.0, 0.0, 0)


def _deploys(seed: int, workers: int) -> Iterator[Hit]:
    """One worker after the other, as a rolling deploy does it: one SIGTERM, its end awaited, a new one started."""
    while True:
        for place in range(workers):
            yield Hit("SIGTERM storm", place, 0.0, 0.0, 1)


def _all(seed: int, workers: int) -> Iterator[Hit]:
    return hits(seed, workers, HIT_SECONDS)


def _storms(seed: int, workers: int) -> Iterator[Hit]:
    return (hit for hit in hits(seed, workers, HIT_SECONDS) if hit.blow == "SIGTERM storm")


EXPERIMENTS = [
    Experiment("network", "network faults only", 1.0, None),
    Experiment("kill", "kill -9 only", 0.0, _kills),
    Experiment("deploy", "rolling deploys only: one SIGTERM each", 0.0, _deploys),
    Experiment("storm", "SIGTERM storms only: 2 to 6 within half a second", 0.0, _storms),
    Experiment("all", "network faults, kill -9, SIGSTOP and SIGTERM storms", 1.0, _all),
]


def timetable(
    experiment: Experiment, seed: int, workers: int, seconds: float, clock: Callable[[], float]
) -> Iterator[Hit]:
    """The blows of a run that begins now: the same ones for every program, however long it takes to start or to end."""
    if experiment.blows is None:
        return
    begun = clock()
    count = max(1, int(seconds / HIT_SECONDS) - 1)
    for number, hit in enumerate(islice(experiment.blows(seed, workers), count), start=1):
        due = begun + (number + JITTER * (2 * chance(seed, "blow", number) - 1)) * HIT_SECONDS
        yield msgspec.structs.replace(hit, after_seconds=max(0.0, due - clock()))
