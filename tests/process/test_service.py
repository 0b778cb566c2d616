"""One process, from the first poll to the exit code: what ends it, what it waits for, and what it leaves behind.

Real consumers and a real service on a virtual clock; signals are delivered as gevent's watchers do. Real signals and
real processes are in test_signals.py.
"""

import math
import types
from signal import SIGHUP, SIGINT, SIGTERM

import gevent
import pytest
from gevent.event import Event

from millpond.engine.settler import GIVE_UP_SECONDS
from millpond.errors import (
    CRASHED,
    LEFT,
    MISCONFIGURED,
    STOPPED,
    AccessDenied,
    Interrupt,
    QueueMissing,
    Reject,
    Retry,
    Stopped,
    Throttled,
    Unreachable,
)
from millpond.hub.clock import SystemClock
from millpond.hub.signals import ExitSignals
from millpond.observe.metrics import Metrics
from millpond.process.core import SECOND_SIGNAL_SECONDS, Core
from millpond.process.drain import reserve_seconds
from millpond.process.refusals import Refusals
from millpond.process.service import Service
from millpond.process.wiring import Queues
from tests import rig as rig_module
from tests.rig import Rig
from tests.virtual import VirtualClock, settle

LONG = 60.0


@pytest.fixture
def clock():
    return VirtualClock()


class Wired(Rig):
    """A rig whose core greenlets and slots are the process's."""

    def __init__(self, core, clock, handlers, **settings):
        self.core = core
        super().__init__(clock, handlers, **settings)
        clock.on_error = core.crash

    def spawn(self, function, *args):
        return self.core.spawn(function, *args)


class Process:
    """A service with its consumers, run in a greenlet; `exit_code` and `ended_at` are set when it is over."""

    def __init__(self, clock, drain_seconds, concurrency):
        self.clock = clock
        self.metrics = Metrics("", 0, "millpond", "test")
        self.core = Core(concurrency, drain_seconds, clock, self)
        self.refusals = Refusals(self.core)
        self.exit_code = None
        self.ended_at = None

    def start(self, rigs=None, teardowns=(), until_empty=False, **queues):
        self.clock.on_error = self.core.crash  # a rig has its own
        consumers = [rig.consumer for rig in (self.rigs if rigs is None else rigs)]
        self.refusals.watch(consumers)
        queues = Queues(consumers, self.refusals, **queues)
        self.service = Service(self.core, self.metrics, queues, teardowns=teardowns, until_empty=until_empty)
        self.core.install_signals()
        gevent.spawn(self._run)
        settle()

    def _run(self):
        self.exit_code = self.service.run()
        self.ended_at = self.clock.now()

    def signal(self, number):
        self.act(number)
        settle()

    def on_signal(self, act):
        """As ExitSignals does: what a signal calls."""
        self.act = act

    def allow(self, seconds, code):
        self.allowed = (seconds, code)

    end_within = allow


@pytest.fixture
def process(clock, monkeypatch):
    """process(handlers, ..., drain_seconds, concurrency, **settings of every rig) -> a running Process."""
    gevents = virtual_gevent(clock)

    def make(*handlers, drain_seconds=10.0, concurrency=10, until_empty=False, start=True, **settings):
        one = Process(clock, drain_seconds, concurrency)
        monkeypatch.setattr(rig_module, "Pool", lambda *args: one.core.pool)
        one.rigs = [Wired(one.core, clock, names, concurrency=concurrency, **settings) for names in handlers]
        one.rig = one.rigs[0]
        clock.on_error = one.core.crash
        if start:
            one.start(until_empty=until_empty)
        return one

    for module in ("core", "drain", "report"):
        monkeypatch.setattr(f"millpond.process.{module}.gevent", gevents)
    return make


class TimedEvent(Event):
    """A gevent event whose time-outs are the virtual clock's."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def wait(self, timeout=None):
        return super().wait() if timeout is None else bool(wait_for([self], timeout, self._clock) and self.is_set())


def wait_for(objects, seconds, clock):
    """gevent.wait for the first of them, or so many virtual seconds."""
    over = Event()
    timer = clock.timer(seconds, over.set)
    gevent.wait([*objects, over], count=1)
    timer.cancel()
    return not over.is_set()


def virtual_gevent(clock):
    """gevent, whose time-outs and sleeps are the virtual clock's."""

    def wait(objects, timeout, count):
        wait_for(objects, timeout, clock)

    def joinall(greenlets, timeout=None):
        if timeout is None:
            gevent.joinall(greenlets)
        else:
            wait_for([gevent.spawn(gevent.joinall, greenlets)], timeout, clock)

    return types.SimpleNamespace(**vars(gevent) | {"wait": wait, "joinall": joinall, "sleep": clock.sleep})


