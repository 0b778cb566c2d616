"""What the handler does with a message: planned, so that the audit can tell planned failures from real ones."""

from __future__ import annotations

from typing import Literal, NamedTuple

from chaos.chance import chance

Verdict = Literal["ok", "fail", "retry", "reject", "discard"]

#: The reasons that the handler gives.
REASON = "planned"
#: How many of a thousand messages are ...
FAIL, RETRY, REJECT, DISCARD = 10, 10, 5, 5
#: How many of a thousand run longer than the visibility time-out.
LONG = 2
#: Milliseconds that the others take.
SHORTEST_MS, LONGEST_MS = 5, 50


class Job(NamedTuple):
    """What one message is to do."""

    n: int
    group: str
    ms: int


def job(seed: int, n: int, groups: int, visibility_seconds: float) -> Job:
    """The message with this number."""
    ms = SHORTEST_MS + int(chance(seed, "ms", n) * (LONGEST_MS - SHORTEST_MS))
    if chance(seed, "long", n) * 1000 < LONG:
        ms = int((1.1 + chance(seed, "how long", n) / 2) * visibility_seconds * 1000)
    return Job(n, f"g{n % groups}", ms)


def verdict(seed: int, n: int, attempt: int) -> Verdict:
    """How this attempt ends. Failures are planned for the first attempt only, verdicts for all of them."""
    drawn = chance(seed, "verdict", n) * 1000
    if drawn < REJECT:
        return "reject"
    if drawn < REJECT + DISCARD:
        return "discard"
    if attempt == 1 and drawn < REJECT + DISCARD + FAIL:
        return "fail"
    if attempt == 1 and drawn < REJECT + DISCARD + FAIL + RETRY:
        return "retry"
    return "ok"


def retry_seconds(seed: int, n: int) -> int:
    """What a planned Retry asks for: 0, 1 or 2."""
    return int(chance(seed, "after", n) * 3)
