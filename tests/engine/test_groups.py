"""The order of a FIFO queue: in one group one after another, whatever fails; the groups side by side."""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event

from millpond.app.config import RetrySettings
from millpond.app.routing import Route
from millpond.engine.ask import ATTEMPT_SECONDS
from millpond.engine.books import Books
from millpond.engine.consumer import Consumer
from millpond.engine.delivery_state import SETTLING, WAITING
from millpond.engine.groups import Groups
from millpond.engine.permits import Permits
from millpond.engine.processor import Processor
from millpond.errors import AccessDenied, Discard, Interrupt, Reject, Retry, Stopped, Throttled, Unreachable
from millpond.hub.pool import Pool
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.sqs.queue import Entry, Failure, Received
from tests.fakes import FakeQueue, Stored
from tests.handlers import Gate, fine
from tests.limited import Limited
from tests.rig import queue_settings
from tests.virtual import VirtualClock, settle

GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)
BROKEN = Failure("InternalError", "try again")
REFUSED = Failure("InvalidMessageContents", "no", sender_fault=True)
VISIBILITY = 30


# --- groups alone


class Lines:
    """Groups, and what they have started and given back."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.given_back: list[str] = []
        self.groups = Groups(self)

    def make_ready(self, delivery: Any) -> None:
        self.started.append(delivery.name)

    def end_soon(self, delivery: Any, outcome: Any) -> None:
        self.given_back.append(delivery.name)

    def join(self, *names: str) -> list[Any]:
        """A delivery each; the letter is its group."""
        all_of_them = [
            SimpleNamespace(name=name, state=WAITING, received=SimpleNamespace(group_id=name[0])) for name in names
        ]
        for one in all_of_them:
            self.groups.join(one)  # type: ignore[arg-type]
        return all_of_them


@pytest.fixture
def lines() -> Lines:
    return Lines()


def test_the_first_of_each_group_starts_and_the_others_stand_behind_it(lines):
    lines.join("a1", "a2", "b1", "a3", "b2", "c1")
    assert lines.started == ["a1", "b1", "c1"]


def test_each_that_is_done_starts_the_next_of_its_own_group(lines):
    a1, a2, b1, a3 = lines.join("a1", "a2", "b1", "a3")
    lines.groups.leave(a1)
    assert lines.started == ["a1", "b1", "a2"]
    lines.groups.leave(b1)
    lines.groups.leave(a2)
    lines.groups.leave(a3)
    assert lines.started == ["a1", "b1", "a2", "a3"]
    assert lines.given_back == []


def test_a_group_whose_line_was_empty_begins_again(lines):
    (a1,) = lines.join("a1")
    lines.groups.leave(a1)
    lines.join("a2")
    assert lines.started == ["a1", "a2"]


@pytest.mark.parametrize("end", ["leave", "fail"])
def test_a_group_that_is_over_leaves_nothing_behind(lines, end):
    class Name(str):
        __slots__ = ("__weakref__",)

    names = [Name(f"group {number}") for number in range(3)]
    gone = [weakref.ref(name) for name in names]
    while names:
        one = SimpleNamespace(name="x", state=WAITING, received=SimpleNamespace(group_id=names.pop()))
        lines.groups.join(one)
        getattr(lines.groups, end)(one)
        del one
    gc.collect()
    assert [name() for name in gone] == [None] * 3


def test_all_behind_one_that_fails_are_given_back_in_order_and_other_groups_go_on(lines):
    a1, b1, *_ = lines.join("a1", "b1", "a2", "b2", "a3")
    lines.groups.fail(a1)
    assert lines.given_back == ["a2", "a3"]
    lines.groups.leave(b1)
    assert lines.started == ["a1", "b1", "b2"]
    lines.join("a1")  # it comes again
    assert lines.started[-1] == "a1"


def test_what_is_done_without_being_the_first_of_its_line_leaves_it_and_starts_nothing(lines):
    a1, a2, _ = lines.join("a1", "a2", "a3")
    lines.groups.leave(a2)
    assert lines.given_back == []
    assert lines.started == ["a1"]
    lines.groups.fail(a1)
    lines.groups.fail(a1)
    lines.groups.leave(a1)
    assert lines.given_back == ["a3"]
    assert lines.started == ["a1"]


def test_what_is_being_settled_does_not_start_as_the_one_before_it_is_done(lines):
    a1, a2, a3 = lines.join("a1", "a2", "a3")
    a2.state = SETTLING
    lines.groups.leave(a1)
    assert lines.started == ["a1"]
    lines.groups.leave(a2)
    assert lines.started == ["a1", "a3"]
    lines.groups.leave(a3)


def test_one_that_is_lost_in_the_middle_of_a_line_leaves_it_with_those_behind_it(lines):
    """It was held behind the first one. Left in the line, it was begun when that one was done: after its own end."""
    a1, a2, *_ = lines.join("a1", "a2", "a3", "a4")
    lines.groups.fail(a2)
    assert lines.given_back == ["a3", "a4"]
    lines.groups.leave(a1)
    assert lines.started == ["a1"]
    lines.join("a2")
    assert lines.started == ["a1", "a2"]


def test_what_waits_can_be_taken_out_and_what_has_started_stays(lines):
    a1, *_ = lines.join("a1", "a2", "a3", "b1")
    assert sorted(one.name for one in lines.groups.take_waiting()) == ["a2", "a3"]
    lines.groups.leave(a1)
    assert lines.started == ["a1", "b1"]
    assert lines.groups.take_waiting() == []


# --- a consumer of a FIFO queue


class FifoQueue(FakeQueue):
    """Messages of a group come in order; none while one of it is in flight. An attempt id brings its answer again."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock, "http://queue.test/000000000000/q.fifo")
        self.attempts: list[str] = []
        self.answers: dict[str, list[Received]] = {}
        self.lose: list[Exception] = []  # what becomes of the next answers

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        self.attempts.append(attempt_id)
        found = self.answers.get(attempt_id)
        if found is None:
            found = super().receive(max_messages, wait_seconds, visibility_seconds)
        if attempt_id:
            self.answers[attempt_id] = found
        if self.lose:
            raise self.lose.pop(0)
        return found

    def _wait(self, end: float) -> None:
        woken = self.clock.event()
        self._arrival.rawlink(lambda _: woken.set())
        now = self.clock.now()
        later = [one.visible_at for one in self.messages.values() if one.visible_at > now]
        woken.wait(max(0.001, min(end, *later, end) - now))

    def _take(self, number: int, visibility_seconds: int) -> list[Received]:
        now = self.clock.now()
        locked = {one.entry.group_id for one in self.messages.values() if one.visible_at > now}
        free = [one for one in self.messages.values() if one.entry.group_id not in locked]
        return [self._give(one, visibility_seconds) for one in free[:number]]

    def _give(self, one: Stored, visibility_seconds: int) -> Received:
        one.receives += 1
        one.handle = f"{one.id}#{one.receives}"
        self._hide(one, visibility_seconds)
        entry = one.entry
        more = entry.group_id, entry.trace_header, entry.attributes
        return Received(one.id, one.handle, entry.body, one.receives, one.sent_ms, *more)

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        """Written down only."""
        return [self._enter("send", entries)] * len(entries)

    def _delete(self, handle: str) -> Failure | None:
        failure = super()._delete(handle)
        self._arrival.set()
        return failure


