"""One queue, wired, on a virtual clock: what becomes of messages when things go wrong."""

import json

import gevent
import pytest
from gevent.event import Event

from millpond.engine.lease_keeper import LeaseKeeper
from millpond.errors import (
    AccessDenied,
    Reject,
    Retry,
    Throttled,
    Unreachable,
)
from millpond.observe import log
from millpond.sqs.limits import MARGIN_SECONDS
from tests.engine.wired import GONE, fail, run
from tests.fakes import FakeQueue, ListOwner
from tests.handlers import Gate, fine
from tests.rig import Rig, queue_settings
from tests.virtual import settle

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def test_requests_per_1000_messages_are_given_from_100_messages_on(clock):
    rig = run(clock, {"job": fine}, wait_seconds=20)
    rig.put("job", {}, 99)
    clock.advance(1)
    assert rig.consumer.requests_per_1000 == 0.0
    rig.put("job")
    clock.advance(1)
    assert rig.consumer.requests_per_1000 == 10.0 * rig.consumer.requests


@pytest.mark.parametrize(("seconds", "took"), [(0, "less than 1 ms"), (1.5, "1.5 s")])
def test_the_line_of_a_message_that_succeeded_says_how_long_its_handler_took(clock, caplog, seconds, took):
    caplog.set_level("INFO")
    rig = run(clock, {"job": lambda payload, message: clock.sleep(seconds) if seconds else None})
    rig.consumer.books._succeeded = log.Allowance(10)
    rig.put("job")
    clock.advance(2)
    assert f"succeeded in {took}" in [record.getMessage() for record in caplog.records]


def test_a_failed_message_comes_back_after_its_back_off_until_its_attempts_are_used_up(clock):
    rig = run(clock, {"job": fail}, max_attempts=3)
    (one,) = rig.put("job")
    clock.advance(1)
    assert rig.ended[0][1].name == "retried"
    assert rig.queue.visible() == []
    clock.advance(60)
    assert [outcome.name for _, outcome in rig.ended] == ["retried", "retried", "dead_lettered"]
    assert rig.queue.deleted == {one: 1}
    (letter,) = rig.dead.messages.values()
    reason = json.loads(letter.entry.attributes["millpond"].value)
    assert reason["error"] == "ValueError: boom"
    assert reason["attempt"] == 3
    assert reason["handler"] == "tests.job"
    assert reason["message_id"] == one


def test_a_message_whose_lease_ran_out_while_it_was_ready_is_not_started(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=1, prefetch=1)
    first, second = rig.put("job", {}, 2)
    settle()
    rig.queue.script["change_visibility"] = [Unreachable("down")] * 100
    clock.advance(30 - MARGIN_SECONDS + 0.5)
    assert gate.seen == [(first, 1)]
    assert rig.outcomes() == {first: "lease_lost", second: "lease_lost"}
    gate.event.set()
    clock.advance(2)
    assert gate.seen == [(first, 1), (first, 2), (second, 2)]


def test_a_running_handler_hears_that_its_lease_is_lost_and_is_not_acknowledged(clock):
    gate = Gate()
    rig = run(clock, {"job": gate})
    rig.queue.script["change_visibility"] = [GONE]
    (one,) = rig.put("job")
    settle()
    assert gate.inside == [one]
    clock.advance(11)
    assert gate.inside == []
    assert rig.outcomes() == {one: "lease_lost"}
    assert not rig.queue.deleted


def test_receives_that_fail_back_off_and_go_on(clock):
    rig = run(clock, {"job": fine})
    rig.queue.script["receive"] = [Unreachable("down"), Throttled("slow"), AccessDenied("no")]
    (one,) = rig.put("job")
    clock.advance(0.05)
    assert rig.queue.calls["receive"] == 1  # a failing queue is not asked again at once
    clock.advance(30)
    assert rig.queue.deleted == {one: 1}
    assert len(rig.first_failures) == 3  # before any receive came back, the service hears of each


def test_a_receive_that_is_denied_while_the_worker_runs_does_not_end_it(clock):
    rig = run(clock, {"job": fine})
    (one,) = rig.put("job")
    clock.advance(1)
    rig.queue.script["receive"] = [AccessDenied("no")] * 5
    clock.advance(25)  # the open poll has ended, and the next one was denied
    assert len(rig.queue.script["receive"]) < 5
    assert rig.first_failures == []
    (two,) = rig.put("job")
    clock.advance(200)
    assert rig.first_failures == []
    assert rig.queue.deleted == {one: 1, two: 1}


def test_a_receive_that_hangs_is_given_up(clock):
    rig = run(clock, {"job": fine}, wait_seconds=20)
    rig.queue.gates["receive"] = Event()
    clock.advance(29)
    assert rig.queue.calls["receive"] == 1
    rig.queue.gates.pop("receive")
    (one,) = rig.put("job")
    clock.advance(3)
    assert rig.queue.deleted == {one: 1}


def test_successes_that_are_not_logged_one_by_one_are_counted_in_one_line(clock, caplog):
    caplog.set_level("INFO")
    rig = run(clock, {"job": fine})  # the rig's allowance is none a second
    rig.put("job", {}, 25)
    clock.advance(3)
    lines = [one for one in caplog.records if getattr(one, "event", "") == "message.succeeded"]
    assert ["25 more" in one.getMessage() for one in lines] == [True]


def follow_up_with_an_exception(payload, message):
    message.follow_up({}, reject=ValueError("550 no such user"))


def other_type(payload, message):
    message.event_type = "audit"  # to send a follow-up of another type
    message.follow_up({})
    raise ValueError("boom")


def retry_late(payload, message):
    raise Retry("later", after=10**400)


def odd_id(payload, message):
    message.event_id = 17


class Odd(Reject):
    @property
    def reason(self):
        raise RuntimeError("a bug of the user's")

    @reason.setter
    def reason(self, value):
        pass


def odd_reason(payload, message):
    raise Odd("x")


def no_list(payload, message):
    message.follow_ups = None


@pytest.mark.parametrize("handler", [follow_up_with_an_exception, other_type, retry_late, odd_id, odd_reason, no_list])
def test_no_handler_can_end_a_core_greenlet(clock, handler):
    rig = run(clock, {"job": handler})
    rig.put("job")
    clock.advance(2)
    assert rig.crashes == []


def test_a_lease_lost_while_the_payload_decodes_starts_no_handler(clock):
    ran = []
    rig = Rig(clock, {"job": lambda payload, message: ran.append(message.id)}, visibility_seconds=6)

    def slow(raw):
        clock.sleep(8)

    rig.reroute("job", decode=slow)
    rig.queue.script["change_visibility"] = [Unreachable("down")] * 100
    rig.consumer.pollers.start()
    rig.put("job")
    clock.advance(8.5)
    assert ran == []


def test_a_late_answer_to_an_extension_counts_from_its_request(clock):
    """Kills the mutant `lease: deadline from answer`."""
    queue = FakeQueue(clock)
    keeper = LeaseKeeper(
        "q", queue_settings(visibility_seconds=30, heartbeat_seconds=10), queue, 100, ListOwner(), clock, gevent.spawn
    )
    queue.put("x")
    lease = keeper.take([], queue.receive(1, 0, 30)[0].receipt_handle, clock.now())
    keeper.begin([lease], clock.now())
    queue.on_call = lambda name: clock.sleep(5) if name == "change_visibility" else None
    clock.advance(16)
    assert lease.deadline == pytest.approx(1_000 + 10.05 + 30, abs=0.1)
