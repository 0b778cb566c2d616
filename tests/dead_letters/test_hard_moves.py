"""What would lose a letter, or send one twice: leases that ended unseen, answers that are none, empty filters."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from millpond.app.opener import Opener
from millpond.dead_letters import dead_letter_queue, mover, sweep
from millpond.dead_letters.dead_letter_queue import DeadLetterQueue
from millpond.dead_letters.selection import Selection
from millpond.dead_letters.sweep import Sweep
from millpond.errors import Unanswered
from millpond.local import LocalSqs
from millpond.local import server as local_server
from millpond.sqs.queue import MISSING, Attribute, Failure
from millpond.sqs.sqs_queue import SqsQueue
from tests.dead_letters.letters import Letters, letter
from tests.waiting import until

ALL = Selection()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mover, "RESEND_SECONDS", 0.001)
    monkeypatch.setattr(sweep, "WAIT_SECONDS", 0)


def test_a_lease_that_ended_unseen_is_not_held_though_sqs_takes_its_extension(letters):
    """SQS answers 200 to an extension that comes too late: a process that was stopped for a minute holds nothing."""
    letters.put(3)
    now = [0.0]
    stopped = Sweep(letters.queue.queue, Opener(), 1, clock=lambda: now[0])
    found = stopped.step()
    until(lambda: letters.counts(letters.dead_url)[1] == 0)
    now[0] = 100.0
    stopped.keep()
    assert (len(found), stopped.holds) == (3, 0)
    assert not any(stopped.is_held(one) for one in found)


def test_a_letter_that_comes_again_after_its_lease_is_not_given_twice(letters):
    letters.put(1)
    going = Sweep(letters.queue.queue, Opener(), 1)
    assert len(going.step()) == 1
    until(lambda: letters.counts(letters.dead_url)[1] == 0)
    going.keep()
    assert (going.step(), going.holds) == ([], 1)


def test_a_letter_that_was_perhaps_sent_is_not_sent_again_in_the_same_pass(letters, monkeypatch):
    """An outage loses answers and leases together."""
    letters.put(1)
    monkeypatch.setattr(dead_letter_queue, "MOVE_LEASE_SECONDS", 1)
    monkeypatch.setattr(sweep, "CALL_SECONDS", 0.1)
    send = SqsQueue.send

    def unanswered(self, entries):
        send(self, entries)
        until(lambda: letters.counts(letters.dead_url)[1] == 0)  # the lease is over
        raise Unanswered("no answer in 10 s")

    monkeypatch.setattr(SqsQueue, "send", unanswered)
    done = letters.queue.replay(ALL)
    assert (done.moved, len(done.uncertain)) == (0, 1)
    assert letters.counts(letters.url)[0] == 1


def test_a_fifo_letter_that_never_got_an_answer_is_said_to_be_perhaps_sent(fifo: Letters, monkeypatch):
    """Its deduplication id is known for five minutes only: after that another replay would send it twice unsaid."""
    ids = fifo.put(1, group_id="a")
    send = SqsQueue.send

    def unanswered(self, entries):
        send(self, entries)
        return [MISSING] * len(entries)

    monkeypatch.setattr(SqsQueue, "send", unanswered)
    done = fifo.queue.replay(ALL)
    assert (done.moved, done.refused, len(done.uncertain)) == (0, 0, 1)
    assert fifo.event_ids(fifo.url) == fifo.event_ids(fifo.dead_url) == ids


def test_a_stop_while_a_fifo_letter_waits_for_its_answer_names_it(fifo: Letters, monkeypatch):
    fifo.put(1, group_id="a")
    stop, send = fifo.queue.stop, SqsQueue.send

    def unanswered(self, entries):
        send(self, entries)
        stop.asked = True
        return [MISSING] * len(entries)

    monkeypatch.setattr(SqsQueue, "send", unanswered)
    done = fifo.queue.replay(ALL)
    assert (done.moved, len(done.uncertain), done.stopped) == (0, 1, "interrupted")


def test_a_group_that_comes_in_small_receives_moves_whole(fifo: Letters, monkeypatch):
    """SQS may give fewer than ten; it gives no more of a group while those are held."""
    ids = fifo.put(7, group_id="a")
    receive = sweep.receive_letters
    monkeypatch.setattr(sweep, "receive_letters", lambda queue, most, *rest: receive(queue, min(most, 3), *rest))
    assert fifo.queue.replay(ALL).moved == 7
    assert fifo.event_ids(fifo.url) == ids


def test_an_empty_id_names_no_letter(letters):
    """As of `dlq discard --yes "$ID"` where ID is not set: a letter that SQS moved has no original id."""
    letters.put_bare("no JSON at all")
    assert not letter(system={"DeadLetterQueueSourceArn": "arn:aws:sqs:us-east-1:000000000000:emails"}).matches_id("")
    assert letters.queue.discard(Selection(ids=[""])).moved == 0
    assert letters.counts(letters.dead_url) == (1, 0)


def test_too_short_a_beginning_of_an_id_names_no_letter():
    """Of 5,000 letters one in fifteen shares any four characters with another."""
    one = letter(message_id="3f2a91c0-0000-4000-8000-000000000000")
    assert one.matches_id("3f2a91c0")
    assert not one.matches_id("3f2a")


def test_two_batches_in_a_row_without_an_answer_end_the_move(letters, monkeypatch):
    """Each leaves ten letters that may be in both queues."""
    ids = letters.put(50)
    send = SqsQueue.send

    def unanswered(self, entries):
        send(self, entries)
        raise Unanswered("no answer in 10 s")

    monkeypatch.setattr(SqsQueue, "send", unanswered)
    done = letters.queue.replay(ALL)
    assert (done.moved, len(done.uncertain)) == (0, 20)
    assert done.stopped.startswith("no answer came to 2 batches in a row")
    assert letters.event_ids(letters.dead_url) == ids


def test_leases_are_kept_from_batch_to_batch_however_slow_the_queue_is(fifo: Letters, monkeypatch):
    """Of a FIFO group one letter goes at a time: a batch of ten is ten calls."""
    fifo.put(10, group_id="a")
    monkeypatch.setattr(dead_letter_queue, "MOVE_LEASE_SECONDS", 2)
    monkeypatch.setattr(sweep, "CALL_SECONDS", 0.5)
    send = SqsQueue.send

    def slow(self, entries):
        time.sleep(0.25)
        return send(self, entries)

    monkeypatch.setattr(SqsQueue, "send", slow)
    done = fifo.queue.replay(ALL)
    assert (done.moved, done.kept) == (10, [])


def test_leases_are_kept_while_what_was_refused_at_first_goes_again(letters, monkeypatch):
    """By then no receive is made any more, beside which they would be kept."""
    ids = letters.put(30)
    monkeypatch.setattr(dead_letter_queue, "MOVE_LEASE_SECONDS", 2)
    monkeypatch.setattr(sweep, "CALL_SECONDS", 0.5)
    send, calls = SqsQueue.send, []

    def send_again(self, entries):
        calls.append(len(entries))
        if len(calls) <= 3:
            return [*send(self, entries[:1]), *[Failure("ServiceUnavailable")] * (len(entries) - 1)]
        time.sleep(0.7)
        return send(self, entries)

    monkeypatch.setattr(SqsQueue, "send", send_again)
    done = letters.queue.replay(ALL)
    assert (done.moved, done.kept, calls) == (30, [], [10, 10, 10, 10, 10, 7])
    assert letters.event_ids(letters.url) == ids


def test_a_binary_attribute_and_a_group_go_on_to_a_standard_queue_too(fifo: Letters, server):
    """Of a FIFO dead-letter queue to a standard one: its groups are those of a fair queue."""
    blob = Attribute("Binary.png", bytes(range(256)))
    fifo.put(1, group_id="a", attributes={"blob": blob, "n": Attribute("Number", "1.50")})
    to = server.create_queue("plain")
    assert fifo.queue.replay(ALL, to=fifo.queue.queue.sqs.queue(to)).moved == 1
    [message] = fifo.receive(to)
    assert message["Attributes"]["MessageGroupId"] == "a"
    found = message["MessageAttributes"]
    assert (found["blob"]["DataType"], found["blob"]["BinaryValue"]) == ("Binary.png", blob.value)
    assert (found["n"]["DataType"], found["n"]["StringValue"]) == ("Number", "1.50")


def test_sqs_moves_itself_only_what_this_command_would_move(letters, server):
    """A dead-letter queue that another program's queue has too: its letters would go back to it unasked."""
    policy = letters.sqs.get_queue_attributes(QueueUrl=letters.url, AttributeNames=["RedrivePolicy"])["Attributes"]
    other = server.create_queue("other", {"RedrivePolicy": policy["RedrivePolicy"]})
    for url in (letters.url, other):
        letters.sqs.send_message(QueueUrl=url, MessageBody="spent")
        for _ in range(4):
            letters.receive(url, seconds=0)
    assert letters.counts(letters.dead_url) == (2, 0)
    assert not letters.queue.suits_sqs()
    assert DeadLetterQueue.of({"emails": letters.url, "other": other}).suits_sqs()


