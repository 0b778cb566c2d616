"""What a snapshot of a process says, of a real consumer on a virtual clock."""

import json
import os

from millpond.errors import Unavailable
from millpond.process.snapshot import QueueDepth, read_snapshot, snapshot_json
from tests.handlers import fine
from tests.virtual import settle

LONG = 60.0


def down(payload, message):
    raise Unavailable("the mail server is down", after=30)


def test_a_snapshot_has_the_worker_its_queues_its_types_and_what_runs(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(LONG), "quick": fine}, concurrency=3)
    ids = one.rig.put("job", number=5)
    one.rig.put("quick")
    settle()
    clock.advance(7.0)
    found = one.observer.take()
    worker, [queue], types = found.worker, found.queues, {kind.event_type: kind for kind in found.types}
    assert (worker.state, worker.pid, worker.name) == ("running", os.getpid(), "test")
    assert (worker.slots_busy, worker.slots, worker.in_hand, queue.in_hand) == (3, 3, 3, 3)
    assert (queue.oldest_in_hand_seconds, queue.state, queue.leases) == (7.0, "receiving", {"held": 3})
    assert (types["job"].running, types["job"].handler, types["quick"].running) == (3, "tests.job", 0)
    assert [(row.message_id, row.attempt, row.seconds) for row in found.running] == [
        (one_id, 1, 7.0) for one_id in ids[:3]
    ]
    assert all("test_observer.py" in row.stands_at or "virtual" in row.stands_at for row in found.running)
    assert all(20.0 < row.lease_seconds_left <= 30.0 for row in found.running)
    assert worker.memory_bytes > 1_000_000


def test_the_snapshot_of_a_process_without_work_says_so(process, clock):
    one = process({"job": fine})
    one.rig.put("job", number=4)
    settle()
    clock.advance(1.0)
    [queue] = one.observer.take().queues
    assert (queue.in_hand, queue.outcomes, queue.received, queue.polls_open) == (0, {"succeeded": 4}, 4, 1)
    assert queue.oldest_in_hand_seconds == 0.0
    assert one.observer.take().types[0].outcomes == {"succeeded": 4}


def test_an_open_breaker_is_seen_with_its_reason_and_its_line(process, clock):
    one = process({"job": down})
    one.rig.put("job", number=3)
    settle()
    [kind] = one.observer.take().types
    assert (kind.breaker, kind.breaker_reason, kind.held) == ("open", "the mail server is down", 3)
    assert 0 < kind.breaker_seconds <= 60


def test_a_process_that_boots_or_drains_is_seen_to(process, clock):
    one = process({"job": fine}, start=False)
    one.start(rigs=[])
    one.observer.queues = None
    assert (one.observer.take().worker.state, one.observer.take().queues) == ("booting", [])
    one.core.stop("SIGTERM")
    assert (one.observer.state, one.observer.take().worker.why) == ("draining", "SIGTERM")


def test_a_snapshot_survives_its_way_as_json_and_has_no_body(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(LONG)})
    one.rig.put("job", "SECRET", number=2)
    settle()
    one.observer.depths["q"] = QueueDepth(asked=1.0, visible=7)
    taken = one.observer.take()
    assert read_snapshot(snapshot_json(taken)) == taken
    assert json.loads(snapshot_json(taken))["queues"][0]["depth"]["visible"] == 7
    assert b"SECRET" not in snapshot_json(taken)
    assert {row.body for row in taken.running} == {""}


def test_a_line_of_each_body_is_there_where_it_is_asked_for_without_secrets(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(LONG)})
    one.rig.put("job", {"to": "ann@example.com", "order": 7})
    settle()
    [row] = one.observer.take(bodies=True).running
    assert '"payload": {"to": "***", "order": 7}' in row.body


def test_texts_of_the_wire_are_escaped_and_cut(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(LONG)})
    body = json.dumps({"event_type": "job", "event_id": "\x1b[31m" + "x" * 500, "payload": None})
    one.rig.queue.put(body)
    settle()
    [row] = one.observer.take().running
    assert "\x1b" not in row.event_id
    assert len(row.event_id) <= 100


def test_a_hundred_are_named_at_the_most_those_that_run_for_longest(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(LONG)}, concurrency=150)
    first = one.rig.put("job", number=40)
    settle()
    clock.advance(1.0)
    one.rig.put("job", number=110)
    settle()
    found = one.observer.take()
    assert (found.worker.slots_busy, len(found.running)) == (150, 100)
    assert {row.message_id for row in found.running} >= set(first)


def test_taking_a_snapshot_changes_nothing(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(1.0)})
    one.rig.put("job", number=3)
    settle()
    for _ in range(3):
        assert one.observer.take().worker.in_hand == 3
    clock.advance(2.0)
    assert one.observer.take().worker.in_hand == 0
    assert one.rig.outcomes() == {f"m{number}": "succeeded" for number in (1, 2, 3)}