def fine(payload, message):
    return None


class Gate:
    """A handler that waits until the test lets it go; knows who is inside and what was thrown."""

    def __init__(self):
        self.event = Event()
        self.inside = []
        self.thrown = []

    def __call__(self, payload, message):
        self.inside.append(message.id)
        try:
            self.event.wait()
        except Interrupt as error:
            self.thrown.append(type(error))
            raise
        finally:
            self.inside.remove(message.id)


class Stubborn:
    """A handler that swallows whatever is thrown into it."""

    def __call__(self, payload, message):
        while True:
            try:
                Event().wait()
            except Interrupt:
                continue


def events(caplog):
    return [getattr(record, "event", "") for record in caplog.records]


# Run


def test_an_idle_worker_stops_in_order_as_soon_as_its_polls_are_back(process, clock):
    one = process({"job": fine}, drain_seconds=LONG, wait_seconds=20)
    (message_id,) = one.rig.put("job")
    clock.advance(1)
    assert one.rig.queue.deleted == {message_id: 1}
    one.signal(SIGTERM)
    clock.advance(18)
    assert one.exit_code is None  # an aborted poll would still take messages
    clock.advance(3)
    assert one.exit_code == STOPPED


def test_a_worker_that_is_stopped_before_it_runs_receives_nothing(process, clock):
    one = process({"job": fine}, start=False)
    one.core.stop("SIGTERM")
    one.start()
    clock.advance(0.1)
    assert one.exit_code == STOPPED
    assert one.rig.queue.calls == {}


def test_the_progress_is_told_while_there_is_work_and_not_otherwise(process, clock, caplog):
    caplog.set_level("INFO")
    gate = Gate()
    one = process({"job": gate})
    clock.advance(31)
    assert "worker.progress" not in events(caplog)
    one.rig.put("job")
    clock.advance(31)
    assert "worker.progress" in events(caplog)
    gate.event.set()


def test_what_the_boot_raises_comes_out():
    core = Core(1, 10.0, SystemClock(), ExitSignals())

    def fail():
        raise QueueMissing("no such queue")

    with pytest.raises(QueueMissing, match="no such queue"):
        core.boot(fail)


def test_a_worker_that_is_stopped_before_it_has_a_queue_says_so_too(process, clock, caplog):
    caplog.set_level("INFO")
    one = process({"job": fine}, start=False)
    one.core.stop("SIGTERM")
    one.start(rigs=[])
    clock.advance(0.1)
    [told] = [record for record in caplog.records if getattr(record, "event", "") == "worker.stopped"]
    assert (told.fields["why"], told.fields["exit_code"]) == ("SIGTERM", one.exit_code) == ("SIGTERM", STOPPED)


@pytest.mark.parametrize(
    ("after", "jobs", "told"),
    [
        (
            0.5,
            0,
            "0 messages in hand, for at most 10 s; SQS may hold a long poll of it open for 20 s",
        ),
        (
            19.4,
            0,
            "0 messages in hand, for at most 10 s; SQS may hold a long poll of it open for 1 s",
        ),
        (0.5, 1, "1 message in hand, for at most 10 s"),  # its permit was the last: no poll is open
    ],
)
def test_what_a_drain_has_to_wait_for_is_told_as_it_begins(process, clock, caplog, after, jobs, told):
    caplog.set_level("INFO")
    gate = Gate()
    one = process({"job": gate}, wait_seconds=20, concurrency=1)
    one.rig.put("job", number=jobs)
    clock.advance(after)
    one.signal(SIGTERM)
    texts = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "worker.draining"]
    assert texts == [f"SIGTERM: the worker finishes {told}"]
    gate.event.set()


@pytest.mark.parametrize(
    ("unanswered", "text"),
    [
        ([], "waiting for messages; "),
        (["q"], "started, but SQS has not answered yet for q: it is asked again and again; "),
    ],
)
def test_a_worker_does_not_say_that_it_waits_for_messages_where_sqs_has_not_answered(process, caplog, unanswered, text):
    caplog.set_level("INFO")
    process({"job": fine}, start=False).start(unanswered=unanswered)
    (ready,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "worker.ready"]
    assert ready == f"{text}Ctrl-C or SIGTERM finishes what is in hand and stops"


