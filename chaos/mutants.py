"""Planted bugs, each of one trap or one rule of the design: the simulation must find every one of them.

`python -m chaos.mutants` tells after how many schedules, and by which rule. Exit code 1: one was not found.
"""

import tests.patch  # noqa: F401, I001  (before all else: the schedules run patched, as the worker does)

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from millpond.engine import consumer, lease_keeper, message_sender, settler
from millpond.hub.backoff import whole_seconds
from millpond.sqs.batcher import Batcher
from millpond.engine.consumer import Consumer
from millpond.engine.delivery import INTERRUPTED, RUNNING, Delivery
from millpond.engine.groups import Groups
from millpond.engine.held_back import WORKING
from millpond.hub.interruption import Interruption
from millpond.engine.lease import Change, Lease
from millpond.engine.lease_state import DELETING, ENDED, GIVING_BACK, HELD, LOST
from millpond.engine.lease_keeper import LeaseKeeper
from millpond.message import Outcome
from millpond.engine.ask import Asks
from millpond.engine.message_sender import MessageSender
from millpond.engine.poller import Pollers
from millpond.engine.settler import Settler
from chaos.simulation.runner import run_seed

#: Schedules within which each must be found.
WITHIN = 1_000

Patch = tuple[Any, str, Callable[[Any], Any]]  # where, what, and the original -> the wrong one


class Mutant(NamedTuple):
    """A rule of the design, and an engine that does not keep it."""

    name: str
    rule: str
    patches: tuple[Patch, ...]


MUTANTS: list[Mutant] = []


