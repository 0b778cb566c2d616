"""A history, by lives: a message's time in one worker's hands, with a model of its lease beside it."""

from __future__ import annotations

import math

import msgspec

from chaos.simulation.history import Event
from chaos.simulation.plan import Plan


class SentEntry(msgspec.Struct, eq=False):
    """One entry of a call, as its worker saw it."""

    call: int
    name: str
    handle: str
    seconds: int | None
    sent: float
    ended: float = math.inf
    error: str = ""  # of the whole call
    failure: str = ""  # of this entry

    @property
    def done(self) -> bool:
        return self.ended < math.inf and not self.error and not self.failure


class Settled(msgspec.Struct, frozen=True):
    """An outcome that was queued for settling."""

    at: float
    name: str
    delay: int
    cause: str
    follow_ups: int


class Life(msgspec.Struct, eq=False):
    """From `got` to `over`. `deadline` is the model's: until when the lease is surely this worker's."""

    worker: str
    message: str
    key: str  # the handle that it came with
    got: float
    handle: str  # the one that counts now
    deadline: float
    handles: list[tuple[float, str]] = []  # that redeliveries gave it, and when
    renewed: float = 0.0  # when it was redelivered
    given: list[tuple[float, float]] = []  # each receive: when it was read, and when SQS had given it out by then
    lost: float = math.inf  # when SQS said so, or the deadline passed before an extension was answered
    start: float = math.inf
    start_deadline: float = math.inf  # as it was then
    start_until: float = math.inf  # until when SQS kept it for this worker, as it was then
    end: float = math.inf
    result: str = ""
    thrown: list[tuple[float, str]] = []
    held: list[float] = []  # when it was held, and when that ended
    freed: list[float] = []
    settled: list[Settled] = []
    over: float = math.inf
    how: str = ""
    asks: list[SentEntry] = []

    @property
    def is_done(self) -> bool:
        """Its handler came to its end: what must not happen twice without a reason."""
        return self.result in ("done", "Discard") and not self.thrown

    @property
    def lost_at(self) -> float:
        return min(self.lost, self.deadline)

    def changes(self) -> list[SentEntry]:
        """Of its visibility."""
        return [ask for ask in self.asks if ask.name == "change_visibility"]

    def outcome_at(self, at: float) -> Settled | None:
        """The latest one that was queued by then."""
        settled = [one for one in self.settled if one.at <= at]
        return settled[-1] if settled else None


class ReadPoll(msgspec.Struct, eq=False):
    """A receive: until when it can still take messages, and when its worker had an answer."""

    sent: float
    until: float
    ended: float = math.inf
    lost: bool = False  # SQS may not have noticed that nobody listens

    def open_at(self, at: float) -> bool:
        return self.sent <= at and (at < self.ended or self.lost) and at < self.until


class Tale(msgspec.Struct, eq=False):
    """A history, read. `puts`: message -> (its place in the order, group, kind of body)."""

    plan: Plan
    events: list[Event]
    of_kind: dict[str, list[Event]]
    lives: list[Life]
    puts: dict[str, tuple[int, str, str]]
    polls: dict[str, list[ReadPoll]]
    gone: dict[str, float]  # worker -> when it ended
    drains: dict[str, Event]
    stills: dict[str, list[tuple[float, float]]]
    deleted: dict[str, float]  # message -> when SQS has deleted it
    until: dict[str, float]  # handle -> until when SQS keeps the message for it
    misled: set[str]  # messages of which a worker cannot know how SQS sees them: a late answer, a second copy
    explained: set[str]  # messages that may be handled again: something befell their lease

    def still(self, worker: str, begin: float, end: float) -> float:
        """Seconds between the two for which the worker stood still."""
        return sum(max(0.0, min(end, until) - max(begin, since)) for since, until in self.stills.get(worker, ()))

    def drains_at(self, worker: str, at: float) -> bool:
        """Whether its drain has begun by then."""
        return worker in self.drains and at >= self.drains[worker].at

    def gone_at(self, worker: str) -> float:
        return self.gone.get(worker, math.inf)