def test_the_embedded_queue_is_told_to_answer_its_polls_when_the_drain_begins(process, clock):
    one = process({"job": fine}, start=False)
    told = []
    one.start(close_local_polls=lambda: told.append(clock.now()))
    clock.advance(1)
    assert told == []
    one.signal(SIGTERM)
    assert told == [clock.now()]


# Drain


def test_what_was_not_started_is_held_until_the_last_open_poll_is_back_or_that_poll_would_fetch_it(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, concurrency=1, prefetch=2, wait_seconds=20)
    running, waiting = one.rig.put("job", {}, 2)
    clock.advance(5)  # one runs, one is ready, and a poll with the last permit is open for 15 s more
    one.signal(SIGTERM)
    clock.advance(14)
    assert one.rig.outcomes() == {}
    clock.advance(1.5)
    assert one.rig.outcomes() == {waiting: "released"}
    assert one.rig.ended[0][1].delay_seconds == 0
    assert one.rig.queue.visible() == [waiting]
    assert one.rig.queue.messages[waiting].receives == 1
    assert gate.inside == [running]
    gate.event.set()
    clock.advance(1)
    assert one.exit_code == STOPPED
    assert one.rig.queue.deleted == {running: 1}


def test_what_was_not_started_goes_back_while_handlers_still_run(process, clock):
    """It need not wait for a slot of the pool, which may be a long time in coming."""
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, concurrency=1, prefetch=3, wait_seconds=1)
    running, *waiting = one.rig.put("job", {}, 4)
    clock.advance(0.5)
    one.signal(SIGTERM)
    clock.advance(2)
    assert one.rig.outcomes() == dict.fromkeys(waiting, "released")
    assert sorted(one.rig.queue.visible()) == waiting
    assert gate.inside == [running]
    gate.event.set()
    clock.advance(1)


def test_a_queues_messages_wait_for_its_own_polls_not_for_those_of_another(process, clock):
    gate = Gate()
    one = process({"job": gate}, {"job": gate}, drain_seconds=LONG, concurrency=2, prefetch=4, wait_seconds=20)
    early, late = one.rigs
    ready = early.put("job", {}, 6)[2:]  # all its permits: no poll of this queue is open
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(0.5)
    assert early.outcomes() == dict.fromkeys(ready, "released")
    assert late.consumer.polls.open_until() > clock.now() + 15
    gate.event.set()
    clock.advance(10)
    assert one.exit_code is None  # ... and the service waits for both
    clock.advance(10)
    assert one.exit_code == STOPPED


def test_handlers_finish_within_the_drain_and_are_interrupted_a_reserve_before_its_end(process, clock):
    quick, slow = Gate(), Gate()
    one = process({"quick": quick, "slow": slow}, drain_seconds=10, wait_seconds=1)
    (done,) = one.rig.put("quick")
    (cut,) = one.rig.put("slow")
    clock.advance(0.5)
    one.signal(SIGTERM)
    begun = clock.now()
    clock.advance(5)
    quick.event.set()
    clock.advance(3 - reserve_seconds(10) + 1.9)
    assert one.rig.outcomes() == {done: "succeeded"}
    assert slow.inside == [cut]
    clock.advance(0.2)
    assert slow.thrown == [Stopped]
    clock.advance(1)
    assert one.rig.outcomes() == {done: "succeeded", cut: "released"}
    assert one.rig.queue.visible() == [cut]
    assert one.core.pool.written_off == 0
    assert one.exit_code == STOPPED
    assert one.ended_at <= begun + 10


@pytest.mark.parametrize(("drain_seconds", "seconds"), [(5, 4), (10, 8), (15, 12), (25, 22), (45, 42)])
def test_a_handler_has_the_drain_but_for_a_fifth_of_it_or_three_seconds(process, clock, drain_seconds, seconds):
    slow = Gate()
    one = process({"slow": slow}, drain_seconds=drain_seconds, wait_seconds=1)
    one.rig.put("slow")
    clock.advance(0.5)
    one.signal(SIGTERM)
    clock.advance(seconds - 0.1)
    assert slow.thrown == []
    clock.advance(0.2)
    assert slow.thrown == [Stopped]


