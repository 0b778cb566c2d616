"""Whatever is done to a FIFO queue, in whatever order: each group keeps its order, and nothing is there twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

import tests.chance  # noqa: F401  no example has a deadline
from millpond.local.attributes import FifoSettings, LocalQueueSettings
from millpond.local.fifo import RECENT_SECONDS, FifoQueue
from millpond.local.local_poll import LocalPoll, Receipt
from millpond.local.sqs_error import SqsError
from millpond.local.stored import StoredMessage

SECONDS = st.integers(0, 30)
GROUPS = st.sampled_from("abc")
ATTEMPTS = st.sampled_from([None, None, "x", "y"])


class FifoModel(RuleBasedStateMachine):
    """The model: the messages of each group in the order in which they were sent, and when each of them is visible."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000.0
        self.queue = FifoQueue("q.fifo", LocalQueueSettings(fifo=FifoSettings()), self.now)
        self.groups: dict[str, list[str]] = {"a": [], "b": [], "c": []}
        self.visible_from: dict[str, float] = {}
        self.latest: dict[str, str] = {}
        self.originals: dict[str, tuple[float, tuple[str, str] | None]] = {}
        self.attempts: dict[str, tuple[float, dict[str, float]]] = {}  # since when; handles, and until when they hold
        self.polls: list[LocalPoll] = []
        self.taken: list[tuple[str, str]] = []
        self.sent = 0

    def is_held(self, name: str, handle: str) -> bool:
        return name in self.visible_from and self.latest[name] == handle and self.visible_from[name] > self.now

    def ready(self, group: str) -> list[str]:
        """The messages before the first that is in flight or delayed."""
        names: list[str] = []
        for name in self.groups[group]:
            if self.visible_from[name] > self.now:
                break
            names.append(name)
        return names

    def take(self, poll: LocalPoll, visibility: int) -> None:
        """A poll was answered with messages that it, and no attempt before it, received."""
        receipts = poll.receipts or []
        ready = {group: self.ready(group) for group in self.groups}
        by_group: dict[str, list[str]] = {}
        for receipt in receipts:
            by_group.setdefault(receipt.message.group_id or "", []).append(receipt.message.id)
        for group, names in by_group.items():
            assert names == ready[group][: len(names)]
        unfinished = [group for group, names in by_group.items() if len(names) < len(ready[group])]
        assert len(unfinished) <= (len(receipts) == poll.max_messages)
        if receipts and poll.attempt_id:
            until = {receipt.handle: self.now + visibility for receipt in receipts}
            self.attempts[poll.attempt_id] = (self.now, until)
        for receipt in receipts:
            self.visible_from[receipt.message.id] = self.now + visibility
            self.latest[receipt.message.id] = receipt.handle
            self.taken.append((receipt.message.id, receipt.handle))

    @rule(group=GROUPS, delay=st.sampled_from([0, 0, 0, 20]), deduplication_id=st.sampled_from("123456789"))
    def send(self, group: str, delay: int, deduplication_id: str) -> None:
        self.sent += 1
        name = str(self.sent)
        message = StoredMessage(name, "body", "md5", self.now, group_id=group, deduplication_id=deduplication_id)
        since, original = self.originals.get(deduplication_id, (0.0, None))
        if self.now < since + RECENT_SECONDS:
            assert self.queue.admit(message, delay, self.now) == original
            return
        self.groups[group].append(name)
        self.visible_from[name] = self.now + delay
        told = self.queue.admit(message, delay, self.now)
        self.originals[deduplication_id] = (self.now, told)
        assert told == (name, message.sequence_number)
        self.queue.advance(self.now)

    def expected_of(self, attempt: str | None) -> list[str] | None:
        """The handles that a receive with this id gets again; none for an ordinary receive, None for an error."""
        since, until = self.attempts.get(attempt or "", (0.0, {}))
        if self.now >= since + RECENT_SECONDS or not until or max(until.values()) <= self.now:
            return []
        names = {handle: name for name, handle in self.latest.items()}
        untouched = [
            self.is_held(names.get(h, ""), h) and self.visible_from[names[h]] == time for h, time in until.items()
        ]
        return list(until) if all(untouched) else None

    @rule(target=handles, count=st.integers(1, 4), visibility=SECONDS, wait=st.sampled_from([0, 20]), attempt=ATTEMPTS)
    def receive(self, count: int, visibility: int, wait: int, attempt: str | None) -> object:
        again = self.expected_of(attempt)
        poll = LocalPoll(count, visibility, wait, attempt)
        if again is None:
            with pytest.raises(SqsError, match="not retryable"):
                self.queue.receive(poll, self.now)
        elif again:
            self.repeat(poll, again, visibility)
        else:
            poll.on_answer = lambda: self.take(poll, visibility)
            self.polls.append(poll)
            self.queue.receive(poll, self.now)
        taken, self.taken = self.taken, []
        return multiple(*taken)

    def repeat(self, poll: LocalPoll, handles: list[str], visibility: int) -> None:
        def answer() -> None:
            receipts: list[Receipt] = poll.receipts or []
            assert [receipt.handle for receipt in receipts] == handles
            for receipt in receipts:
                self.visible_from[receipt.message.id] = self.now + visibility
            since, _ = self.attempts[poll.attempt_id or ""]
            self.attempts[poll.attempt_id or ""] = (since, dict.fromkeys(handles, self.now + visibility))

        poll.on_answer = answer
        self.queue.receive(poll, self.now)

    @rule()
    def leave(self) -> None:
        for poll in self.polls:
            self.queue.leave(poll)

    @rule(seconds=SECONDS)
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds
        self.queue.advance(self.now)

    @rule()
    def let_five_minutes_pass(self) -> None:
        self.let_time_pass(RECENT_SECONDS)

    @rule(taken=handles)
    def delete(self, taken: tuple[str, str]) -> None:
        name, handle = taken
        if self.is_held(name, handle):
            del self.visible_from[name]
            for names in self.groups.values():
                if name in names:
                    names.remove(name)
            self.queue.delete(handle, self.now)
        elif name in self.visible_from:
            with pytest.raises(SqsError, match="expired"):
                self.queue.delete(handle, self.now)
        else:
            self.queue.delete(handle, self.now)

    @rule(taken=handles, seconds=SECONDS)
    def change_visibility(self, taken: tuple[str, str], seconds: int) -> None:
        name, handle = taken
        if self.is_held(name, handle):
            self.visible_from[name] = self.now + seconds
            self.queue.change_visibility(handle, seconds, self.now)
        else:
            with pytest.raises(SqsError, match="not available for visibility timeout change"):
                self.queue.change_visibility(handle, seconds, self.now)

    @invariant()
    def counts_agree(self) -> None:
        counts = self.queue.counts(self.now)
        visible = sum(time <= self.now for time in self.visible_from.values())
        assert counts.visible == visible
        assert counts.in_flight + counts.delayed == len(self.visible_from) - visible

    @invariant()
    def no_group_is_ready_while_a_poll_waits(self) -> None:
        if any(poll.receipts is None for poll in self.polls):
            assert not any(self.ready(group) for group in self.groups)

    def teardown(self) -> None:
        self.leave()
        self.now += 60
        poll = LocalPoll(len(self.visible_from) + 1, 30, 0)
        self.queue.receive(poll, self.now)
        found: dict[str, list[str]] = {group: [] for group in self.groups}
        for receipt in poll.receipts or []:
            found[receipt.message.group_id or ""].append(receipt.message.id)
        assert found == self.groups


TestFifoModel = FifoModel.TestCase
TestFifoModel.settings = settings(max_examples=80, stateful_step_count=40)
