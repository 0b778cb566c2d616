"""Looking, replaying and deleting on a real local queue: nothing is lost, nothing goes twice unsaid."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from millpond.dead_letters import dead_letter_queue, mover, sweep, turns
from millpond.dead_letters.dead_letter_queue import DeadLetterQueue
from millpond.dead_letters.mover import Moved
from millpond.dead_letters.selection import Search, Selection
from millpond.errors import AccessDenied, ConfigError, Unanswered
from millpond.sqs.sqs_queue import SqsQueue
from tests.dead_letters.letters import Letters, body_of

ALL = Selection()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mover, "RESEND_SECONDS", 0.001)
    monkeypatch.setattr(sweep, "WAIT_SECONDS", 0)


def test_a_look_takes_nothing_and_says_how_much_it_saw(letters):
    letters.put(25)
    look = letters.queue.look(ALL, most=12)
    assert (len(look.letters), look.summary) == (12, "looked at 12 of about 25")
    assert letters.counts(letters.dead_url) == (25, 0)
    assert len(letters.queue.look(ALL, most=100).letters) == 25


def test_a_look_ends_while_letters_keep_coming(letters):
    letters.put(5)
    came = []

    def another(letter):
        if len(came) < 60:
            came.extend(letters.put(1, first=100 + len(came)))
        return letter

    look = letters.queue.look(ALL, trim=another)
    assert 5 <= look.looked <= 15  # one receive at most after those that were there
    assert look.summary == f"looked at {look.looked} of about {look.looked}"


def test_letters_of_all_kinds_are_listed_and_move(letters):
    letters.put(1)
    letters.put_bare("no JSON at all")
    letters.put_bare(
        body_of("other"), MessageAttributes={"millpond": {"DataType": "Binary", "BinaryValue": b"\xff\x00"}}
    )
    letters.sqs.send_message(QueueUrl=letters.url, MessageBody=body_of("spent"))
    for _ in range(4):  # maxReceiveCount = 3: the fourth receive moves it
        letters.receive(letters.url, seconds=0)
    look = letters.queue.look(ALL)
    assert sorted(one.origin.value for one in look.letters) == ["other", "other", "sqs", "worker"]
    done = letters.queue.replay(ALL)
    assert (done.moved, done.refused) == (2, 2)  # of the two of others nobody knows the source
    assert all("name the destination by --to" in why for _, why in done.kept)
    to = letters.queue.sources["emails"]
    assert letters.queue.replay(ALL, to=to).moved == 2
    assert len(letters.take(letters.url)) == 4
    assert letters.counts(letters.dead_url) == (0, 0)


def test_a_replayed_message_keeps_body_attributes_and_trace(letters):
    letters.put(1, trace_header="Root=1-abc")
    letters.queue.replay(ALL)
    [message] = letters.receive(letters.url)
    attributes = message["MessageAttributes"]
    assert json.loads(message["Body"])["event_id"] == "e0000"
    assert attributes["tenant"]["StringValue"] == "acme"
    assert "reason" not in attributes["millpond"]["StringValue"]
    assert message["Attributes"]["AWSTraceHeader"] == "Root=1-abc"


def test_only_what_is_meant_moves_and_the_rest_is_visible_at_once(letters):
    ids = letters.put(25)
    letters.put(5, first=100, event_type="invoice.created")
    done = letters.queue.replay(Selection(types=["invoice.*"]))
    assert (done.moved, done.looked) == (5, 30)
    assert letters.counts(letters.dead_url) == (25, 0)
    assert letters.event_ids(letters.dead_url) == ids


def test_a_limit_is_a_limit(letters):
    letters.put(30)
    assert letters.queue.replay(ALL, most=7).moved == 7
    assert letters.counts(letters.dead_url) == (23, 0)
    assert letters.counts(letters.url)[0] == 7


def test_a_tenth_of_the_sends_refused_loses_and_doubles_nothing(letters, refusals):
    ids = letters.put(500)
    refusals.every, refusals.every_call = 10, 13
    done = letters.queue.replay(ALL)
    assert (done.moved, done.refused, done.stopped) == (500, 0, "")
    assert letters.event_ids(letters.url) == ids
    assert letters.counts(letters.dead_url) == (0, 0)


def test_what_is_refused_for_good_stays_with_its_reason_and_the_rest_goes(letters, refusals):
    ids = letters.put(100)
    refusals.every, refusals.shape = 10, "InvalidMessageContents"
    done = letters.queue.replay(ALL)
    assert (done.moved, done.refused, done.stopped) == (90, 10, "")
    assert {why for _, why in done.kept} == {"InvalidMessageContents: not now"}
    assert sorted(letters.event_ids(letters.url) + letters.event_ids(letters.dead_url)) == ids


def test_a_queue_that_takes_nothing_ends_the_move(letters, refusals):
    ids = letters.put(100)
    refusals.every_call = 1
    done = letters.queue.replay(ALL)
    assert done.moved == 0
    assert done.stopped == "nothing was taken 8 times in a row"
    assert letters.event_ids(letters.dead_url) == ids


def test_a_queue_that_is_gone_loses_nothing(letters):
    ids = letters.put(20)
    letters.sqs.delete_queue(QueueUrl=letters.url)
    with pytest.raises(ConfigError, match=r"the destination cannot be used: .*does not exist"):
        letters.queue.replay(ALL, to=letters.queue.sources["emails"])
    done = letters.queue.replay(ALL)
    assert (done.moved, done.refused) == (0, 20)
    assert letters.event_ids(letters.dead_url) == ids


def test_a_queue_that_goes_during_the_move_loses_nothing(letters, monkeypatch):
    ids = letters.put(50)
    send, calls = SqsQueue.send, []

    def gone_at_the_third(self, entries):
        calls.append(len(entries))
        if len(calls) == 3:
            letters.sqs.delete_queue(QueueUrl=letters.url)
        return send(self, entries)

    monkeypatch.setattr(SqsQueue, "send", gone_at_the_third)
    done = letters.queue.replay(ALL)
    assert (done.moved, calls) == (20, [10, 10, 10])
    assert "does not exist" in done.stopped
    assert len(letters.event_ids(letters.dead_url)) == len(ids) - 20


def test_an_answer_that_does_not_come_is_said_and_nothing_is_deleted(letters, monkeypatch):
    ids = letters.put(30)
    send, calls = SqsQueue.send, []

    def unanswered_at_the_second(self, entries):
        calls.append(1)
        results = send(self, entries)
        if len(calls) == 2:
            raise Unanswered("no answer in 10 s")
        return results

    monkeypatch.setattr(SqsQueue, "send", unanswered_at_the_second)
    done = letters.queue.replay(ALL)
    assert (done.moved, len(done.uncertain)) == (20, 10)
    assert letters.counts(letters.dead_url) == (10, 0)
    assert sorted({*letters.event_ids(letters.url), *letters.event_ids(letters.dead_url)}) == ids


def test_an_entry_that_the_answer_does_not_name_is_uncertain_too(letters, refusals):
    letters.put(10)
    refusals.loses_answers = True
    done = letters.queue.replay(ALL)
    assert (done.moved, len(done.uncertain)) == (9, 1)
    assert letters.counts(letters.dead_url) == (1, 0)


def test_a_stop_ends_after_the_batch_in_the_air(letters):
    ids = letters.put(100)
    stop, moved = letters.queue.stop, []

    def advance(step):
        moved.append(step)
        stop.asked = len(moved) == 3

    done = letters.queue.replay(ALL, advance=advance)
    assert (done.moved, done.stopped) == (30, "interrupted")
    assert letters.counts(letters.dead_url) == (70, 0)
    assert sorted(letters.event_ids(letters.url) + letters.event_ids(letters.dead_url)) == ids


def test_letters_that_come_after_the_start_stay(letters, monkeypatch):
    letters.put(20)
    moved = []

    def advance(step):
        moved.append(step)
        if len(moved) == 1:
            letters.put(10, first=500)

    done = letters.queue.replay(ALL, advance=advance)
    assert (done.moved, done.newer) == (20, 10)
    assert letters.counts(letters.dead_url) == (10, 0)


def test_what_fails_again_during_the_move_is_not_replayed_again_though_clocks_differ(letters, monkeypatch):
    letters.put(10)
    monkeypatch.setattr(dead_letter_queue.time, "time", lambda: 4_000_000_000.0)  # a clock that is years ahead

    def fail_again(step):
        for message in letters.take(letters.url):
            value = message["MessageAttributes"]["millpond"]["StringValue"]
            reason = {**json.loads(value), "reason": "failed", "queue": "emails"}
            attribute = {"millpond": {"DataType": "String", "StringValue": json.dumps(reason)}}
            letters.put_bare(message["Body"], MessageAttributes=attribute)

    assert letters.queue.replay(ALL, advance=fail_again).moved == 10
    assert letters.counts(letters.dead_url) == (10, 0)


def test_what_fails_the_same_way_after_three_replays_needs_force(letters):
    letters.put(1)
    for _ in range(3):
        assert letters.queue.replay(ALL).moved == 1
        [message] = letters.take(letters.url)
        mark = json.loads(message["MessageAttributes"]["millpond"]["StringValue"])
        text = json.dumps({**mark, "reason": "failed 7 times", "error": "ValueError: no", "queue": "emails"})
        letters.put_bare(message["Body"], MessageAttributes={"millpond": {"DataType": "String", "StringValue": text}})
    done = letters.queue.replay(ALL)
    assert (done.moved, done.refused) == (0, 1)
    assert "replayed 3 times before, and failed the same way each time" in done.kept[0][1]
    letters.queue.force = True
    assert letters.queue.replay(ALL).moved == 1


def test_a_lease_that_is_lost_before_the_send_moves_nothing(letters, monkeypatch):
    ids = letters.put(10)
    monkeypatch.setattr(sweep.Sweep, "is_held", lambda self, letter: letter.event_id != "e0003")
    done = letters.queue.replay(ALL)
    assert (done.moved, done.refused) == (9, 1)
    assert letters.event_ids(letters.dead_url) == [ids[3]]


def test_leases_are_kept_while_the_move_waits(letters, monkeypatch):
    letters.put(3)
    monkeypatch.setattr(dead_letter_queue, "MOVE_LEASE_SECONDS", 3)
    monkeypatch.setattr(sweep, "CALL_SECONDS", 0.2)
    assert letters.queue.replay(ALL, rate=0.5).moved == 3  # in four seconds
    assert letters.counts(letters.dead_url) == (0, 0)
    assert len(letters.take(letters.url)) == 3


def test_a_rate_is_kept(letters):
    letters.put(11)
    began = time.monotonic()
    assert letters.queue.replay(ALL, rate=20).moved == 11
    assert time.monotonic() - began >= 0.5


def test_a_delete_that_fails_is_made_again_and_a_letter_that_comes_again_is_not_sent_again(letters, monkeypatch):
    ids = letters.put(20)
    delete, calls = SqsQueue.delete, []

    def failing(self, handles):
        calls.append(1)
        if len(calls) <= mover.TRIES:
            raise Unanswered("no answer")
        return delete(self, handles)

    monkeypatch.setattr(SqsQueue, "delete", failing)
    monkeypatch.setattr(mover, "RESEND_SECONDS", 0.2)  # eight times, while the lease lasts for one second
    monkeypatch.setattr(mover, "MAX_RESEND_SECONDS", 0.2)
    monkeypatch.setattr(dead_letter_queue, "MOVE_LEASE_SECONDS", 1)
    monkeypatch.setattr(sweep, "CALL_SECONDS", 0.1)
    done = letters.queue.replay(ALL)
    assert (done.moved, len(done.left)) == (20, 10)
    assert letters.event_ids(letters.url) == ids
    assert letters.event_ids(letters.dead_url) == []  # by their new handles


@pytest.mark.parametrize("action", ["replay", "discard"])
def test_where_deletes_are_denied_no_more_than_one_batch_is_sent(letters, monkeypatch, action):
    """Or each letter would be sent, and stay as well."""
    ids = letters.put(25)

    def denied(self, handles):
        raise AccessDenied("sqs:DeleteMessage is not allowed")

    monkeypatch.setattr(SqsQueue, "delete", denied)
    done = getattr(letters.queue, action)(ALL)
    sent = 10 if action == "replay" else 0
    assert (done.moved, len(done.left), len(letters.event_ids(letters.url))) == (sent, 10, sent)
    assert done.stopped.startswith("cannot delete letters: ")
    assert letters.event_ids(letters.dead_url) == ids


def test_discard_deletes_what_is_meant_and_nothing_else(letters):
    letters.put(10)
    letters.put(5, first=100, error="KeyError: 'x'")
    done = letters.queue.discard(Selection(reason="KeyError"))
    assert done.moved == 5
    assert letters.counts(letters.dead_url) == (10, 0)


def test_an_id_that_names_no_letter_is_said(letters):
    letters.put(2)
    assert letters.queue.discard(Selection(ids=["e0001", "nosuch"])).missing == ["nosuch"]


@pytest.mark.parametrize("action", ["look", "replay", "discard"])
def test_a_pass_by_ids_ends_where_all_were_found(letters, action):
    letters.put(60)
    found = sorted(letters.queue.look(ALL).letters, key=lambda one: one.received.sent_ms)
    wanted = Selection(ids=[found[0].id[:8], found[11].id])
    done = getattr(letters.queue, action)(wanted)
    assert done.looked == 20
    assert len(letters.event_ids(letters.dead_url)) == (60 if action == "look" else 58)


def test_a_pass_by_an_event_id_goes_on_to_the_end(letters):
    """One event can have two letters: it was sent twice, or SQS delivered it twice."""
    for first in (0, 20, 0):
        letters.put(20, first=first)
    done = letters.queue.discard(Selection(ids=["e0003"]))
    assert (done.moved, done.looked) == (2, 60)


def test_an_export_by_id_ends_where_it_was_found(letters, monkeypatch):
    letters.put(30)
    search = Search(Selection(ids=[letters.queue.look(ALL).letters[0].id]))
    receive, receives = sweep.receive_letters, []
    monkeypatch.setattr(sweep, "receive_letters", lambda *call: receives.append(1) or receive(*call))
    assert len(list(letters.queue.read(search))) == 1
    assert (search.missing, len(receives)) == ([], 1)


def test_a_dead_letter_queue_with_a_redrive_policy_of_its_own_is_not_looked_at_without_force(letters, server):
    server.create_queue("last")
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:last", "maxReceiveCount": 2}
    letters.sqs.set_queue_attributes(QueueUrl=letters.dead_url, Attributes={"RedrivePolicy": json.dumps(policy)})
    letters.put(3)
    for _ in range(4):
        with pytest.raises(
            ConfigError, match="a redrive policy of its own: after 2 receives SQS moves a letter to last"
        ):
            letters.queue.look(ALL)
    assert letters.counts(letters.dead_url) == (3, 0)
    forced = DeadLetterQueue.of({"emails": letters.url}, force=True)
    assert len(forced.look(ALL).letters) == 3


def test_the_dead_letter_queue_is_no_destination(letters):
    with pytest.raises(ConfigError, match="the dead-letter queue itself"):
        letters.queue.replay(ALL, to=letters.queue.queue)


def test_a_queue_without_dead_letters_says_so(server):
    with pytest.raises(ConfigError, match="this queue has no dead-letter queue"):
        DeadLetterQueue.of({"plain": server.create_queue("plain")})


def test_fifo_letters_go_in_order_with_fresh_deduplication_ids(fifo: Letters):
    for group in ("a", "b"):
        fifo.put(12, first=100 * (group == "b"), group_id=group)
    done = fifo.queue.replay(ALL)
    assert (done.moved, done.stopped, done.kept) == (24, "", [])
    messages = fifo.take(fifo.url)
    for group, first in (("a", 0), ("b", 100)):
        of_group = [one for one in messages if one["Attributes"]["MessageGroupId"] == group]
        assert [json.loads(one["Body"])["event_id"] for one in of_group] == [
            f"e{n:04}" for n in range(first, first + 12)
        ]
    assert all(one["Attributes"]["MessageDeduplicationId"].startswith("replay-1-") for one in messages)


def test_in_a_fifo_group_none_overtakes_one_that_was_refused(fifo: Letters, refusals):
    fifo.put(4, group_id="a")
    fifo.put(4, first=100, group_id="b")
    refusals.every, refusals.shape = 3, "InvalidMessageContents"  # the first of a, of b; then the second of a
    done = fifo.queue.replay(ALL)
    sent = [json.loads(one["Body"])["event_id"] for one in fifo.take(fifo.url)]
    for group in ("e00", "e01"):
        of_group = [one for one in sent if one.startswith(group)]
        assert of_group == sorted(of_group) == [f"{group}{n:02}" for n in range(len(of_group))]
    assert done.moved == len(sent) < 8
    assert any("an earlier letter of the group" in why for _, why in done.kept)


def test_a_fifo_letter_whose_answer_was_lost_is_sent_again_and_taken_once(fifo: Letters, refusals):
    fifo.put(5, group_id="a")
    refusals.loses_answers = True
    send = SqsQueue.send

    def then_all_is_well(self, entries):
        results = send(self, entries)
        refusals.loses_answers = False
        return results

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SqsQueue, "send", then_all_is_well)
        assert fifo.queue.replay(ALL).moved == 5
    assert len(fifo.take(fifo.url)) == 5


def test_a_move_within_reach_of_some_letters_looks_at_no_more(letters):
    letters.put(40)
    done = letters.queue.replay(Selection(types=["nobody"]), reach=15)
    assert (done.moved, done.looked) == (0, 20)  # whole receives
    assert letters.counts(letters.dead_url) == (40, 0)


def test_a_move_is_seen_while_it_goes_on(letters):
    letters.put(30)
    done, seen = Moved(), []
    assert letters.queue.discard(ALL, done=done, advance=lambda _: seen.append((done.moved, done.looked))) is done
    assert seen[0] == (10, 0)
    assert seen[-1] == (30, 20)
    assert (done.moved, done.looked) == (30, 30)


def test_a_look_keeps_what_is_left_of_a_letter(letters):
    letters.put(3)
    look = letters.queue.look(ALL, trim=lambda one: msgspec.structs.replace(one, event_type="short"))
    assert [one.event_type for one in look.letters] == ["short"] * 3


def test_long_work_lets_others_run(monkeypatch):
    pauses = []
    monkeypatch.setattr(turns.time, "sleep", pauses.append)
    monkeypatch.setattr(turns, "UNSHARED_SECONDS", 10.0)
    assert list(turns.taking_turns(range(100))) == [*range(100)]
    assert pauses == []
    monkeypatch.setattr(turns, "UNSHARED_SECONDS", -1.0)
    assert list(turns.taking_turns(range(3))) == [0, 1, 2]
    assert pauses == [turns.PAUSE_SECONDS] * 3
