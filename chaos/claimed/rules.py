"""What must never be in a schedule of idempotent handlers. `check` gives every violation."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from chaos.claimed.tale import ClaimTale, Run, Write
from chaos.simulation.rules.rule import EPSILON, Findings, Violation
from millpond.claims.claim import CLOCK_MARGIN_SECONDS
from millpond.engine.outcomes import FAILURES

ClaimRule = Callable[[ClaimTale], Findings]
CLAIM_RULES: list[ClaimRule] = []


def claim_rule(function: ClaimRule) -> ClaimRule:
    """Enter it among the rules."""
    CLAIM_RULES.append(function)
    return function


def check(tale: ClaimTale) -> list[Violation]:
    """Every violation in a tale."""
    return [Violation(one.__name__, *found) for one in CLAIM_RULES for found in one(tale)]


class Owner:
    """Whose an event is, by the writes that were done so far: a model beside the store's own."""

    def __init__(self) -> None:
        self.token = ""
        self.state = "free"  # free, open, released, done
        self.lease_until = 0.0
        self.failures = 0

    def may_be_claimed(self, write: Write) -> bool:
        is_own = self.state == "open" and self.token == write.token
        return is_own or self.state in ("free", "released") or self._has_lapsed(write)

    def _has_lapsed(self, write: Write) -> bool:
        return self.state == "open" and self.lease_until + CLOCK_MARGIN_SECONDS < write.now

    def may_write(self, write: Write) -> bool:
        """Where the answer to the first write was lost, the same one is made again."""
        again = {"complete": "done", "release": "released"}.get(write.name, "")
        return self.token == write.token and self.state in ("open", again)

    def take(self, write: Write) -> None:
        is_asked_again = self.state == "open" and self.token == write.token and not self._has_lapsed(write)
        if write.is_claimed and is_asked_again:
            return  # the first write stands, whose answer was lost
        if write.is_claimed:
            self.token, self.state, self.lease_until = write.token, "open", write.more
        elif write.answer is True and write.name == "renew":
            self.lease_until = max(self.lease_until, write.more)
        elif write.answer is True:
            self.state = "done" if write.name == "complete" else "released"
            if write.name == "release":
                self.failures = write.more or 0


def _owners(tale: ClaimTale) -> Iterator[tuple[Write, Owner]]:
    """Each write, with whose the event was before it."""
    owners: dict[str, Owner] = defaultdict(Owner)
    for write in tale.writes:
        yield write, owners[write.event]
        owners[write.event].take(write)


# The store, and who writes there


@claim_rule
def claims_exclude_each_other(tale: ClaimTale) -> Findings:
    """An event is claimed where nobody has it, or has had it until the lease and the margin were over."""
    for write, owner in _owners(tale):
        if write.is_claimed and not owner.may_be_claimed(write):
            yield write.at, write.event, f"claimed, though it is {owner.state} for another token"


@claim_rule
def stale_writes_are_refused(tale: ClaimTale) -> Findings:
    """Who has lost a claim writes nothing of it."""
    for write, owner in _owners(tale):
        if write.name != "claim" and write.answer is True and not owner.may_write(write):
            yield write.at, write.event, f"{write.name} of a token whose claim is another's ({owner.state})"


@claim_rule
def each_claim_has_its_token(tale: ClaimTale) -> Findings:
    """Two deliveries have no token in common: else a stale write could not be told."""
    holders: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for run in tale.runs:
        holders[run.token].add((run.worker, run.message))
    for token, places in holders.items():
        if token and len(places) > 1:
            yield 0.0, "", f"{len(places)} deliveries have one token"


@claim_rule
def failures_are_counted_truly(tale: ClaimTale) -> Findings:
    """A release has one failure more where the run has failed, and else as many as before."""
    owners: dict[str, Owner] = defaultdict(Owner)
    runs = {run.token: run for run in tale.runs}
    for write in tale.writes:
        owner, run = owners[write.event], runs.get(write.token)
        if write.name == "release" and write.answer is True and write.more is not None and owner.state == "open":
            has_failed = run is not None and run.settled is not None and run.settled[2] in FAILURES
            if write.more != owner.failures + has_failed:
                yield write.at, write.event, f"{write.more} failures written after {owner.failures}"
        owner.take(write)


# Handlers