class Fifo:
    """One consumer of a FIFO queue, wired as boot.py does it. `log` has (what, group, number) in order."""

    def __init__(
        self,
        handle: Callable[[Any, Any], object],
        *,
        concurrency: int = 10,
        wait_seconds: int = 20,
        max_attempts: int = 50,
        pollers: int = 4,
        fifo: bool = True,
        finishes: bool = False,
    ) -> None:
        self.fifo = fifo
        self.clock = VirtualClock()
        self.queue = FifoQueue(self.clock)
        self.dead = FakeQueue(self.clock)
        self.log: list[tuple[str, str, int]] = []
        self.early: list[Any] = []  # what began before all before it were gone from the queue
        self.ids: dict[tuple[str, int], str] = {}
        self.ended: list[tuple[tuple[str, int], str]] = []
        self.crashes: list[BaseException] = []
        self._handle = handle
        option = "finish" if finishes else "interrupt"
        routes = {"job": Route("job", "tests.job", msgspec.json.decode, self._work, on_lease_lost=option)}
        self.pool: Pool[Any] = Pool(concurrency, self._crashed)
        self.pool._wake_later = self.pool._wake_soon  # type: ignore[method-assign]  # no real timers here
        books = Books("q", routes, Metrics(), log.Allowance(0), self.clock)
        self.consumer = Consumer(
            "q",
            queue_settings(fifo, wait_seconds=wait_seconds, visibility_seconds=VISIBILITY, pollers=pollers),
            Limited(self.queue, self.clock),
            Limited(self.dead, self.clock),
            processor=Processor(routes, RetrySettings(max_attempts, 2, 10), self.clock),
            books=books,
            share=Permits(concurrency, 1, self.clock).share(0),
            pool=self.pool,
            max_waiting=20,
            first_receive_failed=lambda error: None,
            clock=self.clock,
            spawn=self.spawn,
        )
        self.books = books
        finish = books.finish

        def finished(deliveries: Any) -> None:
            for delivery in deliveries:
                payload = json.loads(delivery.received.body)["payload"]
                self.ended.append(((payload[0], payload[1]), delivery.outcome.name))
            finish(deliveries)

        books.finish = finished  # type: ignore[method-assign]
        self.consumer.pollers.start()

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn(function, *args)
        greenlet.link_exception(self._crashed)
        return greenlet

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        self.crashes.append(greenlet.exception)

    def _work(self, payload: Any, message: Any) -> None:
        group, number = payload
        assert message.group_id == group
        before = [self.ids[group, earlier] for earlier in range(number)]
        if self.fifo and any(one in self.queue.messages for one in before):
            self.early.append((group, number))
        self.log.append(("began", group, number))
        try:
            self._handle(payload, message)
        except BaseException:
            self.log.append(("failed", group, number))
            raise
        self.log.append(("done", group, number))

    def put(self, group: str, first: int, number: int) -> None:
        for index in range(first, first + number):
            body = json.dumps({"event_type": "job", "event_id": f"e{group}{index}", "payload": [group, index]})
            (self.ids[group, index],) = self.queue.put(body, group_id=group)

    def handle_of(self, group: str, number: int) -> str:
        return self.queue.messages[self.ids[group, number]].handle

    def saw(self, what: str) -> list[tuple[str, int]]:
        return [(group, number) for seen, group, number in self.log if seen == what]

    def outcomes(self) -> dict[tuple[str, int], str]:
        return dict(self.ended)


