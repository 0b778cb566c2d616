"""The queue in memory that engine tests use: what it does as SQS does it."""

from millpond.sqs.queue import Entry
from tests.fakes import FakeQueue
from tests.virtual import VirtualClock


def test_what_is_sent_with_a_delay_comes_when_it_is_due():
    queue = FakeQueue(clock := VirtualClock())
    assert queue.send([Entry("later", 60), Entry("now")]) == [None, None]
    assert [received.body for received in queue.receive(10, 0, 30)] == ["now"]
    clock.advance(59)
    assert queue.visible() == ["m2"]  # its lease is over
    clock.advance(1)
    assert sorted(received.body for received in queue.receive(10, 0, 30)) == ["later", "now"]


def test_a_deduplication_id_of_the_last_five_minutes_is_answered_and_dropped():
    queue = FakeQueue(clock := VirtualClock())
    entry = Entry("once", group_id="g", dedup_id="d")
    assert queue.send([entry, entry, Entry("other", group_id="g", dedup_id="e")]) == [None, None, None]
    clock.advance(299)
    queue.send([entry])
    assert len(queue.messages) == 2
    clock.advance(1)
    queue.send([entry])
    assert len(queue.messages) == 3