@claim_rule
def none_begins_without_a_claim(tale: ClaimTale) -> Findings:
    """A store that is down is no licence to repeat: the store has said Claimed, or renewed it, before."""
    allowed: dict[str, float] = {}
    for one in tale.of_kind["heard"]:
        if one.value[2] is True or type(one.value[2]).__name__ == "Claimed":
            allowed.setdefault(one.value[1], one.at)
    for run in tale.runs:
        if run.begun < allowed.get(run.token, math.inf):
            yield run.begun, run.event, f"{run.handle} begins, and the store has not said that it may"


@claim_rule
def effects_are_under_their_claims(tale: ClaimTale) -> Findings:
    """No handler has its effect once another token has the claim, unless its process stood still."""
    for run in tale.runs:
        if run.effect == math.inf:
            continue
        own = max((one.at for one in tale.of_token(run.token) if one.is_claimed and one.at <= run.begun), default=0.0)
        others = [
            one.at
            for one in tale.by_event[run.event]
            if one.is_claimed and one.token != run.token and own < one.at <= run.effect
        ]
        if others and not tale.stood_still(run.worker, own, run.effect):
            yield run.effect, run.event, f"{run.handle} has its effect, though another has the claim since {others[0]}"


@claim_rule
def effects_come_before_the_claims_end(tale: ClaimTale) -> Findings:
    """No handler runs on past what the store has confirmed of its claim, unless its process stood still."""
    asked = {one.call: one.at for one in tale.of_kind["wanted"]}
    ends: dict[int, float] = {}  # by call: until when the claim lasts by it, on the world's clock
    first: dict[str, float] = {}  # by token: of a claim that is asked for twice the first write stands
    for one in tale.of_kind["wrote"]:
        name, token, lease_until, answer, now = one.value
        if name not in ("claim", "renew") or one.call not in asked:  # a process that has crashed leaves no trace
            continue
        ends[one.call] = asked[one.call] + lease_until - now
        if type(answer).__name__ == "Claimed":
            ends[one.call] = first.setdefault(token, ends[one.call])
    confirmed: dict[str, list[tuple[float, float]]] = defaultdict(list)  # when, and until when
    for one in tale.of_kind["heard"]:
        if one.call in ends and (one.value[2] is True or type(one.value[2]).__name__ == "Claimed"):
            confirmed[one.value[1]].append((one.at, ends[one.call]))
    for run in tale.runs:
        until = max((until for at, until in confirmed[run.token] if at <= run.effect), default=0.0)
        if until + EPSILON < run.effect < math.inf and not tale.stood_still(run.worker, run.begun, run.effect):
            yield run.effect, run.event, f"{run.handle} has its effect {run.effect - until:.3f} s after its claim"


@claim_rule
def effects_are_repeated_in_the_window_only(tale: ClaimTale) -> Findings:
    """A second effect needs a first one whose done mark was never written, and a reason for that; or its own process
    stood still within its handler, from before to after the done mark."""
    by_event: dict[str, list[Run]] = defaultdict(list)
    for run in tale.runs:
        if run.effect < math.inf:
            by_event[run.event].append(run)
    for event, runs in by_event.items():
        runs.sort(key=lambda run: run.effect)
        for first, second in pairwise(runs):
            if tale.stood_still(second.worker, second.begun, second.effect):
                continue
            if any(one.name == "complete" and one.answer is True for one in tale.of_token(first.token)):
                yield second.effect, event, f"{second.handle} repeats {first.handle}, which is marked done"
            elif not _has_reason(tale, first, second.effect):
                yield second.effect, event, f"{second.handle} repeats {first.handle} for no reason"


def _has_reason(tale: ClaimTale, run: Run, until: float) -> bool:
    """Why its done mark was not written: its process ended or stood still, or calls went wrong."""
    if tale.gone.get(run.worker, math.inf) <= until or tale.stood_still(run.worker, run.begun, until):
        return True
    down = any(one.value == "down" and one.at <= until for one in tale.of_kind["store"])
    return down or tale.is_troubled(run.event)


# The end of a run


@claim_rule
def done_mark_follows_the_sends(tale: ClaimTale) -> Findings:
    """The event is marked done, or forgotten, once its follow-ups and its dead letter are confirmed."""
    confirmed = _confirmed_sends(tale)
    first: dict[str, float] = {}
    for event in tale.of_kind["wanted"]:
        name, token, more = event.value
        if name == "complete" or (name == "release" and more is None):
            first.setdefault(token, event.at)
    for run in tale.runs:
        if run.settled is None or run.token not in first or first[run.token] < run.settled[0]:
            continue
        at, name, _, follow_ups = run.settled
        needed = follow_ups + (name == "dead_lettered")
        key = (run.worker, run.event)
        sent = sum(at <= when <= first[run.token] for when in confirmed[key] + confirmed[run.worker, run.message])
        if sent < needed:
            yield first[run.token], run.event, f"{run.handle} is closed with {sent} of {needed} sends confirmed"