def test_what_was_not_started_goes_back_at_the_end_of_the_drain_though_a_poll_is_still_open(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=10, concurrency=1, prefetch=2, wait_seconds=20)
    ids = one.rig.put("job", {}, 2)
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(7.9)
    assert one.rig.outcomes() == {}
    clock.advance(2.1)
    assert one.rig.outcomes() == dict.fromkeys(ids, "released")
    left = one.rig.consumer.polls.open_until() - clock.now()
    assert left > 5
    assert all(one.rig.queue.messages[message_id].visible_at > clock.now() + left for message_id in ids)
    assert one.exit_code == STOPPED


def test_a_handler_that_swallows_interrupts_is_written_off_and_the_process_ends_in_time(process, clock):
    one = process({"job": Stubborn()}, drain_seconds=10, wait_seconds=1)
    (stuck,) = one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    begun = clock.now()
    clock.advance(10)
    assert one.rig.outcomes() == {stuck: "released"}
    assert one.exit_code == STOPPED
    assert one.ended_at <= begun + 10
    assert one.core.pool.written_off == 1


@pytest.mark.parametrize("where", ["queue", "dead"])
def test_a_call_that_hangs_at_the_end_holds_the_process_no_longer_than_the_drain(process, clock, where):
    """A settling call takes no longer than what is left of the drain: the first of these would take ten seconds."""

    gate = Event()

    def handle(payload, message):
        gate.wait()
        if where == "dead":
            raise Reject("no")

    one = process({"job": handle}, drain_seconds=4, wait_seconds=1)
    queue, call = (one.rig.queue, "delete") if where == "queue" else (one.rig.dead, "send")
    queue.gates[call] = Event()
    one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    begun = clock.now()
    gate.set()
    clock.advance(3.9)
    assert queue.calls[call] == 1
    clock.advance(1.1)
    assert one.exit_code == LEFT
    assert one.ended_at <= begun + 4
    assert queue.calls[call] > 1 or where == "dead"  # given up when the drain was over, not after ten seconds


# Signals


def test_a_repeated_sigterm_or_sighup_hurries_nobody(process, clock):
    """Heroku sends several, to every process."""
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, wait_seconds=1)
    (message_id,) = one.rig.put("job")
    clock.advance(1)
    for number in (SIGTERM, SIGTERM, SIGHUP, SIGTERM):
        one.signal(number)
        clock.advance(2)
    assert gate.inside == [message_id]
    gate.event.set()
    clock.advance(1)
    assert gate.thrown == []
    assert one.rig.outcomes() == {message_id: "succeeded"}
    assert one.exit_code == STOPPED


def test_a_second_ctrl_c_gives_back_at_once_but_not_the_one_that_a_terminal_sends_twice(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, wait_seconds=20)
    (message_id,) = one.rig.put("job")
    clock.advance(1)
    one.signal(SIGINT)
    clock.advance(SECOND_SIGNAL_SECONDS - 0.1)
    one.signal(SIGINT)
    clock.advance(5)
    assert gate.inside == [message_id]
    one.signal(SIGINT)
    assert gate.thrown == [Stopped]
    clock.advance(3)
    assert one.exit_code == STOPPED
    assert one.rig.outcomes() == {message_id: "released"}


@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGHUP])
def test_the_first_signal_alone_drains_and_hurries_nobody(process, clock, number):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, wait_seconds=1)
    one.rig.put("job")
    clock.advance(1)
    one.signal(number)
    assert one.core.stopping
    clock.advance(10)
    assert gate.thrown == []
    gate.event.set()
    clock.advance(1)
    assert one.exit_code == STOPPED


# Crash


def die():
    raise RuntimeError("a defect of the engine")


@pytest.fixture
def quiet_hub(monkeypatch):
    """The tracebacks of greenlets that a test lets die."""
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *args: None)


@pytest.mark.usefixtures("quiet_hub")
def test_a_core_greenlet_that_dies_ends_the_process_at_once_and_nothing_is_drained(process, clock, caplog):
    """Half an engine cannot be trusted to settle anything."""
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG)
    (message_id,) = one.rig.put("job")
    clock.advance(1)
    one.core.spawn(die)
    settle(40)
    assert one.exit_code == CRASHED
    assert gate.inside == [message_id]
    assert one.rig.queue.calls["extend"] == one.rig.queue.calls["delete"] == 0
    assert "worker.crashed" in events(caplog)
    assert "worker.draining" not in events(caplog)
    gate.event.set()