@pytest.fixture(autouse=True)
def no_core_greenlet_died(monkeypatch):
    made: list[Fifo] = []
    init = Fifo.__init__

    def keep(self: Fifo, *args: Any, **more: Any) -> None:
        made.append(self)
        init(self, *args, **more)

    monkeypatch.setattr(Fifo, "__init__", keep)
    yield
    assert [one.crashes for one in made if one.crashes] == []
    assert [one.early for one in made if one.early] == []


@pytest.mark.parametrize("seed", range(12))
def test_whatever_fails_each_group_is_done_in_its_order(seed):
    """Handlers of any length that fail in any way; deletes and give-backs that fail; answers that are lost."""
    dice = random.Random(seed)

    def handle(payload: Any, message: Any) -> None:
        one.clock.sleep(dice.choice([0.0, 0.01, 0.3, 2.0]))
        if dice.random() < 0.3:
            raise dice.choice([ValueError("boom"), Retry("later", after=dice.choice([0, 1, 5])), Retry("now", after=0)])
        if dice.random() < 0.1:
            raise dice.choice([Reject("never"), Discard("old")])

    one = Fifo(handle)
    for name in ("delete", "change_visibility"):
        one.queue.script[name] = [dice.choice([None, None, BROKEN, Unreachable("no network")]) for _ in range(40)]
    one.queue.lose = [Unreachable("no answer")]
    for first in range(0, 30, 5):
        for group in "abc":
            one.put(group, first, 5)
        one.clock.advance(dice.choice([0, 1, 5]))
    for _ in range(60):
        one.clock.advance(30)
    assert one.queue.messages == {}
    gone = [which for which, outcome in one.ended if outcome in ("succeeded", "dead_lettered", "discarded")]
    for group in "abc":
        assert [number for name, number in gone if name == group] == list(range(30))
    assert one.books.outcomes["retried"] > 0
    assert one.books.outcomes["released"] > 0


