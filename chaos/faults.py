"""The kinds of fault, and FaultPlan: which call gets which fault. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from chaos.chance import chance

#: Seconds of a slow answer.
SLOWEST_SECONDS = 3.0
LEAST_SLOW_SECONDS = 0.5
#: Calls of a burst of denials.
BURST = 3

#: What any call can suffer. "taken": SQS has done it, and its answer is lost.
ANY = (
    "reset before it was taken",
    "reset after it was taken",
    "500, taken",
    "503, not taken",
    "throttled",
    "denied",
    "truncated body, taken",
    "HTML for an answer, not taken",
    "noise for an answer, taken",
    "slow",
)
BATCH = ("entries failed, done", "entries failed, not done")
RECEIVE = ("hung", "duplicate")
#: Of the duplicates half come to nothing: the message is deleted before it can be handed out again.
RECEIVE_DRAWN = (*RECEIVE, "duplicate")
NETWORK_KINDS = (*ANY, *BATCH, *RECEIVE)
#: Kinds that SQS has done before they strike.
TAKEN = frozenset(
    {
        "reset after it was taken",
        "500, taken",
        "truncated body, taken",
        "noise for an answer, taken",
        "slow",
        "duplicate",
    }
)

#: The share of an operation's calls that suffer. Extensions are few: they suffer more often. Millpond makes batches.
RATES: dict[str, float] = {
    "ReceiveMessage": 0.03,
    "DeleteMessageBatch": 0.03,
    "ChangeMessageVisibilityBatch": 0.08,
    "SendMessageBatch": 0.08,
    "DeleteMessage": 0.03,
    "ChangeMessageVisibility": 0.08,
    "SendMessage": 0.08,
    "UpdateItem": 0.05,  # of the table of claims
}


class Fault(NamedTuple):
    """`chance`: how long, which code, and whatever else is left open; at least 0, below 1."""

    kind: str
    chance: float

    @property
    def seconds(self) -> float:
        """Of a slow answer."""
        return LEAST_SLOW_SECONDS + self.chance * (SLOWEST_SECONDS - LEAST_SLOW_SECONDS)


class FaultPlan(msgspec.Struct, frozen=True):
    """Decides by the seed and the call's number alone. `scale` multiplies RATES; 0.0: no faults."""

    seed: int = 1
    scale: float = 1.0

    def fault(self, operation: str, number: int) -> Fault | None:
        """What happens to the call of this number among those of its operation, from 0 on."""
        rate = RATES.get(operation, 0.0) * self.scale
        if not rate:
            return None
        for back in range(BURST):
            fault = _draw(self.seed, operation, number - back, rate)
            if fault is not None and (back == 0 or fault.kind == "denied"):
                return fault
        return None


@lru_cache(maxsize=64)  # a call asks about those before it too
def _draw(seed: int, operation: str, number: int, rate: float) -> Fault | None:
    drawn = chance(seed, operation, number) / rate
    if drawn >= 1:
        return None
    own = BATCH if operation.endswith("Batch") else ()
    kinds = ANY + (RECEIVE_DRAWN if operation == "ReceiveMessage" else own)
    kind = kinds[int(drawn * len(kinds))]
    fate = chance(seed, operation, number, "fate")
    if kind == "denied" and fate > 1 / BURST:
        return None
    return Fault(kind, fate)