def test_a_stop_during_the_sample_begins_no_move_of_sqs(letters):
    letters.sqs.send_message(QueueUrl=letters.url, MessageBody="spent")
    for _ in range(4):
        letters.receive(letters.url, seconds=0)
    assert letters.queue.suits_sqs()
    letters.queue.stop.asked = True
    assert not letters.queue.suits_sqs()


@pytest.mark.parametrize("ahead", [-3_600.0, 3_600.0])
@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_what_is_newer_goes_by_the_clock_of_sqs_not_by_ours(monkeypatch, ahead, client):
    """A machine an hour behind would leave every letter of the last hour; one ahead would replay what comes later."""
    moved = []
    now = lambda: time.time() + ahead + 2 * bool(moved)  # noqa: E731
    monkeypatch.setattr(local_server, "time", SimpleNamespace(time=now, monotonic=time.monotonic))
    monkeypatch.setenv("SQS_CLIENT", client)
    monkeypatch.setattr(local_server, "STOP_SECONDS", 0)
    server = LocalSqs(port=0)
    server.start()
    try:
        letters = Letters(server)
        letters.put(20)

        def advance(step):
            moved.append(step)
            if len(moved) == 1:
                letters.put(10, first=500)

        done = letters.queue.replay(ALL, advance=advance)
    finally:
        server.stop()
    assert (done.moved, done.newer) == (20, 10)
