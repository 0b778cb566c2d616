"""A schedule, drawn from its seed: the setting, what goes wrong, what handlers do, and when a process ends."""

from __future__ import annotations

from random import Random
from typing import Literal

import msgspec

#: Faults of a call, besides the ones that only some calls can have.
FaultKind = Literal[
    "lost_before", "lost_after", "hangs", "slow_there", "slow_back", "error", "throttled", "partial", "lie"
]
KINDS: tuple[FaultKind, ...] = (
    "lost_before",
    "lost_after",
    "hangs",
    "slow_there",
    "slow_back",
    "error",
    "throttled",
    "partial",
    "lie",
)
#: The share of schedules in which changes of visibility alone go wrong.
CRAWLING = 0.04
#: The share of schedules with an outage of the server behind the handlers, and that with a concurrency of the type.
DOWN, LIMITED = 0.35, 0.25
#: In some of them no message is held for longer than this and its visibility time-out.
SHORT_HOLD_SECONDS = 60
#: What a handler can ask for with Retry(after) and Unavailable(after).
ASKED_SECONDS = (0, 1, 2, 4, 7)
#: When a schedule begins.
START = 1_000.0
CALLS = ("receive", "delete", "change_visibility", "send")


class Happening(msgspec.Struct):
    """Something that befalls a process: drain, crash, still."""

    at: float
    what: str
    worker: int
    seconds: float = 0.0


class Script(msgspec.Struct):
    """What a handler does with one delivery."""

    result: str  # done, fail, retry, reject, discard, unavailable, follow
    seconds: float
    after: int = 0
    swallows: int = 0  # interrupts that it catches and goes on after
    blocks: float = 0.0  # seconds for which it stops its whole process


class Plan(msgspec.Struct):
    """Everything that a seed decides."""

    seed: int
    fifo: bool
    workers: int
    concurrency: int
    prefetch: int
    pollers: int
    wait_seconds: int
    visibility: int
    timeout: float
    limit: int
    max_attempts: int
    drain_seconds: float
    together: bool
    puts: list[tuple[float, str, str]]  # when, group, kind of body
    happenings: list[Happening]
    fault_rate: dict[str, float]  # by call
    fault_kinds: tuple[FaultKind, ...]
    duplicates: float
    refused_letters: float
    odd: float  # the share of handlers that do anything else than succeed
    long: float  # the share of handlers that take longer than the visibility time-out
    calm_at: float
    hold: bool = False  # a handler that takes longer than SQS lets anybody hold a message
    outages: tuple[tuple[float, float], ...] = ()  # from and to, on the clock: every handler says Unavailable
    at_once: int | None = None  # the concurrency of the type
    max_hold: int = 43_200

    def is_down(self, now: float) -> bool:
        """Whether the server behind the handlers is down."""
        return any(begin <= now < end for begin, end in self.outages)

    @property
    def permits(self) -> int:
        return self.concurrency + self.prefetch

    def script(self, message: str, attempt: int, run: int) -> Script:
        """What the handler does in this run of this attempt: by seed, message and these two alone."""
        chance = Random(hash((self.seed, int(message[1:]), attempt) + ((run,) if run > 1 else ())))
        if self.hold and message == "m1" and attempt == 1:
            return Script("done", 60_000.0)
        seconds = self._seconds(chance)
        swallows = chance.choice((0, 0, 0, 1, 2)) if self.odd else 0
        if chance.random() >= self.odd:
            return Script("done", seconds, swallows=swallows)
        results = ("fail", "fail", "retry", "retry", "reject", "discard", "follow", "follow", "unavailable", "block")
        result = chance.choice(results)
        if result == "block":
            return Script("done", seconds, blocks=chance.uniform(0.5, 4.0))
        # Never the visibility time-out itself: so a beat and a back-off can be told apart.
        return Script(result, seconds, chance.choice(ASKED_SECONDS), swallows)

    def _seconds(self, chance: Random) -> float:
        visibility = 10.0 if self.hold else self.visibility
        if chance.random() < self.long:
            return chance.uniform(1.0, 2.5) * visibility
        if chance.random() < 0.4:
            return chance.uniform(0.3, visibility)
        return chance.choice((0.0, 0.001, 0.1, chance.random() / 2))


def draw(seed: int) -> Plan:
    """The plan of a seed. Each kind of trouble is in some schedules and not in others: so one does not hide another."""
    plan = _drawn(seed)
    chance = Random(-seed - 1)  # its own, so that the other plans stay as they are
    if not plan.hold and chance.random() < CRAWLING:
        plan = _crawling(plan, chance)
    return plan if plan.hold else _limited(plan, chance)


