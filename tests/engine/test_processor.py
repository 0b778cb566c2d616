"""One delivery, one outcome: every row of the contract, and whatever else a handler or a body may do."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import itertools
import json
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal

import gevent
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond import Discard, Message, Reject, Retry, TooFast, Unavailable, Wait
from millpond.app.config import RetrySettings
from millpond.app.opener import Opener
from millpond.app.routing import Route
from millpond.engine.delivery import Delivery
from millpond.engine.processor import Processor
from millpond.errors import Interrupt, LeaseLost, Stopped, TimeLimitExceeded
from millpond.hub.interruption import MAX_INTERRUPTS
from millpond.message import Outcome
from millpond.observe import log
from millpond.sqs.limits import MAX_BYTES, MAX_HOLD_SECONDS
from millpond.sqs.queue import Attribute, Received
from tests.virtual import VirtualClock, settle

RETRY = RetrySettings(max_attempts=5, base_seconds=2, max_seconds=900)
LIMIT = 60.0


def route(call: Callable[..., object], **more: Any) -> Route:
    decode = msgspec.json.Decoder(more.pop("type", Any)).decode
    return Route("job", "jobs.run", more.pop("decode", decode), call, more.pop("timeout", LIMIT), **more)


class Owner:
    """Whose slot a stuck delivery is in."""

    name = "q"
    max_bytes = MAX_BYTES

    def __init__(self) -> None:
        self.written_off: list[Delivery] = []

    def stuck(self, delivery: Delivery) -> None:
        self.written_off.append(delivery)

    def is_last(self, delivery: Delivery) -> bool:
        return False


class Kept:
    """A lease that is never lost."""

    def is_lost(self, now: float) -> bool:
        return False


KEPT: Any = Kept()


def delivery_of(body: str = "", *, attempt: int = 1, clock: Any = None, **more: Any) -> Delivery:
    body = body or '{"event_type": "job", "event_id": "e1", "payload": null}'
    clock = clock or VirtualClock()
    return Delivery(Received("m1", "r1", body, attempt, **more), Owner(), clock, clock.time(), lease=KEPT)


def process(call: Callable[..., object], body: str = "", *, attempt: int = 1, **more: Any) -> Outcome:
    processor = Processor({"job": route(call, **more)}, RETRY, VirtualClock())
    return processor.process(delivery_of(body, attempt=attempt))


def raiser(error: BaseException) -> Callable[[Any, Message], None]:
    def run(payload: Any, message: Message) -> None:
        raise error

    return run


# --- what a handler says


def test_a_handler_that_returns_has_succeeded():
    assert process(lambda payload, message: None) == Outcome("succeeded")


@pytest.mark.parametrize(
    ("after", "seconds"), [(0, 0), (0.0, 0), (0.1, 1), (1, 1), (60.2, 61), (-5, 0), (1e9, MAX_HOLD_SECONDS)]
)
def test_retry_is_visible_again_after_whole_seconds_rounded_up(after, seconds):
    outcome = process(raiser(Retry("not yet", after=after)))
    assert outcome == Outcome("retried", "failed", "not yet", delay_seconds=seconds)


@pytest.mark.parametrize(("attempt", "longest"), [(1, 2), (2, 6), (4, 54)])
def test_retry_without_a_delay_waits_by_the_back_off(attempt, longest):
    delays = {process(raiser(Retry("not yet")), attempt=attempt).delay_seconds for _ in range(200)}
    assert min(delays) >= longest / 2
    assert max(delays) <= longest
    assert len(delays) > 1 or longest == 2


def test_retry_at_the_last_attempt_is_a_dead_letter_with_its_reason():
    assert process(raiser(Retry("not yet", after=5)), attempt=4).name == "retried"
    outcome = process(raiser(Retry("not yet", after=5)), attempt=5)
    assert outcome == Outcome(
        "dead_lettered", "failed", "not yet (received 5 times; this worker saw 1 failure; max_attempts = 5)"
    )
    assert process(raiser(Retry("not yet")), attempt=99).name == "dead_lettered"


def test_a_handlers_own_attempts_and_back_off_come_before_retry():
    own = {"max_attempts": 7, "backoff": (100, 100)}
    delays = {process(raiser(OSError()), attempt=6, **own).delay_seconds for _ in range(100)}
    assert 50 < max(delays) <= 100
    assert process(raiser(OSError()), attempt=7, **own).name == "dead_lettered"


def test_reject_is_a_dead_letter_at_once():
    assert process(raiser(Reject("no such customer"))) == Outcome("dead_lettered", "rejected", "no such customer")


def test_discard_is_deleted_with_its_reason():
    assert process(raiser(Discard("too old"))) == Outcome("discarded", "", "too old")


@pytest.mark.parametrize("attempt", [1, 5, 1_000])
def test_unavailable_waits_and_never_counts_to_the_last_attempt(attempt):
    outcome = process(raiser(Unavailable("mail server down")), attempt=attempt)
    assert outcome == Outcome("retried", "unavailable", "mail server down", delay_seconds=60, other_side=True)
    assert process(raiser(Unavailable("", after=0.5)), attempt=attempt).delay_seconds == 1


@pytest.mark.parametrize("attempt", [1, 5, 1_000])
def test_neither_too_fast_nor_wait_counts_to_the_last_attempt(attempt):
    fast = Outcome("retried", "too_fast", "429", delay_seconds=3, other_side=True, asked_seconds=2.5)
    assert process(raiser(TooFast("429", after=2.5)), attempt=attempt) == fast
    waits = Outcome("retried", "waiting", "busy domain", delay_seconds=1, asked_seconds=0.25)
    assert process(raiser(Wait("busy domain", after=0.25)), attempt=attempt) == waits
    assert process(raiser(TooFast("429")), attempt=attempt).delay_seconds >= 1


def test_an_error_of_the_network_is_a_failure_that_is_the_other_sides():
    outcome = process(raiser(ConnectionRefusedError("refused")))
    assert (outcome.name, outcome.cause, outcome.other_side) == ("retried", "failed", True)
    assert not process(raiser(ValueError("no"))).other_side


def test_an_answer_that_asks_for_fewer_is_no_failure():
    throttled = type("HTTPError", (Exception,), {"status_code": 429, "headers": {"Retry-After": "7"}})
    outcome = process(raiser(throttled("slow down")), attempt=5)
    assert outcome == Outcome(
        "retried", "too_fast", "HTTPError: slow down", delay_seconds=7, other_side=True, asked_seconds=7.0
    )


@pytest.mark.parametrize(("verdict", "theirs"), [(Retry, True), (Reject, False), (Discard, False), (Wait, False)])
def test_a_verdict_stays_what_it_is_and_a_retry_shows_what_led_to_it(verdict, theirs):
    def run(payload: Any, message: Message) -> None:
        try:
            raise ConnectionResetError
        except ConnectionResetError as error:
            raise verdict("the bank") from error

    outcome = process(run)
    assert (outcome.reason, outcome.other_side) == ("the bank", theirs)


class OwnBase(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        ExceptionGroup("many", [ValueError("odd")]),
        SystemExit(3),
        KeyboardInterrupt(),
        gevent.GreenletExit(),
        gevent.Timeout(5),
        GeneratorExit(),
        StopIteration(),
        RecursionError("too deep"),
        MemoryError(),
        asyncio.CancelledError(),
        OwnBase("mine"),
        Interrupt("not from the engine"),
        TimeLimitExceeded(),
        Stopped(),
        LeaseLost(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_anything_else_that_is_raised_is_a_failure_of_this_message(error):
    outcome = process(raiser(error))
    assert (outcome.name, outcome.cause, outcome.reason) == ("retried", "failed", "")
    assert outcome.error == f"{type(error).__name__}: {error}".removesuffix(": ")
    assert outcome.delay_seconds == 2
    last = process(raiser(error), attempt=5)
    assert (last.name, last.cause, last.reason) == (
        "dead_lettered",
        "failed",
        "received 5 times; this worker saw 1 failure; max_attempts = 5",
    )
    assert last.error == outcome.error


def test_sys_exit_in_a_handler_is_a_failure_of_this_message():
    assert process(lambda payload, message: sys.exit("bye")).error == "SystemExit: bye"


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class NotText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class ExitText(Exception):
    def __str__(self) -> str:
        sys.exit(1)


@pytest.mark.parametrize("error", [NoText, NotText, ExitText])
def test_an_error_that_cannot_be_shown_is_named(error):
    outcome = process(raiser(error()))
    assert (outcome.name, outcome.error) == ("retried", error.__name__)


@pytest.mark.parametrize("verdict", [Retry, Unavailable])
@pytest.mark.parametrize("after", ["60", float("nan"), float("inf"), timedelta(minutes=1)], ids=str)
def test_a_delay_that_is_no_number_of_seconds_ends_this_message_alone(verdict, after):
    outcome = process(raiser(verdict("later", after=after)))
    assert outcome.name == "retried"
    assert 1 <= outcome.delay_seconds <= MAX_HOLD_SECONDS


def test_unavailable_with_no_delay_is_a_minute():
    assert process(raiser(Unavailable("down", after=None))).name == "retried"


def forgetful(verdict: type[Exception]) -> Exception:
    class Forgetful(verdict):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            pass

    return Forgetful()


@pytest.mark.parametrize(
    ("verdict", "name"),
    [
        (Retry, "retried"),
        (Reject, "dead_lettered"),
        (Discard, "discarded"),
        (Unavailable, "retried"),
        (TooFast, "retried"),
        (Wait, "retried"),
    ],
)
def test_a_verdict_whose_subclass_forgets_its_base_is_that_verdict(verdict, name):
    assert process(raiser(forgetful(verdict))).name == name


@pytest.mark.parametrize("verdict", [Retry, Reject, Discard, Unavailable, TooFast, Wait])
def test_a_reason_that_is_no_text_is_made_one(verdict):
    outcome = process(raiser(verdict(ValueError("odd"))))
    assert outcome.reason == "odd"


def test_a_traceback_is_told_the_first_time_only():
    def run(payload: Any, message: Message) -> None:
        if message.attempt == 3:
            raise ValueError("here")
        raise ValueError("there")

    processor = Processor({"job": route(run)}, RETRY, VirtualClock())
    first, again, elsewhere = (processor.process(delivery_of(attempt=attempt)).traceback for attempt in (1, 2, 3))
    assert "ValueError: there" in first
    assert again == ""
    assert "ValueError: here" in elsewhere


def test_a_returned_value_is_told_once_a_handler_and_is_no_failure(caplog):
    processor = Processor({"job": route(lambda payload, message: False)}, RETRY, VirtualClock())
    for _ in range(3):
        assert processor.process(delivery_of()) == Outcome("succeeded")
    [record] = caplog.records
    assert record.event == "handler.returned"
    assert record.getMessage().startswith("jobs.run returned a bool, which is ignored")
    assert "False is not a failure here: raise" in record.getMessage()


def test_a_returned_number_is_an_int(caplog):
    Processor({"job": route(lambda payload, message: 5)}, RETRY, VirtualClock()).process(delivery_of())
    assert caplog.records[0].getMessage().startswith("jobs.run returned an int, which is ignored")


# --- follow-ups


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (None, True),
        (Reject("no"), True),
        (Discard("no"), True),
        (Retry("later"), False),
        (Unavailable("down"), False),
        (OSError(), False),
    ],
    ids=str,
)
def test_follow_ups_go_on_where_the_message_ends_and_are_forgotten_where_it_comes_back(error, kept):
    def run(payload: Any, message: Message) -> None:
        assert message.follow_up({"part": 1}, after=30) == "e1/1"
        assert message.follow_up({"part": 2}, reject="refused") == "e1/2"
        if error is not None:
            raise error

    outcome = process(run)
    if not kept:
        assert outcome.follow_ups == ()
        return
    first, second = outcome.follow_ups
    assert json.loads(first.body) == {"event_type": "job", "event_id": "e1/1", "payload": {"part": 1}}
    assert (first.after_seconds, first.reject) == (30, None)
    assert (second.event_id, second.after_seconds, second.reject) == ("e1/2", 0, "refused")


@pytest.mark.parametrize(("after", "error"), [(901, ValueError), (-1, ValueError), (0, TypeError)])
def test_a_follow_up_that_no_queue_would_take_is_an_error_in_the_handler(after, error):
    def run(payload: Any, message: Message) -> None:
        message.follow_up(object() if error is TypeError else {}, after=after)

    outcome = process(run)
    assert (outcome.name, outcome.follow_ups) == ("retried", ())
    assert outcome.error.startswith(error.__name__)


# --- @around


class Enclosing:
    """An @around that writes down what it sees."""

    def __init__(self, *, suppress: bool = False, at_enter: Any = None, at_exit: Any = None) -> None:
        self.seen: list[Any] = []
        self.suppress = suppress
        self.at_enter = at_enter
        self.at_exit = at_exit

    @contextmanager
    def around(self, message: Message) -> Iterator[None]:
        self.seen.append((message.id, gevent.getcurrent()))
        if self.at_enter is not None:
            raise self.at_enter
        try:
            yield
        except BaseException as error:
            self.seen.append(error)
            if self.at_exit is not None:
                raise self.at_exit from None
            if not self.suppress:
                raise
        else:
            self.seen.append("returned")
            if self.at_exit is not None:
                raise self.at_exit


def enclosed(enclosing: Enclosing, error: BaseException | None = None) -> Outcome:
    def run(payload: Any, message: Message) -> None:
        assert enclosing.seen == [(message.id, gevent.getcurrent())]
        if error is not None:
            raise error

    return process(run, around=enclosing.around)


ROWS = [
    (None, Outcome("succeeded")),
    (Retry("later", after=5), Outcome("retried", "failed", "later", delay_seconds=5)),
    (Reject("no"), Outcome("dead_lettered", "rejected", "no")),
    (Discard("old"), Outcome("discarded", "", "old")),
    (
        Unavailable("down", after=9),
        Outcome("retried", "unavailable", "down", delay_seconds=9, other_side=True, asked_seconds=9.0),
    ),
]


@pytest.mark.parametrize("suppress", [False, True], ids=["passes it on", "suppresses it"])
@pytest.mark.parametrize("at_exit", [None, ValueError("exit"), SystemExit(1), Reject("exit")], ids=repr)
@pytest.mark.parametrize(("error", "expected"), ROWS, ids=lambda value: getattr(value, "name", repr(value)))
def test_around_sees_what_the_handler_did_and_cannot_change_the_outcome(error, expected, suppress, at_exit, caplog):
    enclosing = Enclosing(suppress=suppress, at_exit=at_exit)
    assert enclosed(enclosing, error) == expected
    assert enclosing.seen[1:] == ["returned" if error is None else error]
    events = [record.event for record in caplog.records]
    assert events == (["around.failed"] if at_exit else [])


@pytest.mark.parametrize("suppress", [False, True])
@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(1), gevent.GreenletExit()], ids=repr)
def test_around_cannot_hide_a_failure(error, suppress):
    outcome = enclosed(Enclosing(suppress=suppress), error)
    assert (outcome.name, outcome.cause) == ("retried", "failed")
    assert outcome.error == f"{type(error).__name__}: {error}".removesuffix(": ")


def test_an_around_that_raises_before_the_handler_is_a_failure_and_the_handler_is_not_called():
    outcome = process(pytest.fail, around=Enclosing(at_enter=OSError("no database")).around)
    assert (outcome.name, outcome.error) == ("retried", "OSError: no database")


def test_an_around_may_give_the_verdict_before_the_handler_is_called():
    outcome = process(pytest.fail, around=Enclosing(at_enter=Unavailable("no database", after=7)).around)
    assert outcome.cause == "unavailable"
    assert (outcome.reason, outcome.delay_seconds, outcome.other_side) == ("no database", 7, True)


def test_an_around_that_never_yields_is_a_failure():
    @contextmanager
    def empty(message: Message) -> Iterator[None]:
        if message is None:
            yield

    assert process(pytest.fail, around=empty).error == "RuntimeError: generator didn't yield"


# --- contexts

SEEN = contextvars.ContextVar("SEEN", default="nothing")
LOCAL = threading.local()


def test_each_call_runs_in_a_fresh_context_that_its_around_shares():
    seen = []

    @contextmanager
    def around(message: Message) -> Iterator[None]:
        seen.append(SEEN.get())
        SEEN.set("around")
        yield
        seen.append(SEEN.get())

    def run(payload: Any, message: Message) -> None:
        seen.append(SEEN.get())
        SEEN.set("handler")

    processor = Processor({"job": route(run, around=around)}, RETRY, VirtualClock())
    SEEN.set("outside")
    for _ in range(2):
        processor.process(delivery_of())
    assert seen == ["nothing", "around", "handler"] * 2
    assert SEEN.get() == "outside"
    SEEN.set("nothing")


def test_thread_locals_live_as_long_as_the_slot():
    seen = []

    def run(payload: Any, message: Message) -> None:
        seen.append(getattr(LOCAL, "value", "nothing"))
        LOCAL.value = message.attempt

    processor = Processor({"job": route(run)}, RETRY, VirtualClock())

    def slot() -> None:
        for attempt in (1, 2):
            processor.process(delivery_of(attempt=attempt))

    for _ in range(2):
        gevent.spawn(slot).get(timeout=10)
    assert seen == ["nothing", 1, "nothing", 1]


def test_what_a_handler_logs_knows_its_message_and_nothing_after_it_does():
    def run(payload: Any, message: Message) -> None:
        assert log.delivery.get().identity()["message_id"] == message.id

    assert process(run) == Outcome("succeeded")
    assert log.delivery.get() is None


# --- interrupts


class Slot:
    """A greenlet that processes deliveries one after the other on a virtual clock."""

    def __init__(self, call: Callable[..., object], deliveries: int = 1, attempt: int = 1, **more: Any) -> None:
        self.clock = VirtualClock()
        self.outcomes: list[Outcome] = []
        self.deliveries = [delivery_of(attempt=attempt, clock=self.clock) for _ in range(deliveries)]
        processor = Processor({"job": route(lambda *given: call(self, *given), **more)}, RETRY, self.clock)

        def work() -> None:
            for delivery in self.deliveries:
                self.outcomes.append(processor.process(delivery))

        self.greenlet = gevent.spawn(work)
        settle()

    @property
    def outcome(self) -> Outcome:
        [outcome] = self.outcomes
        return outcome


TIMED_OUT = f"the handler ran past its time limit of {LIMIT:g} s"


def placeless(outcome: Outcome) -> str:
    """The reason without the places at which the handler stood (test_standing.py)."""
    said = r"(; it stood|(; )?its handler was interrupted|, now)"
    return re.sub(rf"{said} at [\w/]+\.py:\d+ in [\w.<>]+", "", outcome.reason)


def sleeps(slot: Slot, payload: Any, message: Message) -> None:
    slot.clock.sleep(1_000)


def test_a_handler_that_runs_past_its_time_limit_is_interrupted_and_tried_again():
    slot = Slot(sleeps)
    slot.clock.advance(LIMIT - 0.1)
    assert slot.outcomes == []
    slot.clock.advance(0.2)
    assert (slot.outcome.name, slot.outcome.cause, placeless(slot.outcome)) == ("retried", "timed_out", TIMED_OUT)
    assert 1 <= slot.outcome.delay_seconds <= 2


def test_a_handler_that_runs_past_its_limit_at_the_last_attempt_is_a_dead_letter():
    slot = Slot(sleeps, attempt=5)
    slot.clock.advance(LIMIT)
    reason = f"{TIMED_OUT} (received 5 times; this worker saw 1 failure; max_attempts = 5)"
    outcome = msgspec.structs.replace(slot.outcome, reason=placeless(slot.outcome))
    assert outcome == Outcome("dead_lettered", "timed_out", reason, other_side=True)


def test_a_time_limit_of_the_handlers_own_counts():
    slot = Slot(sleeps, timeout=5.0)
    slot.clock.advance(5)
    assert slot.outcome.cause == "timed_out"


def swallows(slot: Slot, payload: Any, message: Message) -> None:
    try:
        slot.clock.sleep(1_000)
    except Interrupt:
        message.follow_up("done all the same")


@pytest.mark.parametrize("reaction", [Retry("busy", after=0), Reject("no"), Discard("no"), ValueError(), SystemExit()])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TimeLimitExceeded, ("retried", "timed_out", TIMED_OUT)),
        (Stopped, ("released", "", "the worker shuts down")),
        (LeaseLost, ("lease_lost", "", "")),
    ],
)
def test_what_a_handler_raises_in_answer_to_an_interrupt_does_not_count(kind, expected, reaction):
    def reacts(slot: Slot, payload: Any, message: Message) -> None:
        try:
            slot.clock.sleep(1_000)
        except Interrupt:
            raise reaction from None

    slot = Slot(reacts)
    slot.deliveries[0].interrupt(kind)
    settle()
    assert (slot.outcome.name, slot.outcome.cause, placeless(slot.outcome)) == expected
    assert slot.outcome.follow_ups == ()


@pytest.mark.parametrize("kind", [TimeLimitExceeded, Stopped, LeaseLost])
def test_an_interrupted_handler_that_returns_all_the_same_is_not_acknowledged(kind):
    slot = Slot(swallows)
    slot.deliveries[0].interrupt(kind)
    settle()
    assert slot.outcome.name != "succeeded"
    assert slot.outcome.follow_ups == ()


def test_an_interrupt_that_around_suppresses_is_still_one():
    enclosing = Enclosing(suppress=True)
    slot = Slot(sleeps, around=enclosing.around)
    slot.clock.advance(LIMIT)
    assert slot.outcome.cause == "timed_out"
    assert isinstance(enclosing.seen[1], TimeLimitExceeded)


def test_an_interrupt_while_around_closes_up_is_not_acknowledged():
    @contextmanager
    def slow_to_close(message: Message) -> Iterator[None]:
        yield
        slot_of["slot"].clock.sleep(1_000)

    slot_of: dict[str, Slot] = {}

    def run(slot: Slot, payload: Any, message: Message) -> None:
        slot_of["slot"] = slot

    slot = Slot(run, around=slow_to_close)
    slot.clock.advance(LIMIT)
    assert slot.outcome.cause == "timed_out"


def test_the_limit_of_a_finished_handler_does_not_reach_the_next_one():
    def run(slot: Slot, payload: Any, message: Message) -> None:
        slot.clock.sleep(LIMIT - 1)

    slot = Slot(run, deliveries=5)
    slot.clock.advance(10 * LIMIT)
    assert slot.outcomes == [Outcome("succeeded")] * 5


def test_an_interrupt_that_comes_after_the_handlers_end_reaches_nobody():
    def run(slot: Slot, payload: Any, message: Message) -> None:
        if len(slot.outcomes) == 1:
            slot.clock.sleep(1)

    slot = Slot(run, deliveries=2)
    slot.deliveries[0].interrupt(Stopped)
    slot.clock.advance(2)
    assert slot.outcomes == [Outcome("succeeded")] * 2


def test_a_handler_that_swallows_every_interrupt_is_told_again_each_second_and_then_called_stuck():
    interrupts = []

    def run(slot: Slot, payload: Any, message: Message) -> None:
        while True:
            try:
                slot.clock.sleep(1_000)
            except Interrupt:
                interrupts.append(slot.clock.now())

    slot = Slot(run)
    start = slot.clock.now()
    slot.clock.advance(LIMIT + MAX_INTERRUPTS - 0.5)
    assert interrupts == [start + LIMIT + second for second in range(MAX_INTERRUPTS)]
    stuck = slot.deliveries[0].owner.written_off
    assert stuck == []
    slot.clock.advance(1_000)
    assert len(interrupts) == MAX_INTERRUPTS
    assert stuck == slot.deliveries
    given_up = Processor({"job": route(print)}, RETRY, VirtualClock()).given_up(slot.deliveries[0])
    assert (given_up.name, given_up.cause) == ("retried", "timed_out")
    assert placeless(given_up) == f"{TIMED_OUT}; the handler goes on in spite of interrupts"
    slot.greenlet.kill(block=False)


def test_seconds_left_counts_down_to_the_time_limit():
    seen = []

    def run(slot: Slot, payload: Any, message: Message) -> None:
        seen.append(message.seconds_left)
        slot.clock.sleep(50)
        seen.append(message.seconds_left)

    Slot(run).clock.advance(50)
    assert seen == [60.0, 10.0]


# --- bodies

ENVELOPE = '{"event_type": "job", "event_id": "e1", "payload": %s}'


class Job(msgspec.Struct):
    to: list[str]


class Recorder:
    """A handler that keeps what it is called with."""

    def __init__(self, payload_type: Any = Any, **more: Any) -> None:
        self.calls: list[tuple[Any, Message]] = []
        call = lambda payload, message: self.calls.append((payload, message))  # noqa: E731
        self.processor = Processor({"job": route(call, type=payload_type, **more)}, RETRY, VirtualClock())

    def take(self, body: str, attributes: Mapping[str, Attribute] | None = None, default_type: str = "") -> Outcome:
        return self.processor.process(delivery_of(body or " ", attributes=attributes or {}), Opener(default_type))

    @property
    def payload(self) -> Any:
        [(payload, _)] = self.calls
        return payload


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (ENVELOPE % '{"a": 1}', {"a": 1}),
        (ENVELOPE % "[1, 2]", [1, 2]),
        (ENVELOPE % "null", None),
        (ENVELOPE % r'"\u0000 and \u001f"', "\x00 and \x1f"),
        (ENVELOPE % r'"\ud83d\ude00"', "\U0001f600"),
        ('{"payload": 1, "event_type": "other", "event_type": "job", "payload": 2}', 2),
        ('{"v": [9, {}], "event_type": "job", "payload": 3, "sent_by": null}', 3),
        (ENVELOPE % ('"' + "x" * (MAX_BYTES - 60) + '"'), "x" * (MAX_BYTES - 60)),
    ],
    ids=["object", "array", "null", "NUL", "surrogate pair", "duplicate keys", "unknown keys", "1 MiB"],
)
def test_a_body_that_is_an_envelope_reaches_its_handler(body, payload):
    recorder = Recorder()
    assert recorder.take(body) == Outcome("succeeded")
    assert recorder.payload == payload


DEEP = 100_000
NOT_NAMED = "the message names no type: its body is not JSON with event_type and payload"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("no json", NOT_NAMED),
        ("   ", NOT_NAMED),
        ("{}", NOT_NAMED),
        ("[1, 2]", NOT_NAMED),
        ('"text"', NOT_NAMED),
        ('{"event_type": "job"}', "missing required field `payload`"),
        ('{"payload": 1}', "missing required field `event_type`"),
        ('{"event_type": 5, "payload": 1}', r"Expected `str`, got `int` - at `$.event_type`"),
        ('{"event_type": "job", "payload": 1', "truncated"),
        (ENVELOPE % '"\x00"', "malformed"),
        ("\x00", "malformed"),
        ("[" * DEEP, NOT_NAMED),
        (ENVELOPE % ("[" * DEEP + "]" * DEEP), "RecursionError"),
        (ENVELOPE % '"\ud800"', "UnicodeEncodeError"),
        (ENVELOPE % r'"\ud800"', NOT_NAMED),
        ("x" * MAX_BYTES, "malformed"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_body_that_is_no_envelope_is_a_dead_letter_that_says_why(body, reason):
    recorder = Recorder()
    outcome = recorder.take(body)
    assert (outcome.name, outcome.cause) == ("dead_lettered", "undecodable")
    assert reason in outcome.reason
    assert len(outcome.reason) < 1_000
    assert recorder.calls == []


def test_a_message_that_sqs_did_not_give_whole_is_a_dead_letter_whatever_its_handler_would_take():
    processor = Processor({"job": route(lambda payload, message: None)}, RETRY, VirtualClock())
    delivery = delivery_of("null", flaw="its Body in the answer of SQS is not a text")
    outcome = processor.process(delivery, Opener("job"))
    assert outcome == Outcome("dead_lettered", "undecodable", "its Body in the answer of SQS is not a text")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (ENVELOPE % '{"to": [5]}', "Expected `str`, got `int` - at `$.payload.to[0]`"),
        (ENVELOPE % "{}", "Object missing required field `to` - at `$.payload`"),
        (ENVELOPE % '{"to": "ann"}', "Expected `array`, got `str` - at `$.payload.to`"),
        (ENVELOPE % "null", "Expected `object`, got `null` - at `$.payload`"),
    ],
)
def test_a_payload_that_does_not_fit_is_a_dead_letter_with_its_path_in_the_body(body, reason):
    recorder = Recorder(Job)
    assert recorder.take(body) == Outcome("dead_lettered", "undecodable", reason)
    assert recorder.calls == []


def test_the_path_of_a_body_that_is_the_payload_itself_starts_there():
    outcome = Recorder(Job).take('{"to": [5]}', default_type="job")
    assert outcome.reason == "Expected `str`, got `int` - at `$.to[0]`"


@pytest.mark.parametrize("body", ["[" * DEEP + "]" * DEEP, '"\ud800"', "\x00", "", '{"a": 1', r'"\ud800"'])
def test_a_bare_body_that_no_json_reader_takes_is_a_dead_letter(body):
    outcome = Recorder().take(body, default_type="job")
    assert (outcome.name, outcome.cause) == ("dead_lettered", "undecodable")


@pytest.mark.parametrize(
    "error", [ValueError("odd"), KeyError("odd"), Reject("odd"), SystemExit(1), OwnBase("odd")], ids=repr
)
def test_whatever_a_payloads_own_decoding_raises_is_a_dead_letter(error):
    def decode(text: bytes) -> Any:
        raise error

    outcome = Recorder(decode=decode).take(ENVELOPE % "1")
    assert (outcome.name, outcome.cause) == ("dead_lettered", "undecodable")
    assert type(error).__name__ in outcome.reason


def test_an_unknown_type_is_a_dead_letter_that_shows_it_printably_and_cut():
    outcome = Recorder().take(json.dumps({"event_type": "a\n\x1b" + "b" * 500, "payload": 1}))
    assert outcome.name == "dead_lettered"
    assert outcome.reason.isprintable()
    assert len(outcome.reason) < 150


@pytest.mark.parametrize("event_id", ["", '"event_id": null, ', '"event_id": "", '])
def test_without_an_event_id_it_is_the_message_id(event_id):
    recorder = Recorder()
    recorder.take('{"event_type": "job", ' + event_id + '"payload": 1}')
    [(_, message)] = recorder.calls
    assert message.event_id == "m1"


@pytest.mark.parametrize("body", ['{"a": 1}', "[1]", '"text"', "5", '{"event_type": "job"}'])
def test_a_bare_body_is_the_payload_of_the_type_that_the_attribute_or_else_the_queue_names(body):
    by_attribute, by_queue, by_neither = Recorder(), Recorder(), Recorder()
    attribute = {"event_type": Attribute("String", "job")}
    assert by_attribute.take(body, attribute, default_type="other").name == "succeeded"
    assert by_queue.take(body, default_type="job").name == "succeeded"
    assert by_neither.take(body, {"event_type": Attribute("String", "other")}, "job").cause == "undecodable"
    assert by_attribute.payload == by_queue.payload == json.loads(body)


def test_an_envelope_names_its_own_type_whatever_attribute_and_queue_say():
    recorder = Recorder()
    other = {"event_type": Attribute("String", "other")}
    assert recorder.take(ENVELOPE % "1", other, default_type="another") == Outcome("succeeded")


def test_the_message_is_what_was_received():
    recorder = Recorder()
    attributes = {"tenant": Attribute("String", "a"), "key": Attribute("Binary", b"\0")}
    received = Received("m7", "r", ENVELOPE % "1", 4, 1_700_000_000_123, "group", "trace", attributes)
    recorder.processor.process(Delivery(received, Owner(), VirtualClock(), VirtualClock().time()))
    [(_, message)] = recorder.calls
    assert (message.id, message.event_id, message.event_type, message.queue) == ("m7", "e1", "job", "q")
    assert (message.attempt, message.group_id, message.body) == (4, "group", ENVELOPE % "1")
    assert message.attributes == {"tenant": "a", "key": b"\0"}
    assert message.sent_at.isoformat() == "2023-11-14T22:13:20.123000+00:00"
    assert message.received_at.isoformat() == "2023-11-14T22:30:00+00:00"


ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(ANY_TEXT, ANY_TEXT)
def test_no_body_gets_past_the_processor_without_an_outcome(body, payload):
    recorder = Recorder()
    for one in (body, ENVELOPE % json.dumps(payload), ENVELOPE % payload):
        for default_type in ("", "job"):
            outcome = recorder.take(one, default_type=default_type)
            assert (outcome.name, outcome.cause) in [("succeeded", ""), ("dead_lettered", "undecodable")]
            assert json.dumps(outcome.reason)


def test_an_exception_that_is_returned_counts_as_raised():
    """`return Retry(...)`: to acknowledge that message would lose it."""
    outcome = process(lambda payload, message: Retry("later", after=7))
    assert (outcome.name, outcome.delay_seconds) == ("retried", 7)
    assert process(lambda payload, message: Reject("never")).name == "dead_lettered"


# --- objects that do what nobody expects of them

WICKED = [SystemExit, KeyboardInterrupt, gevent.GreenletExit, gevent.Timeout, RecursionError, GeneratorExit]


def raising(error: type[BaseException]) -> property:
    def get(self: object) -> object:
        raise error

    return property(get)


def shouting(text: Any) -> Callable[[object], Any]:
    def show(self: object) -> Any:
        if isinstance(text, type):
            raise text
        return text

    return show


def odd_error(base: type[BaseException] = Exception, **members: Any) -> BaseException:
    """An error of a class that has these members; its own __init__ takes nothing."""
    return type("Odd", (base,), {"__init__": lambda self: None, **members})()


class Stretched(str):
    """Text that lies about everything."""

    __slots__ = ()

    def isprintable(self) -> bool:
        raise SystemExit

    __len__ = __getitem__ = __iter__ = replace = splitlines = isprintable  # type: ignore[assignment]


def nested(depth: int) -> BaseException:
    error: Exception = ValueError("innermost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def chained(length: int) -> BaseException:
    errors = [ValueError(number) for number in range(length)]
    for error, cause in itertools.pairwise(errors):
        error.__context__ = cause
    return errors[0]


def cyclic() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def noted(notes: object) -> BaseException:
    error = ValueError("noted")
    error.__notes__ = notes  # type: ignore[assignment]
    return error


def wrong_syntax() -> BaseException:
    error = SyntaxError("bad")
    error.lineno, error.text, error.offset, error.filename = "seven", 5, object(), b"x"  # type: ignore[assignment]
    return error


class FalseName(type):
    __name__ = raising(SystemExit)  # type: ignore[assignment]


NO_TEXT = [*WICKED, 5, None, "x" * 100_000_000, Stretched("text")]
ODD: dict[str, Callable[[], BaseException]] = {
    **{
        f"__class__ raises {error.__name__}": lambda error=error: odd_error(__class__=raising(error))
        for error in WICKED
    },
    **{f"__str__ {str(text)[:9]}": lambda text=text: odd_error(__str__=shouting(text)) for text in NO_TEXT},
    **{
        f"__repr__ {str(text)[:9]}": lambda text=text: ValueError([odd_error(__repr__=shouting(text))])
        for text in NO_TEXT
    },
    "no attribute": lambda: odd_error(__getattribute__=raising(SystemExit).fget),
    "equal to nothing": lambda: odd_error(__eq__=raising(SystemExit).fget, __hash__=raising(SystemExit).fget),
    "no name": lambda: FalseName("Odd", (Exception,), {})(),
    "no module": lambda: odd_error(__module__=Stretched("x")),
    "traceback lies": lambda: odd_error(__traceback__=raising(SystemExit)),
    "cause lies": lambda: odd_error(
        __cause__=raising(SystemExit), __context__=5, __suppress_context__=raising(OSError)
    ),
    "wrong syntax": wrong_syntax,
    "deep groups": lambda: nested(10_000),
    "wide group": lambda: ExceptionGroup("many", [ValueError(number) for number in range(100_000)]),
    "long chain": lambda: chained(100_000),
    "cycle": cyclic,
    "notes of numbers": lambda: noted([1, None, odd_error(__str__=raising(SystemExit).fget)]),
    "notes that are none": lambda: noted(5),
    "a hundred thousand notes": lambda: noted(["note"] * 100_000),
    "huge text": lambda: ValueError("x" * 100_000_000),
    "huge args": lambda: ValueError(*range(1_000_000)),
    "huge list": lambda: ValueError([["x"] * 1_000_000] * 100),
    "huge key": lambda: ValueError({"x" * 100_000_000: b"x" * 100_000_000}),
    "huge number": lambda: ValueError(10**10_000),
    "args within args": lambda: ValueError(nested(3), chained(3), cyclic()),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("how", ["raised", "returned", "raised in its thread"])
def test_whatever_an_error_is_its_message_has_an_outcome_at_once(how, make):
    error = make()

    def run(payload: Any, message: Message) -> Any:
        if how == "returned":
            return error
        raise error

    began = time.process_time()
    outcome = process(run, thread=how == "raised in its thread")
    assert (outcome.name, outcome.cause) == ("retried", "failed")
    assert time.process_time() - began < 3
    for text in (outcome.reason, outcome.error):
        assert type(text) is str
        assert text.isprintable()
        assert len(text) <= 1_000
    assert outcome.error
    assert len(outcome.traceback) <= 10_000


@pytest.mark.parametrize(
    ("verdict", "ends"),
    [
        (Retry, "retried"),
        (Reject, "dead_lettered"),
        (Discard, "discarded"),
        (Unavailable, "retried"),
        (TooFast, "retried"),
        (Wait, "retried"),
    ],
)
def test_a_verdict_needs_no_reason(verdict, ends):
    def run(payload: Any, message: Message) -> None:
        raise verdict

    outcome = process(run)
    assert (outcome.name, outcome.reason, outcome.error) == (ends, "", "")


@pytest.mark.parametrize("wicked", WICKED, ids=lambda error: error.__name__)
@pytest.mark.parametrize("name", ["after", "reason"])
@pytest.mark.parametrize(
    ("verdict", "ending"),
    [
        (Retry, ("retried", "failed")),
        (Reject, ("dead_lettered", "rejected")),
        (Discard, ("discarded", "")),
        (Unavailable, ("retried", "unavailable")),
        (TooFast, ("retried", "too_fast")),
        (Wait, ("retried", "waiting")),
    ],
)
def test_a_verdict_stays_one_whatever_it_says(verdict, ending, name, wicked):
    outcome = process(raiser(odd_error(verdict, **{name: raising(wicked)})))
    assert (outcome.name, outcome.cause) == ending
    assert outcome.reason == ""


def test_a_delay_is_read_past_the_methods_of_its_type():
    class Minute(int):
        __lt__ = __gt__ = __ceil__ = __int__ = __index__ = raising(SystemExit).fget  # type: ignore[assignment]

    assert process(raiser(Retry("later", after=Minute(60)))).delay_seconds == 60


def test_what_is_read_of_an_error_is_within_its_handlers_time():
    class Slow(Exception):
        def __str__(self) -> str:
            slots[0].clock.sleep(1_000)
            return "late"

    slots: list[Slot] = []

    def run(slot: Slot, payload: Any, message: Message) -> None:
        slots.append(slot)
        raise Slow

    slot = Slot(run)
    slot.clock.advance(LIMIT)
    assert slot.outcome.cause == "timed_out"


@pytest.mark.parametrize("part", ["__enter__", "__exit__", "call", "truth"])
@pytest.mark.parametrize("make", [ODD["no attribute"], ODD["__class__ raises SystemExit"], ODD["cycle"]])
def test_an_around_that_raises_such_an_object_ends_its_message_alone(part, make):
    class Manager:
        def __enter__(self) -> None:
            if part == "__enter__":
                raise make()

        def __exit__(self, *error: object) -> Any:
            if part == "__exit__":
                raise make()
            return odd_error(__bool__=raising(SystemExit).fget) if part == "truth" else None

    def around(message: Message) -> Any:
        if part == "call":
            raise make()
        return Manager()

    before = part in ("__enter__", "call")
    assert process(lambda payload, message: None, around=around).name == ("retried" if before else "succeeded")
    assert process(raiser(make()), around=around).name == "retried"


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
def test_a_payload_whose_decoding_raises_such_an_object_is_a_dead_letter(make):
    outcome = process(print, decode=lambda payload: raiser(make())(payload, None))
    assert (outcome.name, outcome.cause) == ("dead_lettered", "undecodable")
    assert outcome.reason.isprintable()
    assert len(outcome.reason) < 1_000


# --- what a reason says of a payload


class Colour(enum.Enum):
    RED = "red"


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    colour: Colour = Colour.RED
    kind: Literal["a", "b"] = "a"
    amount: int = 0

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ValueError("an amount is not negative")
        if self.amount > 10**9:
            raise ValueError(f"{self.amount} is too much")


class Model(pydantic.BaseModel):
    colour: Colour = Colour.RED
    cents: int = 0
    by_name: dict[str, int] = {}


@pytest.mark.parametrize(
    ("payload", "payload_type", "reason"),
    [
        ({"colour": "HIDE-ME"}, Strict, "Invalid enum value - at `$.payload.colour`"),
        ({"kind": "HIDE-ME"}, Strict, "Invalid enum value - at `$.payload.kind`"),
        ({"HIDE-ME": 1}, Strict, "Object contains unknown field - at `$.payload`"),
        ({"amuont": 1}, Strict, "Object contains unknown field `amuont` - at `$.payload`"),
        ({"amount": -1}, Strict, "an amount is not negative - at `$.payload`"),
        ({"amount": 4711_4711_4711}, Strict, "ValueError (test_processor.py:"),
        ({"colour": "HIDE-ME"}, Model, "enum - at `$.payload.colour`"),
        ({"cents": "HIDE-ME"}, Model, "int_parsing - at `$.payload.cents`"),
        ({"by_name": {"HIDE-ME": "x"}}, Model, "int_parsing - at `$.payload.by_name[...]`"),
    ],
)
def test_a_reason_names_paths_and_types_and_no_value(payload, payload_type, reason):
    decode = payload_type.model_validate_json if payload_type is Model else None
    more = {"decode": lambda raw: decode(bytes(raw))} if decode else {"type": payload_type}
    outcome = process(pytest.fail, json.dumps({"event_type": "job", "payload": payload}), **more)
    assert outcome.cause == "undecodable"
    assert outcome.reason.startswith(reason)
    assert "HIDE" not in outcome.reason
    assert "4711" not in outcome.reason


@pytest.mark.parametrize(
    "decode",
    [
        lambda text: int(text),
        lambda text: {}[text],
        lambda text: Colour(text),
        lambda text: datetime.fromisoformat(text),
        lambda text: uuid.UUID(text),
        lambda text: pytest.fail(f"what is {text}?"),
    ],
)
def test_an_error_that_quotes_the_payload_is_told_by_its_type_and_its_place(decode):
    body = json.dumps({"event_type": "job", "payload": "ann 0815 HIDE-ME"})
    outcome = process(print, body, decode=lambda raw: decode(json.loads(bytes(raw))))
    assert outcome.cause == "undecodable"
    assert re.search(r"\w+ \(\w+\.py:\d+\)$|: badly formed hexadecimal UUID string$", outcome.reason)
    assert not re.search("HIDE|0815|ann", outcome.reason)


def test_the_name_of_a_key_that_is_missing_is_told():
    body = json.dumps({"event_type": "job", "payload": {"name": "Ann"}})
    outcome = process(print, body, decode=lambda raw: json.loads(bytes(raw))["customer"])
    assert outcome.reason == "the payload does not fit: KeyError: 'customer'"


def test_an_error_whose_text_raises_an_interrupt_of_the_engines_own_is_a_failure():
    assert process(raiser(odd_error(__str__=raising(Stopped).fget))).error == "its error cannot be read"


@pytest.mark.parametrize(
    "name", ["__class__ raises SystemExit", "__str__ text", "wrong syntax", "cycle", "traceback lies"]
)
def test_of_an_odd_error_what_can_be_read_is_told(name):
    outcome = process(raiser(ODD[name]()))
    assert re.match(r"(Odd|SyntaxError|ValueError)\b", outcome.error), outcome.error
    assert "Traceback (most recent call last)" in outcome.traceback


def test_an_error_that_calls_itself_a_verdict_is_none():
    liar = odd_error(__class__=property(lambda self: Reject), reason="I am one")
    assert process(raiser(liar)).cause == "failed"
    assert process(lambda payload, message: liar).cause == "failed"


def test_a_value_whose_type_cannot_be_asked_is_returned_like_any_other(caplog):
    value = odd_error(object, __class__=raising(SystemExit))  # type: ignore[arg-type]
    assert process(lambda payload, message: value) == Outcome("succeeded")
    assert "returned a Odd" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("verdict", [Retry, Reject, Discard, Unavailable, TooFast, Wait])
def test_a_reason_is_one_printable_line_that_has_an_end(verdict):
    reason = process(raiser(verdict("no\n\x1b[2J" + "x" * 1_000_000))).reason
    assert reason.isprintable()
    assert reason.startswith(r"no\n\x1b[2Jxxx")
    assert len(reason) <= 600


@pytest.mark.parametrize("after", [float("nan"), float("inf"), "60", None])
def test_a_verdict_without_a_usable_delay_keeps_its_reason(after):
    assert process(raiser(Retry("later", after=after))).reason == "later"
    assert process(raiser(Unavailable("down", after=after))).delay_seconds == 60


def test_tracebacks_are_told_of_so_many_places_only(monkeypatch):
    monkeypatch.setattr("millpond.engine.raised.MAX_SEEN", 1)

    def run(payload: Any, message: Message) -> None:
        if message.attempt == 1:
            raise ValueError
        raise KeyError

    processor = Processor({"job": route(run)}, RETRY, VirtualClock())
    assert processor.process(delivery_of(attempt=1)).traceback
    assert processor.process(delivery_of(attempt=2)).traceback == ""


@pytest.mark.parametrize(
    "make",
    [lambda: Stretched("no"), lambda: odd_error(__str__=raising(SystemExit).fget), lambda: "x" * 1_000_000],
    ids=["lies", "raises", "huge"],
)
def test_whatever_a_follow_up_is_rejected_with_is_a_text_of_ours(make):
    def run(payload: Any, message: Message) -> None:
        message.follow_up({}, reject=make())

    [job] = process(run).follow_ups
    assert type(job.reject) is str
    assert len(job.reject) <= 500


def test_a_delayed_message_that_is_handled_at_its_first_receive_has_used_up_that_attempt():
    body = '{"not_before":1,"event_type":"job","event_id":"e1","payload":null}'
    outcome = Processor({"job": route(raiser(ValueError("boom")))}, RetrySettings(1, 2, 900), VirtualClock()).process(
        delivery_of(body, attempt=1)
    )
    assert outcome.name == "dead_lettered"
