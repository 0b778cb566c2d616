"""What must never be in a history. Each rule is a pure function of a tale, and yields what breaks it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator

import msgspec

from chaos.simulation.history import Event, receive_of
from chaos.simulation.lives import Ask, Life, Settled, Tale
from millpond.engine.settler import GIVE_UP_SECONDS
from millpond.sqs.queue import LEASE_LOST_CODES

#: Two things at one moment may come in either order.
EPSILON = 0.001
#: Between what is due and its request: lingering, and a turn of the hub.
SLACK_SECONDS = 0.5
#: A change that failed is sent again after at most this.
PAUSE_SECONDS = 2.0
#: Near the end of 12 h no beat is worth sending.
HOLD_SECONDS = 43_000.0


class Violation(msgspec.Struct, frozen=True):
    """A rule that was broken, when, and what about."""

    rule: str
    at: float
    message: str
    text: str


Rule = Callable[[Tale], Iterator[tuple[float, str, str]]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Enter it among the rules."""
    RULES.append(function)
    return function


def check(tale: Tale) -> list[Violation]:
    """Every violation in a tale."""
    return [Violation(one.__name__, *found) for one in RULES for found in one(tale)]


# 1, 2: nothing is lost, and nothing is done twice without a reason


@rule
def nothing_lost(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """Each message is handled to its end, or dead-lettered with its reason; in the end the queue is empty."""
    done = {life.message for life in tale.lives if life.is_done}
    told = {event.message for event in tale.of_kind["letter"] if event.value and event.value["reason"]}
    for message in tale.puts.keys() - done - told:
        yield math.inf, message, "neither handled to its end nor dead-lettered with its reason"
    for message in tale.of_kind["the end"][0].value:
        yield math.inf, message, "still in the queue long after the faults have stopped"


@rule
def not_done_twice(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """A second complete handling only where something has befallen the lease."""
    done: dict[str, Life] = {}
    for life in sorted((life for life in tale.lives if life.is_done), key=lambda life: life.end):
        if life.message in done and life.message not in tale.explained:
            yield life.end, life.message, f"done again as {life.key}, after {done[life.message].key}, for no reason"
        done[life.message] = life


@rule
def not_started_after_delete(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """What is deleted is over."""
    for life in tale.lives:
        gone = tale.deleted.get(life.message, math.inf)
        if gone < life.start < math.inf and life.message not in tale.explained:
            yield life.start, life.message, f"{life.key} started though the message is deleted"


@rule
def deleted_after_its_sends(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """The copy, and every follow-up, is confirmed before the delete of the original is sent."""
    for life in tale.lives:
        for ask in life.asks:
            if ask.name == "delete" and (settled := _outcome_at(life, ask.sent)) is not None:
                needed = settled.follow_ups + (settled.name == "dead_lettered")
                sent = sum(one.done and one.ended <= ask.sent and one.sent >= settled.at for one in _sends(life))
                if sent < needed:
                    yield ask.sent, life.message, f"deleted with {sent} of {needed} sends confirmed"


def _sends(life: Life) -> list[Ask]:
    return [ask for ask in life.asks if ask.name in ("letter", "job")]


def _outcome_at(life: Life, at: float) -> Settled | None:
    settled = [one for one in life.settled if one.at <= at]
    return settled[-1] if settled else None


# 3: one writer


@rule
def one_change_at_a_time(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """At most one change of visibility of one handle is on its way."""
    for life in tale.lives:
        ended: dict[str, float] = {}
        for ask in _changes(life):
            if ask.sent < ended.get(ask.handle, 0.0):
                yield ask.sent, life.message, f"a second change of {ask.handle} while one is on its way"
            ended[ask.handle] = ask.ended


@rule
def no_change_behind_a_delete(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """Nothing is changed while the delete is on its way, or once it is confirmed."""
    for life in tale.lives:
        until: dict[str, float] = {}  # no change of this handle before
        for ask in life.asks:
            if ask.name == "delete":
                until[ask.handle] = math.inf if ask.done else ask.ended
            elif ask.name == "extend" and ask.sent < until.get(ask.handle, 0.0):
                yield ask.sent, life.message, f"{ask.handle} is changed behind its delete"


@rule
def back_off_stays(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """Once a message is given back, only its back-off is sent."""
    for life in tale.lives:
        for ask in _changes(life):
            settled = _outcome_at(life, ask.sent - EPSILON / 10)
            if settled is None or settled.name not in ("retried", "released") or ask.seconds == settled.delay:
                continue
            if ask.sent - life.got < HOLD_SECONDS:
                yield ask.sent, life.message, f"{ask.seconds} s sent over a back-off of {settled.delay} s"


def _changes(life: Life) -> list[Ask]:
    return [ask for ask in life.asks if ask.name == "extend"]


@rule
def not_past_twelve_hours(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """SQS takes no extension past them, and says that the handle is void."""
    for event in tale.of_kind["changed"]:
        if event.value[1] and "limit" in event.value[1]:
            yield event.at, event.message, f"{event.value[0]} s asked: {event.value[1]}"


# 4: never twice at once, never without a lease


@rule
def not_beside_itself(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """One message runs once at a time in one worker."""
    running: dict[tuple[str, str], Life] = {}
    for life in sorted((life for life in tale.lives if life.start < math.inf), key=lambda life: life.start):
        before = running.get((life.worker, life.message))
        if before is not None and life.start < min(before.end, tale.gone_at(life.worker)):
            yield life.start, life.message, f"{life.key} started while {before.key} runs"
        running[life.worker, life.message] = life


@rule
def not_started_without_lease(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """What may be somebody else's is not begun."""
    for life in tale.lives:
        if life.start_deadline + EPSILON < life.start < math.inf:
            yield (
                life.start,
                life.message,
                f"{life.key} started, its lease ended {life.start - life.start_deadline:.3f} s ago",
            )


@rule
def not_started_when_anybodys(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """As SQS sees it, too: what is begun is this worker's, unless nothing told it otherwise."""
    for life in tale.lives:
        if life.start_until <= life.start < math.inf and life.message not in tale.misled:
            yield (
                life.start,
                life.message,
                f"{life.key} started, visible to all since {life.start - life.start_until:.3f} s",
            )


@rule
def newest_handle_counts(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """An answer that was long on its way renews nothing: its handle is dead."""
    for life in tale.lives:
        held = life.key
        for at, handle in life.handles:
            if receive_of(handle) < receive_of(held):
                yield at, life.message, f"{held} is given up for {handle}"
            held = handle


# 5: interrupts


@rule
def interrupts_have_a_cause(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """What is thrown into a handler is meant for its delivery."""
    for life in tale.lives:
        for at, kind in life.thrown[:1]:
            if not _has_cause(tale, life, at, kind):
                yield at, life.message, f"{kind} thrown into {life.key} for no reason"


def _has_cause(tale: Tale, life: Life, at: float, kind: str) -> bool:
    match kind:
        case "TimeLimitExceeded":
            return at >= life.start + tale.plan.timeout - EPSILON
        case "LeaseLost":
            return at >= life.lost_at - EPSILON
        case "Stopped":
            return life.worker in tale.drains and at >= tale.drains[life.worker].at
    return False


@rule
def interrupted_is_not_done(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """An interrupted delivery is never acknowledged as done."""
    for life in tale.lives:
        for settled in life.settled if life.thrown else ():
            if settled.name in ("succeeded", "discarded"):
                yield settled.at, life.message, f"{life.key} was interrupted and {settled.name}"


@rule
def limits_interrupt(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """A handler does not run on past its time limit, or without its lease, unless it was told."""
    for life in tale.lives:
        if life.start == math.inf:
            continue
        end = min(life.end, tale.gone_at(life.worker), tale.events[-1].at)
        for limit, why in (
            (life.start + tale.plan.timeout, "its time limit"),
            (max(life.lost_at, life.renewed), "the end of its lease"),
        ):
            at = max(limit, life.start)
            if end - at > SLACK_SECONDS + tale.still(life.worker, at, end) and not _told_by(life, at, tale):
                yield at, life.message, f"{life.key} runs on past {why}"


def _told_by(life: Life, at: float, tale: Tale) -> bool:
    latest = at + SLACK_SECONDS + tale.still(life.worker, at, at + 120.0)
    return any(when <= latest for when, _ in life.thrown)


@rule
def done_is_deleted(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """The delete of a finished handler always travels, and soon."""
    for life in tale.lives:
        if not life.is_done or (life.settled and life.settled[0].follow_ups):
            continue
        latest = life.end + 2 * SLACK_SECONDS
        latest += tale.still(life.worker, life.end, latest + 120.0)
        asked = any(ask.name == "delete" and life.end - EPSILON <= ask.sent <= latest for ask in life.asks)
        if not asked and tale.gone_at(life.worker) > latest and tale.events[-1].at > latest:
            yield life.end, life.message, f"{life.key} is done and no delete is sent"


# 6: permits and books


@rule
def permits_bound_what_is_held(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """A message without an outcome has a permit, and there are not more of them than there are permits."""
    waiting: dict[str, set[str]] = defaultdict(set)
    for event in tale.events:
        if event.what == "got" and event.value == "new":
            waiting[event.worker].add(event.handle)
            if len(waiting[event.worker]) > tale.plan.permits:
                yield event.at, event.message, f"{len(waiting[event.worker])} held by {tale.plan.permits} permits"
        elif event.what == "settle":
            waiting[event.worker].discard(event.handle)


@rule
def books_balance(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """No permit is lost or made up; received = outcomes + in hand; what waits to be settled is bounded."""
    total, limit = tale.plan.permits, tale.plan.permits + 4 * tale.plan.limit
    for event in tale.of_kind["hold"]:
        free, held, polling, (received, ended, in_hand) = event.value
        if free < 0 or held < polling or free + held != total:
            yield event.at, "", f"{event.worker}: {free} permits free, {held} held, of {total}"
        if received != ended + in_hand:
            yield event.at, "", f"{event.worker}: {received} received, {ended} ended, {in_hand} in hand"
        if in_hand > limit:
            yield (
                event.at,
                "",
                f"{event.worker}: {in_hand} in hand, with {total} permits and room for {tale.plan.limit}",
            )


@rule
def permits_come_back(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """With nothing in hand, no permit is held but by a poll."""
    last = {event.worker: event for event in tale.of_kind["hold"]}
    for event in tale.of_kind["drained"]:
        _, held, polling, _ = last[event.worker].value
        if event.value == 0 and held != polling and not _is_calling(tale, event.worker, event.at):
            yield event.at, "", f"{event.worker}: {held} permits held with nothing in hand"


def _is_calling(tale: Tale, worker: str, at: float) -> bool:
    """Whether a call of it was on its way then, or paused before another try: what it carries holds permits back."""
    return any(
        ask.sent <= at < ask.ended + PAUSE_SECONDS for life in tale.lives if life.worker == worker for ask in life.asks
    )


# 7: the lease is kept


@rule
def lease_is_kept(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """Until a message is over, no long time passes without a change that keeps or returns it; its delete aside."""
    longest = tale.plan.visibility / 3 + PAUSE_SECONDS + SLACK_SECONDS
    for life in tale.lives:
        end = min(life.over, life.lost_at, tale.gone_at(life.worker), tale.events[-1].at, life.got + HOLD_SECONDS)
        since = max(life.got, life.renewed)  # before it came again, its lease may have been lost
        for sent, ended in [*sorted((ask.sent, ask.ended) for ask in _changes(life)), (end, end)]:
            until = min(sent, end)
            if until - since > longest + tale.still(life.worker, since, until) + _deleting(life, since, until):
                yield since, life.message, f"nothing keeps {life.key} for more than {longest:.1f} s"
                break
            since = max(since, ended)


def _deleting(life: Life, since: float, until: float) -> float:
    """Seconds of these in which its own delete was on its way: no beat may go then."""
    deletes = [(max(since, ask.sent), min(until, ask.ended)) for ask in life.asks if ask.name == "delete"]
    return sum(max(0.0, end - begin) for begin, end in deletes)


@rule
def finished_is_confirmed(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """A delivery is over once SQS has confirmed its delete, or its change; lost only where the lease was."""
    for life in tale.lives:
        if life.over == math.inf or not life.settled:
            continue
        asks = [ask for ask in life.asks if ask.ended <= life.over]
        if life.how == "lease_lost":
            confirmed = life.over >= life.lost_at - EPSILON or any(ask.failure in LEASE_LOST_CODES for ask in asks)
        elif life.how in ("retried", "released"):
            confirmed = any(ask.name == "extend" and ask.done and ask.sent >= life.settled[-1].at for ask in asks)
        else:
            confirmed = any(ask.name == "delete" and ask.done for ask in asks) or _was_given_up(life)
        if not confirmed:
            yield life.over, life.message, f"{life.key} ends as {life.how!r}, which nothing has confirmed"


def _was_given_up(life: Life) -> bool:
    """Abandoned, after all the time that a delete, a copy or a back-off is tried for."""
    settled = life.settled[-1]
    if life.how in ("succeeded", "discarded", "dead_lettered"):
        return False
    given_back = settled.name in ("retried", "released")
    return life.over >= (life.lost_at if given_back else settled.at + GIVE_UP_SECONDS) - EPSILON


@rule
def outcome_ends_the_lease(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """Nothing that is in hand when a worker has drained was left out, unless something kept it."""
    for event in tale.of_kind["drained"]:
        begin = tale.drains[event.worker].at - 10.0
        troubled = any(one.worker == event.worker and one.at >= begin for one in tale.of_kind["fault"])
        if event.value and not troubled and not tale.still(event.worker, begin, event.at):
            yield event.at, "", f"{event.worker} has drained with {event.value} in hand"


# 8: the drain


@rule
def no_receive_after_drain(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """The signal has come: no receive begins."""
    for worker, drain in tale.drains.items():
        for poll in tale.polls[worker]:
            if poll.sent > drain.at + EPSILON:
                yield poll.sent, "", f"{worker} begins a receive after its drain has begun"


@rule
def drain_ends(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """In time."""
    drained = {event.worker: event.at for event in tale.of_kind["drained"]}
    for worker, drain in tale.drains.items():
        end = drain.value + SLACK_SECONDS + tale.still(worker, drain.at, drain.value + 120.0)
        if min(drained.get(worker, math.inf), tale.gone_at(worker), tale.events[-1].at) > end:
            yield end, "", f"{worker} has not drained in {end - drain.at:.1f} s"


@rule
def own_polls_do_not_fetch_again(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """What a drain gives back stays hidden while a poll of that worker is open: that would take it along."""
    for life in tale.lives:
        drain = tale.drains.get(life.worker)
        for settled in life.settled if drain is not None else ():
            if settled.name not in ("retried", "released") or settled.at <= drain.at:
                continue
            until = max((poll.until for poll in tale.polls[life.worker] if poll.open_at(settled.at)), default=0.0)
            if settled.at + settled.delay < until - EPSILON:
                yield (
                    settled.at,
                    life.message,
                    f"given back for {settled.delay} s, a poll is open for {until - settled.at:.1f}",
                )


# 9: FIFO


@rule
def groups_in_order(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """No message of a group is started while an earlier one is in the same hands, or has been and is not done."""
    if not tale.plan.fifo:
        return
    for life, earlier in _behind(tale):
        if earlier.got <= life.start and tale.deleted.get(earlier.message, math.inf) > life.start:
            yield life.start, life.message, f"{life.key} started before {earlier.message} of its group is gone"


def _behind(tale: Tale) -> Iterator[tuple[Life, Life]]:
    """Each life that was started, with every life in the same hands of an earlier message of its group."""
    lines: dict[tuple[str, str], list[Life]] = defaultdict(list)
    for life in tale.lives:
        lines[life.worker, tale.puts[life.message][1]].append(life)
    for line in lines.values():
        for life in line:
            if life.start < math.inf:
                place = tale.puts[life.message][0]
                yield from ((life, other) for other in line if tale.puts[other.message][0] < place)


@rule
def first_ends_in_order(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """In a group, what is done for the first time comes in the order in which it was sent."""
    if not tale.plan.fifo:
        return
    last: dict[str, tuple[int, str]] = {}
    seen: set[str] = set()
    for life in sorted((life for life in tale.lives if life.is_done), key=lambda life: life.end):
        place, group, _ = tale.puts[life.message]
        if life.message not in seen and life.end <= tale.deleted.get(life.message, math.inf):  # else a dead letter
            seen.add(life.message)
            if group in last and last[group][0] > place:
                yield life.end, life.message, f"first done after {last[group][1]}, which was sent later"
            last[group] = (place, life.message)


# 10: the engine itself


@rule
def nothing_dies(tale: Tale) -> Iterator[tuple[float, str, str]]:
    """No core greenlet dies, and nothing is raised in the hub."""
    errors: list[Event] = tale.of_kind["hub_error"] + tale.of_kind["core_error"]
    for event in errors:
        yield event.at, "", f"{event.worker} {event.what}: {event.value}"