def test_after_a_failure_none_of_those_in_hand_behind_it_runs_before_it():
    def handle(payload: Any, message: Any) -> None:
        if payload[1] == 1 and message.attempt == 1:
            raise Retry("not yet", after=7)

    one = Fifo(handle)
    one.put("a", 0, 5)
    one.clock.advance(6)
    assert one.log == [("began", "a", 0), ("done", "a", 0), ("began", "a", 1), ("failed", "a", 1)]
    assert one.outcomes() == {
        ("a", 0): "succeeded",
        ("a", 1): "retried",
        ("a", 2): "released",
        ("a", 3): "released",
        ("a", 4): "released",
    }
    one.clock.advance(6)
    assert one.saw("done") == [("a", number) for number in range(5)]
    assert one.queue.messages == {}


def test_what_fails_and_all_behind_it_go_back_in_one_call():
    def handle(payload: Any, message: Any) -> None:
        if message.attempt == 1:
            raise Retry("not yet", after=7)

    one = Fifo(handle)
    one.put("a", 0, 5)
    one.clock.advance(6)
    assert [len(changes) for changes in one.queue.batches["change_visibility"]] == [5]


@pytest.mark.parametrize("finishes", [False, True], ids=["interrupt", "finish"])
def test_a_lost_lease_gives_back_all_behind_it_too(finishes):
    gate = Gate()
    one = Fifo(gate, finishes=finishes)
    one.put("a", 0, 3)
    one.put("b", 0, 1)
    settle()
    lost = one.handle_of("a", 0)

    def refuse_one(changes: Any) -> list[Failure | None]:
        return [GONE if handle == lost else None for handle, _ in changes]

    real, one.queue.change_visibility = one.queue.change_visibility, refuse_one  # type: ignore[method-assign]
    one.clock.advance(VISIBILITY / 3 + 1)
    one.queue.change_visibility = real  # type: ignore[method-assign]
    if finishes:
        assert one.ended == []
        gate.event.set()
        one.queue.script["delete"] = [GONE]
    one.clock.advance(1)
    outcomes = one.outcomes()
    assert outcomes["a", 0] == "lease_lost"
    assert (outcomes["a", 1], outcomes["a", 2]) == ("released", "released")
    assert ("a", 1) not in one.saw("began")
    gate.event.set()
    one.clock.advance(2 * VISIBILITY)
    assert [number for group, number in one.saw("done") if group == "a"][-3:] == [0, 1, 2]


def test_a_message_that_waits_in_line_is_leased_like_any_other():
    gate = Gate()
    one = Fifo(gate)
    one.put("a", 0, 5)
    for _ in range(5):  # less than the handler's time limit
        one.clock.advance(VISIBILITY / 3)
        assert one.queue.visible() == []
    gate.event.set()
    one.clock.advance(1)
    assert one.saw("done") == [("a", number) for number in range(5)]
    assert one.books.received == 5


def test_groups_run_side_by_side_and_of_each_only_the_first():
    gate = Gate()
    one = Fifo(gate)
    for number in range(2):
        for group in "abcde":
            one.put(group, number, 1)
    settle()
    assert one.saw("began") == [(group, 0) for group in "abcde"]
    gate.event.set()
    one.clock.advance(1)
    assert sorted(one.saw("done")) == sorted((group, number) for group in "abcde" for number in range(2))