def _confirmed_sends(tale: ClaimTale) -> dict[tuple[str, str], list[float]]:
    asked: dict[int, list[tuple[str, str]]] = defaultdict(list)
    confirmed: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in tale.events:
        if event.what == "asked" and event.value[0] in ("job", "letter"):
            asked[event.call].append((event.worker, event.message))
        elif event.what == "answered" and event.call in asked and not event.value[1]:
            for place, failure in zip(asked[event.call], event.value[2], strict=True):
                if failure is None:
                    confirmed[place].append(event.at)
    return confirmed


@claim_rule
def deleted_after_the_done_mark(tale: ClaimTale) -> Findings:
    """The delete of a success is sent once the store has confirmed that the event is done."""
    marked = {
        one.value[1]: one.at
        for one in reversed(tale.of_kind["heard"])
        if one.value[0] == "complete" and one.value[2] is True
    }
    asked: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in tale.of_kind["asked"]:
        if one.value[0] == "delete":
            asked[one.worker, one.message].append(one.at)
    for run in tale.runs:
        if run.effect == math.inf or run.settled is None or run.settled[1] != "succeeded":
            continue
        deletes = [at for at in asked[run.worker, run.message] if run.settled[0] - EPSILON <= at <= run.over]
        if deletes and deletes[0] < marked.get(run.token, math.inf):
            yield deletes[0], run.event, f"{run.handle} is deleted before its event is marked done"


@claim_rule
def visible_after_the_release(tale: ClaimTale) -> Findings:
    """What is given back has no claim any more, unless a drain could not wait, or the lease was lost."""
    for run in tale.runs:
        if run.how not in ("retried", "released") or run.over >= tale.drains.get(run.worker, math.inf):
            continue
        owner = Owner()
        for write in tale.by_event[run.event]:
            if write.at <= run.over:
                owner.take(write)
        if owner.state == "open" and owner.token == run.token:
            yield run.over, run.event, f"{run.handle} is {run.how}, and its claim was kept"


@claim_rule
def dead_letters_forget(tale: ClaimTale) -> Findings:
    """What is dead-lettered after a run has no claim and no count: a redrive runs."""
    for run in tale.runs:
        if run.how == "dead_lettered" and not any(
            one.name == "release" and one.more is None for one in tale.of_token(run.token)
        ):
            lost = any(one.answer is False for one in tale.of_token(run.token))
            if not lost and not tale.is_troubled(run.event) and not tale.of_kind["store"]:
                yield run.over, run.event, f"{run.handle} is dead-lettered, and its claim is not forgotten"


# The world


@claim_rule
def each_event_is_done(tale: ClaimTale) -> Findings:
    """Marked done, or dead-lettered with its reason; in the end the queue is empty."""
    done = {one.event for one in tale.writes if one.name == "complete" and one.answer is True}
    told = {tale.event_of.get(one.message) for one in tale.of_kind["letter"] if one.value and one.value["reason"]}
    for event in set(tale.event_of.values()) - done - told:
        yield math.inf, event, "neither done nor dead-lettered with its reason"
    for message in tale.of_kind["the end"][0].value:
        yield math.inf, tale.event_of.get(message, message), f"{message} is in the queue long after the faults"


@claim_rule
def nothing_of_the_engine_dies(tale: ClaimTale) -> Findings:
    """No core greenlet dies, and nothing is raised in the hub."""
    for event in tale.of_kind["hub_error"] + tale.of_kind["core_error"]:
        yield event.at, "", f"{event.worker} {event.what}: {event.value}"


@claim_rule
def drains_end(tale: ClaimTale) -> Findings:
    """In time, whatever the store does."""
    drained = {event.worker: event.at for event in tale.of_kind["drained"]}
    for event in tale.of_kind["drain"]:
        latest = event.value + 0.5
        gone = min(drained.get(event.worker, math.inf), tale.gone.get(event.worker, math.inf), tale.events[-1].at)
        if gone > latest and not tale.stood_still(event.worker, event.at, latest):
            yield latest, "", f"{event.worker} has not drained in {latest - event.at:.1f} s"


def repeats(tale: ClaimTale) -> int:
    """Effects that were repeated, in the documented window."""
    effects = Counter(run.event for run in tale.runs if run.effect < math.inf)
    return sum(number - 1 for number in effects.values())