@pytest.mark.parametrize("how", ["timer", "soon"])
def test_an_error_in_a_call_of_the_hubs_ends_the_process_too(process, clock, caplog, how):
    """gevent prints it and goes on: a beat, a linger or a settling would be lost in silence."""
    one = process({"job": fine})
    if how == "timer":
        clock.timer(1.0, die)
    else:
        clock.soon(die)
    clock.advance(2)
    settle(40)
    assert one.exit_code == CRASHED
    assert "a part of its engine failed: RuntimeError" in caplog.text


@pytest.mark.parametrize("started", [True, False])
def test_a_core_greenlet_that_a_handler_has_killed_ends_the_process(process, clock, caplog, started):
    """As gevent.killall() of all that gc knows does. The worker would go on, deaf and silent."""
    one = process({"job": fine})
    core = one.core.spawn(Event().wait)
    if started:
        settle()
    core.kill(block=False)
    settle(40)
    assert one.exit_code == CRASHED
    assert "a part of its engine failed: GreenletExit" in caplog.text


def test_what_the_end_of_a_drain_itself_kills_is_no_crash(process, clock, caplog):
    one = process({"job": Stubborn()}, drain_seconds=10, wait_seconds=1)
    one.rig.put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(10)
    assert one.exit_code == STOPPED
    assert "worker.crashed" not in events(caplog)


@pytest.mark.usefixtures("quiet_hub")
def test_a_core_greenlet_that_dies_during_the_drain_ends_it(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG)
    one.rig.put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(1)
    one.core.spawn(die)
    clock.advance(4)
    assert one.exit_code == CRASHED


@pytest.mark.parametrize("crash_first", [True, False])
def test_a_crash_outweighs_a_refused_boot_whichever_comes_first(process, clock, crash_first):
    one = process({"job": fine}, drain_seconds=LONG, wait_seconds=1)
    steps = [lambda: one.core.stop("crash", CRASHED), lambda: one.refusals.note("q", AccessDenied("no"))]
    for step in steps if crash_first else reversed(steps):
        step()
    clock.advance(5)
    assert one.exit_code == CRASHED


@pytest.mark.parametrize("error", [AccessDenied("no right"), QueueMissing("no queue")])
def test_what_only_a_person_can_mend_ends_the_boot(process, clock, error, caplog):
    one = process({"job": fine}, wait_seconds=1)
    one.refusals.note("q", error)
    clock.advance(5)
    assert one.exit_code == MISCONFIGURED
    [told] = [record for record in caplog.records if getattr(record, "event", "") == "worker.refused"]
    assert (told.levelname, told.fields["queue"]) == ("CRITICAL", "q")
    assert told.getMessage() == f"no queue can be received from, so the worker stops: {error}"


def two_queues(process, *denied):
    """A process whose two queues are "a" and "b"; those that are `denied` answer no receive."""
    one = process({"job": fine}, {"job": fine}, wait_seconds=1, start=False)
    names = dict(zip(("a", "b"), one.rigs, strict=True))
    for name, rig in names.items():
        rig.consumer.name = name
        rig.refused = types.SimpleNamespace(append=lambda error, name=name: one.refusals.note(name, error))
        rig.consumer._refused = rig.refused.append
        rig.queue.script["receive"] += [AccessDenied("no right")] * 1_000 if name in denied else []
    one.start()
    return one, names


def test_a_queue_that_is_denied_at_its_first_receive_stops_no_other_and_is_told_each_minute(process, clock, caplog):
    one, rigs = two_queues(process, "a")
    clock.advance(30)
    rigs["b"].put("job")
    clock.advance(160)
    assert one.exit_code is None
    assert len(rigs["b"].ended) == 1
    told = [record for record in caplog.records if getattr(record, "event", "") == "queue.refused"]
    assert {record.fields["queue"] for record in told} == {"a"}
    assert 3 <= len(told) <= 5
    rigs["a"].queue.script["receive"].clear()
    rigs["a"].put("job")
    clock.advance(120)
    assert len(rigs["a"].ended) == 1


def test_where_every_queue_is_denied_at_its_first_receive_the_boot_is_over(process, clock):
    one, _ = two_queues(process, "a", "b")
    clock.advance(30)
    assert one.exit_code == MISCONFIGURED


def test_a_queue_that_has_been_received_from_and_is_denied_later_ends_nothing(process, clock):
    one = process({"job": fine}, wait_seconds=1)
    clock.advance(10)
    one.rig.queue.script["receive"] += [AccessDenied("no right")] * 10
    clock.advance(600)
    assert one.exit_code is None
    one.rig.put("job")
    clock.advance(120)
    assert len(one.rig.ended) == 1