def test_the_next_of_a_group_starts_only_once_the_delete_is_confirmed():
    one = Fifo(fine)
    one.queue.gates["delete"] = Event()
    one.queue.script["delete"] = [BROKEN]
    one.put("a", 0, 2)
    one.clock.advance(5)
    assert one.log == [("began", "a", 0), ("done", "a", 0)]
    one.queue.gates.pop("delete").set()
    settle()
    assert one.saw("began") == [("a", 0)]  # that delete has failed
    one.clock.advance(5)
    assert one.saw("done") == [("a", 0), ("a", 1)]


def test_a_group_is_worked_off_without_any_linger():
    one = Fifo(fine)
    one.put("a", 0, 10)
    one.clock.advance(0)
    assert one.saw("done") == [("a", number) for number in range(10)]
    assert one.queue.messages == {}


def test_messages_of_a_standard_queue_that_have_a_group_all_run_at_once():
    """There a group is a tenant, for fairness; nobody is promised an order."""
    gate = Gate()
    one = Fifo(gate, fifo=False)
    one.put("a", 0, 5)
    settle()
    assert len(one.saw("began")) == 5
    gate.event.set()
    settle()


# --- drain


def test_a_drain_holds_back_what_waits_in_line_and_the_first_ends():
    gate = Gate()
    one = Fifo(gate, wait_seconds=1)
    one.put("a", 0, 3)
    one.put("b", 0, 2)
    settle()
    one.consumer.drain(one.clock.now() + 60)
    one.clock.advance(2)
    assert one.consumer.pollers.ended.is_set()
    one.consumer.give_back_held()
    one.clock.advance(1)
    assert one.outcomes() == dict.fromkeys([("a", 1), ("a", 2), ("b", 1)], "released")
    gate.event.set()
    one.clock.advance(1)
    assert one.saw("began") == one.saw("done") == [("a", 0), ("b", 0)]
    assert one.consumer.hand.idle.is_set()
    assert sorted(one.queue.visible()) == sorted(one.ids[which] for which in [("a", 1), ("a", 2), ("b", 1)])


def test_a_drain_that_interrupts_the_first_gives_the_group_back_whole():
    one = Fifo(Gate(), wait_seconds=1)
    one.put("a", 0, 3)
    settle()
    one.consumer.drain(one.clock.now() + 60)
    one.clock.advance(2)
    one.consumer.give_back_held()
    one.consumer.interrupt(Stopped)
    one.clock.advance(1)
    assert one.outcomes() == {("a", number): "released" for number in range(3)}
    assert one.saw("began") == [("a", 0)]
    assert len(one.queue.visible()) == 3


def test_no_delete_of_a_group_lingers_since_the_next_one_waits_for_it():
    one = Fifo(fine)
    one.put("a", 0, 8)
    one.clock.advance(0.1)
    assert one.saw("done") == [("a", number) for number in range(8)]


# --- what is sent


def reject_with_follow_ups(payload: Any, message: Any) -> None:
    message.follow_up({"part": 1})
    message.follow_up({"part": 2}, reject="550 no such user")
    raise Reject("no such customer")


def test_dead_letters_and_follow_ups_carry_the_group_and_a_dedup_id_each():
    one = Fifo(reject_with_follow_ups)
    one.put("a", 0, 1)
    message_id = one.ids["a", 0]
    one.queue.script["send"] = [Throttled("slower")]  # a retry must carry the same ones
    one.clock.advance(5)
    jobs = [job for batch in one.queue.batches["send"] for job in batch]
    letters = [letter for batch in one.dead.batches["send"] for letter in batch]
    assert {entry.group_id for entry in jobs + letters} == {"a"}
    assert len(jobs) == len(letters) == 2
    assert len({job.dedup_id for job in jobs}) == 1  # the same job, sent again
    assert len({entry.dedup_id for entry in jobs + letters}) == 3
    assert message_id in {letter.dedup_id for letter in letters}
    assert one.queue.deleted == {message_id: 1}