def _limited(plan: Plan, chance: Random) -> Plan:
    """The server behind its handlers is down for a while, or only some may run at once, or neither."""
    if chance.random() < DOWN:
        begin = START + chance.uniform(0.0, 20.0)
        outage = begin, begin + chance.choice((1.0, 10.0, 40.0, 120.0))
        longest = chance.choice((SHORT_HOLD_SECONDS + plan.visibility, 43_200))
        plan = msgspec.structs.replace(plan, outages=(outage,), max_hold=longest)
    if chance.random() < LIMITED:
        plan = msgspec.structs.replace(plan, at_once=chance.choice((1, 2, 4)))
    return plan


def _crawling(plan: Plan, chance: Random) -> Plan:
    """Nothing goes wrong but changes of visibility: they are answered late, and later ones are not; handlers are long.

    Only so a lease that counts from an answer is seen to be longer than one that counts from its request.
    """
    return msgspec.structs.replace(
        plan,
        visibility=chance.choice((20, 30)),
        timeout=100.0,
        happenings=[],
        fault_rate={"change_visibility": 0.9},
        fault_kinds=("slow_back", "hangs"),
        duplicates=0.0,
        long=0.5,
        calm_at=90.0,
    )


def _drawn(seed: int) -> Plan:
    chance = Random(seed)
    fifo = chance.random() < 0.3
    hold = not fifo and chance.random() < 0.02
    rough = chance.random() < 0.7
    visibility = chance.choice((6, 12, 20, 30))
    workers = 1 if hold else chance.choice((1, 1, 2, 3))
    concurrency = chance.choice((1, 2, 4, 8, 16))
    return Plan(
        seed=seed,
        fifo=fifo,
        workers=workers,
        concurrency=concurrency,
        prefetch=chance.choice((0, 0, 2, 8)),
        pollers=chance.choice((1, 2, 4)),
        wait_seconds=2_000 if hold else chance.choice((2, 10, 20)),
        visibility=14_000 if hold else visibility,
        timeout=100_000.0 if hold else chance.choice((100.0, 100.0, visibility * 0.8, visibility * 1.7)),
        limit=chance.choice((2, 4, 20)),
        max_attempts=chance.choice((2, 4, 8)),
        drain_seconds=chance.choice((3.0, 10.0, 25.0)),
        together=chance.random() < 0.5,
        puts=_puts(chance, fifo, 1 if hold else chance.randint(10, 40)),
        happenings=[] if hold else _happenings(chance, workers, rough),
        fault_rate=_rates(chance) if rough and not hold else {},
        fault_kinds=tuple(kind for kind in KINDS if chance.random() < 0.6) or ("error",),
        duplicates=0.0 if fifo or hold or chance.random() < 0.7 else chance.choice((0.02, 0.1, 0.3)),
        refused_letters=chance.choice((0.0, 0.0, 0.2)) if rough else 0.0,
        odd=chance.choice((0.0, 0.2, 0.5)),
        long=chance.choice((0.0, 0.05, 0.2)),
        calm_at=70_000.0 if hold else chance.choice((30.0, 60.0, 90.0)),
        hold=hold,
    )


def _puts(chance: Random, fifo: bool, number: int) -> list[tuple[float, str, str]]:
    groups = [f"g{index}" for index in range(chance.choice((1, 3, 8)))]
    at_once = chance.random() < 0.5
    times = sorted(0.0 if at_once else chance.uniform(0.0, 30.0) for _ in range(number))
    kinds = chance.choices(("work", "unknown", "torn"), (95, 3, 2), k=number)
    return [(time, chance.choice(groups) if fifo else "", kind) for time, kind in zip(times, kinds, strict=True)]


def _happenings(chance: Random, workers: int, rough: bool) -> list[Happening]:
    wanted = [what for what in ("drain", "drain", "crash", "still", "still") if chance.random() < 0.25]
    return [
        Happening(
            chance.choice((chance.uniform(0.0, 5.0), chance.uniform(0.0, 60.0))),
            what,
            chance.randrange(workers),
            chance.choice((1.5, 5.0, 20.0, 60.0)),
        )
        for what in wanted
        if rough or what == "drain"
    ]


def _rates(chance: Random) -> dict[str, float]:
    if chance.random() < 0.08:  # one right is gone, or one limit is reached: all else works
        return {chance.choice(CALLS): 1.0}
    return {call: chance.choice((0.0, 0.05, 0.2, 0.5)) for call in CALLS}