def test_an_outage_at_boot_does_not_end_it(process, clock):
    one = process({"job": fine}, wait_seconds=1)
    for error in (Unreachable("down"), Throttled("slow")):
        one.refusals.note("q", error)
    clock.advance(5)
    assert not one.core.stopping
    one.signal(SIGTERM)
    clock.advance(5)
    assert one.exit_code == STOPPED


# Teardown


def test_teardown_is_called_once_the_last_handler_has_ended(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, wait_seconds=1, start=False)
    torn = []
    one.start(teardowns=[lambda: torn.append(len(one.rig.ended)), lambda: torn.append("second")])
    one.rig.put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(5)
    assert torn == []
    gate.event.set()
    clock.advance(1)
    assert torn == [1, "second"]
    assert one.exit_code == STOPPED


@pytest.mark.usefixtures("quiet_hub")
def test_a_teardown_that_hangs_or_raises_neither_holds_the_exit_nor_stops_the_others(process, clock):
    one = process({"job": fine}, drain_seconds=10, wait_seconds=1, start=False)
    torn = []
    one.start(teardowns=[Event().wait, die, lambda: torn.append(True)])
    clock.advance(0.5)
    one.signal(SIGTERM)
    begun = clock.now()
    clock.advance(9)
    assert torn == [True]
    assert one.exit_code is None  # the rest of the drain is its
    clock.advance(1)
    assert one.exit_code == STOPPED
    assert one.ended_at <= begun + 10


def test_a_teardown_gets_a_moment_even_when_the_drain_is_over(process, clock):
    one = process({"job": Stubborn()}, drain_seconds=1, wait_seconds=1, start=False)
    torn = []
    one.start(teardowns=[lambda: clock.sleep(0.05) or torn.append(clock.now())])
    one.rig.queue.script["extend"] = [Unreachable("down")] * 100
    one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    clock.advance(2)
    assert one.exit_code == LEFT
    assert torn[0] <= one.ended_at


# Until empty


def test_until_empty_stops_after_two_empty_polls_of_every_queue(process, clock):
    gate = Gate()
    one = process({"job": fine}, {"job": gate}, until_empty=True, wait_seconds=2)
    for rig in one.rigs:
        rig.put("job", {}, 3)
    clock.advance(10)
    assert not one.core.stopping  # one of the two is not empty
    gate.event.set()
    clock.advance(3)
    assert one.exit_code == STOPPED
    assert [len(rig.queue.deleted) for rig in one.rigs] == [3, 3]


def test_until_empty_does_not_believe_one_empty_poll(process, clock):
    """SQS asks a part of its servers only, and may say "empty" of a queue that is not."""
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    clock.advance(3)
    assert one.rig.consumer.polls.empty_in_a_row == 1
    assert not one.core.stopping
    one.rig.put("job")
    clock.advance(3)
    assert not one.core.stopping
    clock.advance(4)
    assert one.exit_code == STOPPED


def test_until_empty_waits_for_what_is_in_hand(process, clock):
    gate = Gate()
    one = process({"job": gate}, until_empty=True, wait_seconds=2)
    (message_id,) = one.rig.put("job")
    clock.advance(40)
    assert one.rig.consumer.polls.empty_in_a_row > 10
    assert not one.core.stopping
    gate.event.set()
    clock.advance(4)
    assert one.exit_code == STOPPED
    assert one.rig.outcomes() == {message_id: "succeeded"}


def test_until_empty_waits_for_what_this_worker_has_put_off(process, clock):
    seen = []

    def handle(payload, message):
        seen.append(message.attempt)
        if message.attempt == 1:
            raise Retry("not yet", after=50)

    one = process({"job": handle}, until_empty=True, wait_seconds=2)
    (message_id,) = one.rig.put("job")
    clock.advance(45)
    assert one.rig.consumer.polls.empty_in_a_row > 10
    assert not one.core.stopping
    hold = one.rig.queue.gates["receive"] = Event()  # the receive that will bring it is asked for, and is slow
    clock.advance(15)
    assert not one.core.stopping  # the empty answers are all older than the end of its back-off
    del one.rig.queue.gates["receive"]
    hold.set()
    clock.advance(10)
    assert seen == [1, 2]
    assert one.rig.queue.deleted == {message_id: 1}
    assert one.exit_code == STOPPED


