"""Whatever comes in whatever order, of one message's lease: one writer, and no lease that is kept in belief only.

The machine decides when the hub turns and when it stands still, when a call reaches SQS, and when its answer comes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Literal

import gevent
import msgspec
import pytest
from gevent.event import Event
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import tests.chance  # noqa: F401  no example has a deadline
from millpond.engine.handler_call import HANDLER_CODE
from millpond.engine.lease import LIMIT_SECONDS, Lease
from millpond.engine.lease_keeper import LeaseKeeper
from millpond.engine.lease_state import DELETING, ENDED, HELD, LEAVING, LETTING_GO, LOST
from millpond.errors import Throttled, Unreachable
from millpond.hub.pulse import Pulse
from millpond.process.watchdog import GuardedQueue, Watchdog
from millpond.sqs.limits import MARGIN_SECONDS, MAX_HOLD_SECONDS
from millpond.sqs.queue import Failure
from tests.fakes import ListOwner
from tests.rig import queue_settings
from tests.virtual import VirtualClock, settle

VISIBILITY = 30
BEAT = 10.0
HOLDS = [MAX_HOLD_SECONDS, 100]
PATIENCE = st.integers(0, 8)
OURS = {HELD, DELETING}
#: How much earlier than its answer says a receive was.
TRANSIT = st.sampled_from([0.0, MARGIN_SECONDS])
GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)
BROKEN = Failure("InternalError")

Sender = Literal["hub", "delete", "thread"]
#: What an answer says: it was done; one entry failed; the call failed; an error page that looks like a lost lease.
ANSWERS: dict[str, Any] = {
    "done": None,
    "failed": BROKEN,
    "unreachable": Unreachable("no answer"),
    "throttled": Throttled("slower"),
    "garbage": Unreachable("garbage", code="InvalidParameterValue"),
    "gone": GONE,  # somebody has deleted it
}


class Call(msgspec.Struct, eq=False):
    """One call on its way: it reaches the queue once, or never, and its answer comes after that."""

    sender: Sender
    changes: list[tuple[str, int]]
    answered: Event
    reached: bool = False
    late: bool = False  # the message was visible, or somebody else's, by then: nothing happened
    results: list[Failure | None] = []
    says: str = "done"

    def result(self) -> list[Failure | None]:
        said = ANSWERS[self.says]
        if isinstance(said, Exception):
            raise said
        return self.results if said is None else [said] * len(self.changes)


class OneMessage:
    """SQS with one message in it, exactly. Calls wait here until the machine lets them through."""

    url = "http://queue.test/q"

    def __init__(self, clock: VirtualClock, strict: bool) -> None:
        self.clock = clock
        self.strict = strict  # too late, or an old handle: an error, or (as AWS may say) 200 and nothing happens
        self.receives = 0
        self.visible_at = clock.now()
        self.deleted = False
        self.flying: list[Call] = []
        self.changed_by: Call | None = None
        self.on_send: Callable[[Call], object] = lambda call: None

    @property
    def handle(self) -> str:
        return f"r{self.receives}"

    @property
    def is_visible(self) -> bool:
        return not self.deleted and self.visible_at <= self.clock.now()

    def receive(self) -> str:
        assert self.is_visible
        self.receives += 1
        self.visible_at = self.clock.now() + VISIBILITY
        self.changed_by = None
        return self.handle

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        return self.send("hub", list(changes))

    def rescue(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        return self.send("thread", list(changes))

    def send(self, sender: Sender, changes: list[tuple[str, int]]) -> list[Failure | None]:
        call = Call(sender, changes, Event())
        self.on_send(call)
        self.flying.append(call)
        call.answered.wait()
        return call.result()

    def reach(self, call: Call) -> None:
        call.reached = True
        call.results = [self._change(call, handle, seconds) for handle, seconds in call.changes]

    def _change(self, call: Call, handle: str, seconds: int) -> Failure | None:
        if call.sender == "delete":
            self.deleted = self.deleted or handle == self.handle
            return None
        if self.strict and (self.deleted or handle != self.handle or self.is_visible):
            return GONE
        if not self.deleted and handle == self.handle and not self.is_visible:
            self.visible_at = self.clock.now() + seconds
            self.changed_by = call
        else:
            call.late = True
        return None


class LeaseModel(RuleBasedStateMachine):
    """A worker that has one message in hand, or had it, and gets it again; beside it the watchdog's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.wrong: list[str] = []
        self.greenlets: list[gevent.Greenlet] = []
        self.leases: dict[str, Lease] = {}
        self.sent_back: dict[str, int] = {}  # handle -> seconds, once that was sent
        self.give_backs: list[Call] = []
        self.patience = 0  # steps until the work is done
        self.fails = False  # the work: its message is given back
        self.losses: Counter[int] = Counter()  # told, of a lease that was not redelivered since
        self.arriving: tuple[str, float] | None = None  # a poll's answer on its way, and since when
        self.wish: int | None = None
        self.delete_flies = False
        self.answering: Call | None = None
        self.thread: gevent.Greenlet | None = None

    @initialize(
        strict=st.booleans(), hold=st.sampled_from([MAX_HOLD_SECONDS, 100]), patience=PATIENCE, fails=st.booleans()
    )
    def begin(self, strict: bool, hold: int, patience: int, fails: bool) -> None:
        self.patience, self.fails = patience, fails
        self.queue = OneMessage(self.clock, strict)
        self.queue.on_send = self.sent
        self.keeper = LeaseKeeper(
            "q",
            queue_settings(visibility_seconds=VISIBILITY, heartbeat_seconds=BEAT, max_hold_seconds=hold),
            self.queue,
            100,
            self,
            self.clock,
            self.spawn,
        )
        self.guard = GuardedQueue(lambda: list(self.leases.values())[-1:], self.queue.rescue, lambda: None)
        self.watchdog = Watchdog(
            Pulse(self.clock),
            self.clock,
            [self.guard],
            beat_seconds=BEAT,
            max_block_seconds=60,
            handler_code=HANDLER_CODE,
        )
        self.take(self.queue.receive(), self.clock.now())

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn(function, *args)
        greenlet.link_exception(lambda dead: self.wrong.append(f"a greenlet died: {dead.exception!r}"))
        self.greenlets.append(greenlet)
        return greenlet

    def teardown(self) -> None:
        gevent.killall(self.greenlets)

    def take(self, handle: str, since: float) -> None:
        self.lease = self.leases[handle] = self.keeper.take([], handle, since)
        self.keeper.begin([self.lease], since)
        self.lease.item = self.lease
        self.wish, self.delete_flies = None, False

    def expect(self, right: bool, wrong: str) -> None:
        if not right:
            self.wrong.append(wrong)

    def on_its_way(self, sender: Sender, handle: str) -> bool:
        return any(call.sender == sender and handle in dict(call.changes) for call in self.queue.flying)

    # What must hold at each call that leaves, and at each word of the keeper's

    def sent(self, call: Call) -> None:
        for handle, seconds in call.changes:
            lease = self.leases[handle]
            if call.sender == "thread":
                self.expect(lease.marked, "the thread sends for a lease that it has not marked")
                self.expect(handle not in self.sent_back, "an extension of the thread's after a give-back")
                self.expect(not self.on_its_way("delete", handle), "an extension of the thread's after a delete")
                continue
            self.expect(not lease.marked, f"{call.sender}: sent while the thread is at it")
            if call.sender == "hub":
                self.expect(not self.on_its_way("hub", handle), "two changes of one handle on their way")
                self.expect(not self.on_its_way("delete", handle), "an extension after a delete")
                if lease.state is LETTING_GO:
                    self.expect(seconds == self.wish, f"{seconds} s sent for a give-back in {self.wish} s")
                    self.sent_back[handle] = seconds
                    self.give_backs.append(call)
                self.expect(
                    self.sent_back.get(handle, seconds) == seconds, "an extension after a give-back of the same handle"
                )
            self.expect(lease.state is not ENDED, "sent for a lease that has ended")

    def lease_lost(self, item: Lease) -> None:
        self.losses[id(item)] += 1
        self.expect(item.state is LOST, f"lease_lost of a lease that is {item.state.value}")
        self.expect(self.losses[id(item)] == 1, "lease_lost twice of one loss")

    def lease_extended(self, item: Lease) -> None:
        self.expect(item.state is not LOST, "lease_extended of a lease that is lost")

    def let_go_ended(self, item: Lease, failure: Failure | None) -> None:
        lease = item
        self.expect(lease.state is ENDED, f"let_go_ended of a lease that is {lease.state.value}")
        call = self.answering
        if failure is None:
            assert call is not None
            changed = self.queue.changed_by is call or call.results == [None]  # too late: 200, and nothing happened
            self.expect(call in self.give_backs, "returned, by the answer to another change")
            self.expect(call.reached and changed, "returned, and the queue does not know it")
            if not call.late and self.queue.handle == lease.handle:
                self.expect(self.queue.changed_by is call, "another change came after the give-back")

    def has_room(self) -> None:
        pass

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert self.wrong == []
        self.patience -= 1

    @invariant()
    def a_lease_that_is_not_lost_is_invisible_at_the_queue(self) -> None:
        for lease in [self.lease] if self.leases else []:
            if lease.state in OURS and self.clock.now() < lease.known_until():
                assert self.queue.deleted or (self.queue.handle == lease.handle and not self.queue.is_visible)

    @invariant()
    def whoever_is_marked_is_on_the_threads_mind(self) -> None:
        if self.thread is None or self.thread.dead:
            assert not any(lease.marked for lease in self.leases.values())

    # Time

    @rule(seconds=st.sampled_from([0.1, BEAT + 0.1, 20.0]))
    def turn(self, seconds: float) -> None:
        """The hub turns."""
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([10.0, 20.0]))
    def stand_still(self, seconds: float) -> None:
        """Time passes, and no timer of the hub's rings."""
        self.stand_still_for(seconds)

    def stand_still_for(self, seconds: float) -> None:
        self.clock._now += seconds

    # SQS

    def waiting(self, reached: bool) -> list[Call]:
        return [call for call in self.queue.flying if call.reached == reached]

    @precondition(lambda self: self.waiting(reached=False))
    @rule(data=st.data())
    def reach(self, data: st.DataObject) -> None:
        self.queue.reach(data.draw(st.sampled_from(self.waiting(reached=False)), "call"))

    @precondition(lambda self: self.queue.flying)
    @rule(data=st.data(), says=st.sampled_from(sorted(ANSWERS)))
    def answer(self, data: st.DataObject, says: str) -> None:
        self.answered(data.draw(st.sampled_from(self.queue.flying), "call"), says)

    @precondition(lambda self: self.queue.flying)
    @rule(data=st.data(), seconds=st.sampled_from([10.0, 20.0]), reached=st.booleans())
    def confirm_late(self, data: st.DataObject, seconds: float, reached: bool) -> None:
        """It was done at once, or only just before its answer: of which the hub hears when it turns again."""
        call = data.draw(st.sampled_from(self.queue.flying), "call")
        if reached and not call.reached:
            self.queue.reach(call)
        self.stand_still_for(seconds)
        self.answered(call, "done")

    def answered(self, call: Call, says: str) -> None:
        if says == "done" and not call.reached:
            self.queue.reach(call)
        if says in ("failed", "gone") and call.reached:
            says = "unreachable"  # what was done can only be lost on its way back
        if says == "gone":
            self.queue.deleted = True
        lease = self.lease
        kept = lease.state in OURS and self.clock.now() < lease.known_until()
        current = call.changes[0][0] == lease.handle
        self.queue.flying.remove(call)
        call.says, self.answering = says, call
        call.answered.set()
        settle()
        self.answering = None
        if current and call.sender == "hub" and says == "gone" and kept and lease.state is not DELETING:
            assert lease.state is LOST
        elif kept and (says != "done" or not current) and says != "gone":
            assert lease.state is not LOST  # whatever fails, and whatever is said of an older handle

    @precondition(lambda self: self.queue.is_visible)
    @rule(ours=st.booleans())
    def give_out_again(self, ours: bool) -> None:
        """To a poll of ours, whose answer may be read much later, or to somebody else."""
        handle = self.queue.receive()
        if ours:
            self.arriving = handle, self.clock.now()

    @precondition(lambda self: self.arriving is not None)
    @rule(transit=TRANSIT)
    def arrive(self, transit: float) -> None:
        assert self.arriving is not None
        (handle, since), self.arriving = self.arriving, None
        since = min(self.clock.now(), since + transit)
        if self.lease.state not in LEAVING:
            self.leases[handle] = self.lease
            self.losses[id(self.lease)] = 0
            self.lease.redelivered(handle, since, self.queue.receives)
            settle()
            assert (self.lease.state is LOST) == (self.clock.now() >= since + self.keeper.terms.lease_seconds)
        elif self.lease.state is ENDED:
            self.take(handle, since)

    @precondition(lambda self: self.lease.state is ENDED)
    @rule(patience=PATIENCE, fails=st.booleans(), transit=TRANSIT)
    def receive_the_next(self, patience: int, fails: bool, transit: float) -> None:
        """Another message; whatever is still on its way for the last one has that one's handle."""
        self.queue.deleted, self.queue.visible_at, self.arriving = False, self.clock.now(), None
        self.take(self.queue.receive(), self.clock.now())
        self.queue.visible_at -= transit
        self.patience, self.fails = patience, fails

    # The worker

    @precondition(lambda self: self.clock.now() > self.lease.deadline - BEAT)
    @rule()
    def look(self) -> None:
        if self.lease.state not in LEAVING:
            lost = self.lease.is_lost(self.clock.now())
            assert lost == (self.lease.state is LOST)
            assert lost or self.clock.now() < self.lease.deadline

    def may_end(self) -> bool:
        return self.patience < 0 and self.lease.state not in LEAVING

    @precondition(lambda self: self.may_end() and self.fails)
    @rule(seconds=st.sampled_from([0, 3, 25]))
    def let_go(self, seconds: int) -> None:
        if self.lease.is_lost(self.clock.now()):
            self.keeper.end([self.lease])
        else:
            left = self.lease.held_since + LIMIT_SECONDS - self.clock.now()
            self.wish = max(0, min(seconds, int(left)))
            self.lease.let_go(seconds)

    @precondition(
        lambda self: self.patience < 0 and not self.fails and self.lease.state not in LEAVING and not self.delete_flies
    )
    @rule()
    def delete(self) -> None:
        """As the settler does; it tries again for as long as it takes."""
        lease, handle = self.lease, self.lease.handle
        marked = lease.marked
        if not lease.withhold():
            assert marked
            assert lease.state is not DELETING
            return
        self.delete_flies = True
        self.spawn(self.deleting, lease, handle)
        settle()

    def deleting(self, lease: Lease, handle: str) -> None:
        try:
            (failure,) = self.queue.send("delete", [(handle, 0)])
        except (Unreachable, Throttled):
            failure = BROKEN
        self.delete_flies = False
        if failure in (None, GONE) and lease.handle == handle:
            self.keeper.end([lease])
        else:
            lease.resume()

    # The watchdog's thread

    def is_beat_due(self) -> bool:
        return self.clock.now() >= self.lease.known_until() - VISIBILITY + BEAT

    @precondition(lambda self: (self.thread is None or self.thread.dead) and self.is_beat_due())
    @rule()
    def rescue(self) -> None:
        """Mark, and send where that succeeds; `answer` brings the rest."""
        lease, now = self.lease, self.clock.now()
        fit = lease.state is HELD and now < lease.known_until()
        self.thread = self.spawn(self.watchdog._extend, self.guard)
        settle()
        assert fit or not lease.marked


