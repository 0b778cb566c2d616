"""What is done to the worker processes, and when: pure."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal

import msgspec

Blow = Literal["kill -9", "SIGSTOP", "SIGTERM storm"]
BLOWS: tuple[Blow, ...] = ("kill -9", "SIGSTOP", "SIGTERM storm")


class Hit(msgspec.Struct, frozen=True):
    """One blow to one worker place. `after_seconds`: from the end of the hit before; `seconds`: how long it is stopped,
    beyond the visibility time-out; `signals`: SIGTERMs of a storm."""

    blow: Blow
    place: int
    after_seconds: float
    seconds: float
    signals: int


def hits(seed: int, workers: int, longest_wait_seconds: float) -> Iterator[Hit]:
    """Without end: each kind of blow as often as the others, in any order."""
    random = Random(f"{seed}/hits")
    while True:
        for blow in random.sample(BLOWS, len(BLOWS)):
            wait = random.uniform(0.2, 1.0) * longest_wait_seconds
            yield Hit(blow, random.randrange(workers), wait, random.uniform(0.5, 2.0), random.randint(2, 6))