def test_until_empty_says_what_is_left_with_other_consumers(process, clock, caplog):
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    counts = {"ApproximateNumberOfMessagesNotVisible": "1"}
    one.rig.queue.attributes = lambda: counts
    clock.advance(10)
    assert one.exit_code == LEFT
    assert "queue.left" in events(caplog)


@pytest.mark.parametrize("count", ["9" * 5_000, "-1", "", "NaN", "soon", "1e3", None])
def test_until_empty_ends_in_order_whatever_sqs_says_is_left(process, clock, count):
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    one.rig.queue.attributes = lambda: {"ApproximateNumberOfMessages": count}
    clock.advance(10)
    assert one.exit_code == STOPPED


def test_until_empty_says_what_is_left_after_a_signal_too(process, clock, caplog):
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    one.rig.queue.attributes = lambda: {"ApproximateNumberOfMessages": "7"}
    clock.advance(1)
    one.signal(SIGTERM)
    begun = clock.now()
    clock.advance(10)
    assert one.exit_code == LEFT
    assert events(caplog).count("queue.left") == 1
    assert one.ended_at <= begun + 10


def test_until_empty_asks_again_for_counts_that_lag_behind(process, clock):
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    answers = [{"ApproximateNumberOfMessages": "1"}, {"ApproximateNumberOfMessagesDelayed": "1"}]
    one.rig.queue.attributes = lambda: answers.pop(0) if answers else {"ApproximateNumberOfMessages": "0"}
    clock.advance(10)
    assert one.exit_code == STOPPED


def test_until_empty_is_exit_1_where_a_message_is_a_dead_letter(process, clock):
    def reject(payload, message):
        raise Reject("no")

    one = process({"job": reject}, until_empty=True, wait_seconds=2)
    one.rig.put("job")
    clock.advance(10)
    assert len(one.rig.dead.messages) == 1
    assert one.exit_code == LEFT


# Exit codes


def test_what_could_not_be_given_back_is_exit_1(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=10, wait_seconds=1)
    one.rig.queue.script["extend"] = [Unreachable("down")] * 100
    (message_id,) = one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    clock.advance(10)
    assert one.exit_code == LEFT
    assert one.rig.outcomes() == {}
    assert message_id in one.rig.consumer.hand.deliveries


@pytest.mark.parametrize("drain_seconds", [25, math.inf])
@pytest.mark.parametrize("call", ["delete", "extend"])
def test_a_drain_ends_in_seconds_with_exit_1_where_what_is_to_be_settled_is_denied(process, clock, call, drain_seconds):
    def handle(payload, message):
        if call == "extend":
            raise Retry("later", after=5)

    one = process({"job": handle}, wait_seconds=1, drain_seconds=drain_seconds, visibility_seconds=60)
    one.rig.queue.script[call] = [AccessDenied("no", "AccessDenied")] * 1_000
    one.rig.put("job")
    clock.advance(5)
    begun = clock.now()
    one.signal(SIGTERM)
    clock.advance(20)
    assert one.exit_code == LEFT
    assert one.ended_at <= begun + 6
    assert one.rig.books.abandoned == 1


def test_a_drain_that_waits_until_all_is_done_gives_a_delete_up_after_five_minutes(process, clock):
    one = process({"job": fine}, wait_seconds=1, drain_seconds=math.inf)
    one.rig.queue.script["delete"] = [Throttled("slow")] * 10_000
    one.rig.put("job")
    clock.advance(5)
    one.signal(SIGTERM)
    clock.advance(GIVE_UP_SECONDS - 5)
    assert one.exit_code is None
    clock.advance(15)
    assert one.exit_code == LEFT


def test_a_handler_that_was_interrupted_has_half_of_what_is_left_to_clean_up(process, clock):
    def handle(payload, message):
        try:
            Event().wait()
        finally:
            clock.sleep(0.45 * reserve_seconds(20.0))

    one = process({"job": handle}, drain_seconds=20.0, wait_seconds=1)
    one.rig.put("job")
    clock.advance(5)
    one.signal(SIGTERM)
    clock.advance(20 - 0.48 * reserve_seconds(20.0))
    assert one.rig.ended[0][1].name == "released"
    assert one.core.pool.written_off == 0


