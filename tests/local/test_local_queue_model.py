"""Whatever is done to a queue, in whatever order: no message is lost, and none is given while it is invisible."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

import tests.chance  # noqa: F401  no example has a deadline
from millpond.local.attributes import LocalQueueSettings
from millpond.local.local_poll import LocalPoll, Receipt
from millpond.local.local_queue import LocalQueue
from millpond.local.sqs_error import SqsError
from millpond.local.stored import StoredMessage

SECONDS = st.integers(0, 30)


class QueueModel(RuleBasedStateMachine):
    """The model: when each message that is not deleted is visible, and the handle of its latest receive."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000.0
        self.queue = LocalQueue("q", LocalQueueSettings(), self.now)
        self.visible_from: dict[str, float] = {}
        self.latest: dict[str, str] = {}
        self.polls: list[LocalPoll] = []
        self.taken: list[tuple[str, str]] = []
        self.sent = 0

    def take(self, receipts: list[Receipt] | None, visibility: int) -> None:
        for receipt in receipts or []:
            name = receipt.message.id
            assert self.visible_from[name] <= self.now
            self.visible_from[name] = self.now + visibility
            self.latest[name] = receipt.handle
            self.taken.append((name, receipt.handle))

    @rule(delay=SECONDS, count=st.integers(1, 3))
    def send(self, delay: int, count: int) -> None:
        messages = [StoredMessage(str(self.sent + n), "body", "md5", self.now) for n in range(count)]
        self.sent += count
        self.visible_from |= {message.id: self.now + delay for message in messages}
        self.queue.send([(message, delay) for message in messages], self.now)

    @rule(target=handles, count=st.integers(1, 3), visibility=SECONDS, wait=st.sampled_from([0, 20]))
    def receive(self, count: int, visibility: int, wait: int) -> object:
        poll = LocalPoll(count, visibility, wait)
        poll.on_answer = lambda: self.take(poll.receipts, visibility)
        self.queue.receive(poll, self.now)
        self.polls.append(poll)
        taken, self.taken = self.taken, []
        return multiple(*taken)

    @rule()
    def leave(self) -> None:
        for poll in self.polls:
            self.queue.leave(poll)

    @rule(seconds=SECONDS)
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds
        self.queue.advance(self.now)

    @rule(taken=handles)
    def delete(self, taken: tuple[str, str]) -> None:
        name, handle = taken
        if self.latest[name] == handle:
            self.visible_from.pop(name, None)
        self.queue.delete(handle, self.now)

    @rule(taken=handles, seconds=SECONDS)
    def change_visibility(self, taken: tuple[str, str], seconds: int) -> None:
        name, handle = taken
        if name not in self.visible_from or self.latest[name] != handle:
            with pytest.raises(SqsError, match="not available for visibility timeout change"):
                self.queue.change_visibility(handle, seconds, self.now)
            return
        if self.visible_from[name] > self.now:
            self.visible_from[name] = self.now + seconds
        self.queue.change_visibility(handle, seconds, self.now)

    @invariant()
    def counts_agree(self) -> None:
        counts = self.queue.counts(self.now)
        visible = sum(time <= self.now for time in self.visible_from.values())
        assert counts.visible == visible
        assert counts.in_flight + counts.delayed == len(self.visible_from) - visible

    @invariant()
    def nothing_is_visible_while_a_poll_waits(self) -> None:
        if any(poll.receipts is None for poll in self.polls):
            assert self.queue.counts(self.now).visible == 0

    def teardown(self) -> None:
        self.leave()
        self.now += 60
        poll = LocalPoll(len(self.visible_from) + 1, 30, 0)
        self.queue.receive(poll, self.now)
        assert {receipt.message.id for receipt in poll.receipts or []} == set(self.visible_from)


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=60, stateful_step_count=40)