def mutant(rule: str, *places: tuple[Any, str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a mutant: the function makes, of each original, a wrong variant."""

    def enter(make: Callable[..., Any]) -> Callable[..., Any]:
        MUTANTS.append(Mutant(make.__name__, rule, tuple((where, what, make) for where, what in places)))
        return make

    return enter


@contextmanager
def planted(bug: Mutant) -> Iterator[None]:
    """The engine, with this bug in it."""
    with ExitStack() as stack:
        for where, what, make in bug.patches:
            stack.enter_context(mock.patch.object(where, what, make(getattr(where, what))))
        yield


# Permits


@mutant("permits first: a poll asks for no more than it has permits for", (Asks, "make"))
def asks_for_ten(original: Any) -> Any:
    return lambda self, permits, now: original(self, 10, now)


@mutant("a permit comes back when the outcome is queued, not before", (Consumer, "accept"), (Consumer, "_settle_swarm"))
def permit_back_on_arrival(original: Any) -> Any:
    def accept(self: Consumer, messages: list[Any], latest: float) -> None:
        original(self, messages, latest)
        self._share.release(len(messages))

    def settle_swarm(self: Consumer) -> None:
        self._ended = 0
        original(self)

    return accept if original.__name__ == "accept" else settle_swarm


@mutant("trap c: a permit comes back only while settling keeps up", (Consumer, "has_room"))
def permit_back_though_full(original: Any) -> Any:
    def has_room(self: Consumer) -> None:
        owed, self._owed = self._owed, 0
        self._share.release(owed)

    return has_room


@mutant("a redelivered message gives its permit back", (Consumer, "_redelivered"))
def permit_of_twin_lost(original: Any) -> Any:
    def redelivered(self: Consumer, twin: Delivery, received: Any, since: float) -> None:
        original(self, twin, received, since)
        self._share.held += 1
        self._share._permits.free -= 1

    return redelivered


# The lease


@mutant("trap b: a lease is ended by the confirmed delete alone", (Settler, "settle"))
def lease_ends_with_handler(original: Any) -> Any:
    def settle(self: Settler, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        original(self, deliveries, outcome)
        if outcome.name == "succeeded":
            for delivery in deliveries:
                delivery.lease.stop_beating()

    return settle


@mutant("at most one change of a message is on its way", (Lease, "_ask"))
def changes_overlap(original: Any) -> Any:
    def ask(self: Lease, seconds: int) -> None:
        self.change = Change(self, seconds)
        self.terms.changes.put(self.change)

    return ask


@mutant("the newest wish is what is sent", (Lease, "_ask"))
def oldest_wish_wins(original: Any) -> Any:
    def ask(self: Lease, seconds: int) -> None:
        if self.change is None or self.change.seconds is None:
            original(self, seconds)

    return ask


@mutant("giving back makes unsent beats void", (Lease, "give_back"), (Lease, "_beat"))
def beats_after_give_back(original: Any) -> Any:
    def give_back(self: Lease, seconds: float) -> None:
        self.state = GIVING_BACK
        self._ask(self._clamped(seconds))

    def beat(self: Lease) -> None:
        if self.state is not DELETING and self.state is not ENDED:
            self._ask(self._clamped(self.terms.visibility_seconds))

    return give_back if original.__name__ == "give_back" else beat


@mutant("a beat's answer is ignored once there is an outcome", (Change, "answered"))
def failed_beat_again(original: Any) -> Any:
    def answered(self: Change, handle: str, seconds: int, started: float, failure: Any) -> bool:
        again: bool = original(self, handle, seconds, started, failure)
        if self.lease.state is GIVING_BACK and failure is not None and not failure.lease_lost:
            self.seconds = seconds
        return again

    return answered


@mutant("a failed change is sent again", (Change, "answered"))
def failed_change_dropped(original: Any) -> Any:
    def answered(self: Change, handle: str, seconds: int, started: float, failure: Any) -> bool:
        if original(self, handle, seconds, started, failure):
            self.lease.change = None
        return False

    return answered


@mutant("a beat is withheld while its own delete is on its way", (Lease, "withhold"))
def beats_behind_delete(original: Any) -> Any:
    def withhold(self: Lease) -> bool:
        free: bool = original(self)
        self.state = HELD if self.state is DELETING else self.state
        return free

    return withhold


@mutant("beats go on where a delete has failed", (Lease, "resume"))
def beats_stay_withheld(original: Any) -> Any:
    return lambda self: None


@mutant("the lease has its own deadline, since a 200 proves nothing", (Lease, "is_lost"))
def no_deadline(original: Any) -> Any:
    return lambda self, now: self.state is LOST


@mutant("an extension counts from its request's start", (Change, "answered"))
def counts_from_answer(original: Any) -> Any:
    def answered(self: Change, handle: str, seconds: int, started: float, failure: Any) -> bool:
        again: bool = original(self, handle, seconds, self.lease.terms.clock.now(), failure)
        return again

    return answered


@mutant("a receive counts a second less: its answer was on its way", (LeaseKeeper, "take"))
def receive_without_margin(original: Any) -> Any:
    def take(self: LeaseKeeper, *what: Any) -> Lease:
        self.terms.lease_seconds = self.terms.visibility_seconds
        taken: Lease = original(self, *what)
        return taken

    return take


@mutant("an answer that waited unread, while the process stood still, counts from before", (Consumer, "accept"))
def old_answers_are_new(original: Any) -> Any:
    def accept(self: Consumer, messages: list[Any], *more: Any) -> None:
        with mock.patch.object(self, "_unread_since", lambda now: now):
            original(self, messages)

    return accept


@mutant("an extension is clamped to what is left of 12 h", (Lease, "_clamped"))
def asks_past_twelve_hours(original: Any) -> Any:
    return lambda self, seconds: whole_seconds(seconds)


@mutant("what has lost its lease is not started", (Consumer, "work"))
def lost_is_started(original: Any) -> Any:
    def work(self: Consumer, delivery: Delivery) -> None:
        if self._held_back.phase is not WORKING or not delivery.lease.is_lost(self._clock.now()):
            original(self, delivery)
            return
        self.ready -= 1
        self._end(delivery, self._processor.process(delivery, ""))

    return work


# In hand


@mutant("a message in hand that is redelivered goes on by its lease", (Consumer, "accept"))
def twins_run_side_by_side(original: Any) -> Any:
    def accept(self: Consumer, messages: list[Any], latest: float) -> None:
        for received in messages:
            self.deliveries.pop(received.message_id, None)
        original(self, messages, latest)

    return accept


@mutant("... with the new handle", (Lease, "redelivered"))
def twin_keeps_old_handle(original: Any) -> Any:
    def redelivered(self: Lease, handle: str, since: float, receive_count: int) -> None:
        before = self.handle
        original(self, handle, since, receive_count)
        self.handle = before

    return redelivered


@mutant("... but an old answer renews nothing", (Consumer, "accept"))
def old_handle_counts(original: Any) -> Any:
    def accept(self: Consumer, messages: list[Any], *more: Any) -> None:
        for received in messages:
            if (twin := self.deliveries.get(received.message_id)) is not None:
                twin.lease.receive_count = 0
        original(self, messages, *more)

    return accept


# Interrupts


@mutant("an interrupt lands inside the handler, or nowhere", (Delivery, "interrupt"))
def interrupts_after_the_end(original: Any) -> Any:
    def interrupt(self: Delivery, kind: Any) -> None:
        if self.greenlet is not None and self.interruption is None:
            self.state = RUNNING
        original(self, kind)

    return interrupt


@mutant("the hub looks, in the step of the throw, whether the handler still runs", (Delivery, "interrupt"))
def throws_without_a_look(original: Any) -> Any:
    def interrupt(self: Delivery, kind: Any) -> None:
        slot = self.greenlet
        if self.state is RUNNING:
            self.state = INTERRUPTED
            self.interruption = Interruption(slot, kind, self._clock, lambda: None)
            self._clock.timer(0.02, self.interruption.throw)

    return interrupt


@mutant("trap a: the drain interrupts handlers, not slots", (Consumer, "interrupt"))
def interrupts_slots(original: Any) -> Any:
    def interrupt(self: Any, kind: Any) -> None:
        for slot in list(self.worker.pool._slots):
            self._clock.soon(lambda slot=slot: slot.throw(kind()))

    return interrupt


@mutant("what was interrupted is not acknowledged", (Delivery, "leave"))
def interrupted_is_done(original: Any) -> Any:
    def leave(self: Delivery) -> None:
        original(self)
        self.interruption = None

    return leave


# Settling

#: Where each kind of call takes what its answer says.
ANSWERS = tuple((module, "answers") for module in (lease_keeper, settler, message_sender))


@mutant("a dead letter is deleted after its copy is confirmed", (MessageSender, "send"))
def deleted_before_copy(original: Any) -> Any:
    def send(self: MessageSender, delivery: Delivery, outcome: Outcome) -> None:
        original(self, delivery, outcome)
        self._owner.all_sent(delivery)

    return send


@mutant(
    "the Failed entries of an answer are read",
    (lease_keeper, "answers"),
    (settler, "answers"),
    (message_sender, "answers"),
)
def failed_unread(original: Any) -> Any:
    def answers(call: Any, entries: int) -> Any:
        found = original(call, entries)
        return [None if one is not None and not one.code.startswith("call:") else one for one in found]

    return answers


@mutant(
    "entries are numbered: each reads its own answer",
    (lease_keeper, "answers"),
    (settler, "answers"),
    (message_sender, "answers"),
)
def answers_reversed(original: Any) -> Any:
    return lambda call, entries: original(call, entries)[::-1]


@mutant("a delete that failed is sent again", (Settler, "_goes_again"))
def failed_delete_given_up(original: Any) -> Any:
    def goes_again(self: Settler, delivery: Delivery, current: bool, failure: Any) -> bool:
        if original(self, delivery, current, failure):
            if failure is None:
                return True
            self.abandon(delivery, failure)
        return False

    return goes_again


@mutant("what is to be tried again is kept meanwhile", (Batcher, "_pause"))
def retries_are_dropped(original: Any) -> Any:
    return lambda self, items: original(self, items[:-1])


@mutant("trap d: more than one flusher", (settler, "FLUSHERS"), (consumer, "FLUSHERS"))
def one_flusher(original: Any) -> Any:
    return 1


# Polls and the drain


@mutant("no receive begins after the drain", (Pollers, "stop"))
def polls_on(original: Any) -> Any:
    return lambda self: self._clock.timer(3.0, lambda: original(self)) and None


@mutant(
    "what was not started goes back once the queue's own polls have ended",
    (Consumer, "drain"),
    (Consumer, "hidden_seconds"),
)
def gives_back_into_own_poll(original: Any) -> Any:
    def drain(self: Consumer, deadline: float) -> None:
        original(self, deadline)
        self.give_back_held()

    return drain if original.__name__ == "drain" else lambda self: 0


@mutant("a receive that fails never ends the last poll", (Pollers, "_back_off"))
def failed_polls_leave(original: Any) -> Any:
    def back_off(self: Pollers, *given: Any) -> bool:
        original(self, *given)
        return False

    return back_off


# FIFO


@mutant("the next of a group starts once the delete is confirmed", (Consumer, "_end"))
def next_starts_early(original: Any) -> Any:
    def end(self: Consumer, delivery: Delivery, outcome: Outcome) -> None:
        original(self, delivery, outcome)
        if self._groups is not None and outcome.name == "succeeded":
            self._groups.leave(delivery)

    return end


@mutant("where one fails, none behind it runs", (Groups, "fail"))
def failure_lets_others_run(original: Any) -> Any:
    return lambda self, delivery: self.leave(delivery)


@mutant("a group stands in line at all", (Groups, "join"))
def groups_run_at_once(original: Any) -> Any:
    return lambda self, delivery: self._start(delivery)


# The table


def hunt(bug: Mutant, first_seed: int = 1, within: int = WITHIN) -> tuple[int, str]:
    """After how many schedules it was found, and by which rules; 0 where it was not.

    A schedule that breaks a rule without the bug, too, has found something else.
    """
    for number, seed in enumerate(range(first_seed, first_seed + within), 1):
        with planted(bug):
            violations = run_seed(seed).violations
        if violations and not run_seed(seed).violations:
            return number, ", ".join(sorted({violation.rule for violation in violations}))
    return 0, ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 1 where a mutant was not found."""
    parser = argparse.ArgumentParser(prog="python -m chaos.mutants", description="Plants bugs; see the module.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", type=int, default=WITHIN)
    parser.add_argument("names", nargs="*", help="these mutants only")
    options = parser.parse_args(arguments)
    missed, began = 0, time.monotonic()
    print(f"{'mutant':26} {'found after':>11}  by")
    for bug in MUTANTS:
        if not options.names or bug.name in options.names:
            number, rules = hunt(bug, options.seed, options.within)
            missed += not number
            print(f"{bug.name:26} {number or 'NOT FOUND':>11}  {rules}    [{bug.rule}]", flush=True)
    print(f"{missed} not found, {time.monotonic() - began:.0f} s")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