def test_the_last_line_counts_redeliveries_and_dead_follow_ups_where_there_was_any(process, clock, caplog):
    caplog.set_level("INFO")

    def handle(payload, message):
        message.follow_up("rest", reject="550")

    one = process({"job": handle}, {"job": fine}, wait_seconds=1)
    one.rig.put("job")
    clock.advance(1)
    one.rig.books.receive(1)
    one.rig.books.count_redelivery()
    one.signal(SIGTERM)
    clock.advance(5)
    odd, plain = (record.fields for record in caplog.records if getattr(record, "event", "") == "worker.stopped")
    assert (odd["redelivered"], odd["follow_ups_dead_lettered"], odd["succeeded"], odd["received"]) == (1, 1, 1, 1)
    assert plain.keys().isdisjoint({"redelivered", "follow_ups_dead_lettered"})
    assert (plain["received"], plain["in_hand"], plain["abandoned"], plain["stuck"], plain["exit_code"]) == (0,) * 5
    assert plain["seconds"] == pytest.approx(2, abs=1.01)


@pytest.mark.parametrize(
    ("in_memory", "waiting", "rejected", "told"),
    [
        (
            True,
            2,
            1,
            ["3 waiting messages and 1 dead letter"],
        ),
        (
            True,
            0,
            1,
            ["1 waiting message and 1 dead letter"],
        ),
        (
            True,
            2,
            0,
            ["3 waiting messages and 0 dead letters"],
        ),
        (
            True,
            -1,
            2,
            ["0 waiting messages and 2 dead letters"],
        ),
        (True, -1, 0, []),
        (False, 2, 1, []),
    ],
)
def test_what_ends_with_a_queue_in_memory_is_told(process, clock, caplog, in_memory, waiting, rejected, told):
    def handle(payload, message):
        raise Reject("no")

    one = process({"job": handle}, wait_seconds=1)
    one.rig.consumer.in_memory = in_memory
    parts = {"": waiting, "Delayed": 1, "NotVisible": 0} if waiting >= 0 else {}
    one.rig.queue.attributes = lambda: {f"ApproximateNumberOfMessages{part}": str(n) for part, n in parts.items()}
    if rejected:
        one.rig.put("job", None, rejected)
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(5)
    lines = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "local.gone"]
    assert lines == [f"{gone} are gone: the local queue was in the memory of this process" for gone in told]


def test_the_last_of_all_open_polls_is_what_a_drain_may_wait_for(process, clock, caplog):
    caplog.set_level("INFO")
    one = process({"job": fine}, {"job": fine}, drain_seconds=25.0, wait_seconds=20)
    clock.advance(5)
    one.rigs[1].put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    (told,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "worker.draining"]
    assert "SQS may hold a long poll of it open for 19 s" in told


class Recorded:
    """A watchdog that does nothing, and tells what was asked of it."""

    def __init__(self):
        self.heard = []
        self.hub_blocked = self.leases_rescued = 0

    def start(self):
        self.heard.append("start")

    def stop(self):
        self.heard.append("stop")

    def hand_over_keys(self):
        pass


def test_the_watchdog_runs_from_the_first_poll_to_the_end_and_no_longer(process, clock):
    one = process({"job": lambda payload, message: None}, start=False)
    watchdog = Recorded()
    one.start(watchdog=watchdog)
    assert watchdog.heard == ["start"]
    clock.advance(100)
    one.signal(SIGTERM)
    assert watchdog.heard == ["start"]  # the drain can be blocked too
    clock.advance(60)
    assert one.exit_code == STOPPED
    assert watchdog.heard == ["start", "stop"]


def test_what_the_watchdog_has_seen_and_done_is_counted_once(process, clock):
    one = process({"job": lambda payload, message: None}, start=False)
    watchdog = Recorded()
    one.start(watchdog=watchdog)
    counted = lambda name: one.metrics.tally(f"worker.{name}").total  # noqa: E731
    assert (counted("hub_blocked"), counted("leases_rescued")) == (0, 0)
    for blocked, rescued in ((2, 30), (3, 31)):
        watchdog.hub_blocked, watchdog.leases_rescued = blocked, rescued
        clock.advance(30)
        assert (counted("hub_blocked"), counted("leases_rescued")) == (blocked, rescued)


def test_keys_are_handed_over_to_the_watchdog_at_the_start_and_again_and_again(process, clock):
    times = []
    one = process({"job": lambda payload, message: None}, start=False)
    watchdog = Recorded()
    watchdog.hand_over_keys = lambda: times.append(clock.now())
    one.start(watchdog=watchdog)
    assert len(times) == 1
    clock.advance(60)
    assert 5 <= len(times) <= 8