def test_on_a_standard_queue_nothing_carries_a_dedup_id():
    one = Fifo(reject_with_follow_ups, fifo=False)
    one.put("a", 0, 1)
    one.clock.advance(5)
    entries = [entry for queue in (one.queue, one.dead) for batch in queue.batches["send"] for entry in batch]
    assert [entry.dedup_id for entry in entries] == ["", "", ""]


def test_a_dead_letter_that_is_refused_holds_up_its_group_and_the_order_stays():
    def handle(payload: Any, message: Any) -> None:
        if payload[1] == 0 and message.attempt == 1:
            raise Reject("never")

    one = Fifo(handle)
    one.dead.script["send"] = [REFUSED] * 2  # with its reason, and without
    one.put("a", 0, 3)
    one.clock.advance(60)
    assert one.saw("began") == [("a", 0), ("a", 0), ("a", 1), ("a", 2)]
    assert one.ended[0] == (("a", 0), "retried")
    assert one.queue.messages == {}


# --- receives whose answer was lost


def polls(one: Fifo, seconds: float) -> list[str]:
    """The attempt ids of the receives so far."""
    one.clock.advance(seconds)
    return one.queue.attempts


def test_a_receive_whose_answer_was_lost_is_made_again_by_the_same_attempt_id_and_brings_the_messages():
    gate = Gate()
    one = Fifo(gate, pollers=1)
    one.queue.lose = [Unreachable("the connection ended"), Unreachable("the connection ended")]
    one.put("a", 0, 2)
    first, second, third, *_ = polls(one, 10)
    assert first == second == third != ""
    assert one.saw("began") == [("a", 0)]
    assert one.queue.messages[one.ids["a", 0]].receives == 1
    gate.event.set()
    one.clock.advance(1)
    assert one.saw("done") == [("a", 0), ("a", 1)]


@pytest.mark.parametrize("error", [Throttled("slower"), AccessDenied("no")], ids=lambda error: type(error).__name__)
def test_a_receive_that_was_answered_with_an_error_is_made_again_by_a_fresh_attempt_id(error):
    one = Fifo(fine, pollers=1)
    one.queue.script["receive"] = [error]
    one.put("a", 0, 1)
    first, second, *_ = polls(one, 20)
    assert "" not in (first, second)
    assert first != second
    assert one.saw("done") == [("a", 0)]


def test_every_receive_that_is_answered_has_an_attempt_id_of_its_own():
    one = Fifo(fine, wait_seconds=1)
    for number in range(5):
        one.put("a", number, 1)
        one.clock.advance(1)
    assert len(set(one.queue.attempts)) == len(one.queue.attempts) >= 5
    assert "" not in one.queue.attempts


def test_an_attempt_id_is_given_up_before_sqs_forgets_it():
    one = Fifo(fine, pollers=1)
    one.queue.lose = [Unreachable("the connection ended")] * 1_000
    one.put("a", 0, 1)
    ids = polls(one, ATTEMPT_SECONDS - 40)
    assert len(set(ids)) == 1
    assert len(set(polls(one, 80))) == 2


def test_a_standard_queue_is_asked_without_attempt_ids():
    one = Fifo(fine, fifo=False, pollers=1)
    one.queue.lose = [Unreachable("the connection ended")]
    one.put("a", 0, 1)
    assert set(polls(one, 60)) == {""}
    assert one.saw("done") == [("a", 0)]


def test_an_interrupt_is_no_way_past_the_order():
    """A handler that runs past its time limit fails as any other."""

    def handle(payload: Any, message: Any) -> None:
        if message.attempt == 1 and payload[1] == 0:
            try:
                one.clock.sleep(1_000)
            except Interrupt:
                raise Retry("later", after=0) from None

    one = Fifo(handle)
    one.put("a", 0, 2)
    one.clock.advance(61)
    assert one.saw("began")[0] == ("a", 0)
    one.clock.advance(60)
    assert one.saw("done") == [("a", 0), ("a", 1)]