def run(max_examples: int = 400, steps: int = 50) -> None:
    run_state_machine_as_test(
        LeaseModel,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_whatever_comes_in_whatever_order_a_message_has_one_writer_and_no_lease_is_kept_in_belief_only():
    run()


# --- the thread between any two lines of the hub's


class Interleaved:
    """A lease whose beat is overdue, and a queue that writes down what is sent."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.calls: list[list[tuple[str, int]]] = []
        self.keeper = LeaseKeeper(
            "q",
            queue_settings(visibility_seconds=VISIBILITY, heartbeat_seconds=BEAT),
            self,
            100,
            ListOwner(),
            self.clock,
            lambda *given: None,
        )
        self.lease = self.keeper.take([], "r1", self.clock.now())
        self.keeper.begin([self.lease], self.clock.now())
        self.clock._now += BEAT + 1

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        self.calls.append(list(changes))
        return [None] * len(changes)

    def mark(self) -> tuple[str, int] | None:
        return self.lease.mark(self.clock.now())

    def let_go(self) -> bool:
        """True where it was sent."""
        self.lease.let_go(3)
        assert self.lease.change is not None
        return self.keeper._send([self.lease.change]) == []

    def delete(self) -> bool:
        """True where it may be sent."""
        return self.lease.withhold()


def at_line(number: int, inner: Callable[[], Any], outer: Callable[[], Any]) -> tuple[bool, Any, Any]:
    """`outer`, with `inner` before its line of this number, of all lines of lease.py that it runs through."""
    lines = iter(range(number + 1))
    seen: list[Any] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != Lease.mark.__code__.co_filename:
            return None
        if event == "line" and next(lines, None) == number:
            sys.settrace(None)
            seen.append(inner())
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        value = outer()
    finally:
        sys.settrace(before)
    return bool(seen), seen[0] if seen else None, value


@pytest.mark.parametrize("ends", ["let_go", "delete"])
@pytest.mark.parametrize("thread_comes", ["amid the hub", "around the hub"])
def test_between_any_two_lines_either_the_thread_has_the_lease_or_the_hub(ends, thread_comes):
    outcomes = Counter[tuple[bool, bool]]()
    number = 0
    while True:
        one = Interleaved()
        hub = getattr(one, ends)
        inner, outer = (one.mark, hub) if thread_comes == "amid the hub" else (hub, one.mark)
        reached, first, second = at_line(number, inner, outer)
        if not reached:
            break
        marked, sent = (first, second) if thread_comes == "amid the hub" else (second, first)
        assert not (marked and sent), f"both, where one comes before line {number} of the other"
        assert one.lease.marked == bool(marked)
        assert bool(one.calls) == (sent and ends == "let_go")
        outcomes[bool(marked), bool(sent)] += 1
        number += 1
    assert number > 3
    assert outcomes[False, True] > 0
    if thread_comes == "amid the hub":
        assert outcomes[True, False] > 0
