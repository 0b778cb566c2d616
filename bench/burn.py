"""The handler of processes: computes for as many loops as its message says, which takes the same work every time."""

import msgspec

from millpond import handler


class Burn(msgspec.Struct):
    loops: int


@handler("bench.burn")
def burn(job: Burn) -> None:
    for _ in range(job.loops):
        pass
