"""Core: what ends a process: signals, crashes, and what a boot raises. Real signals are in test_signals.py."""

from signal import SIGHUP, SIGINT, SIGTERM

import pytest
from gevent.event import Event

from millpond.errors import (
    CRASHED,
    FINISHED,
    QueueMissing,
    Stopped,
)
from millpond.hub.clock import SystemClock
from millpond.hub.signals import ExitSignals
from millpond.process.core import SECOND_SIGNAL_SECONDS, Core
from tests.handlers import Gate, fine
from tests.process.running import LONG, die, events
from tests.virtual import settle


def test_what_the_boot_raises_comes_out():
    core = Core(1, 10.0, SystemClock(), ExitSignals())

    def fail():
        raise QueueMissing("no such queue")

    with pytest.raises(QueueMissing, match="no such queue"):
        core.boot(fail)


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
    assert one.exit_code == FINISHED


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
    assert one.exit_code == FINISHED
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
    assert one.exit_code == FINISHED


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
    assert one.rig.queue.calls["change_visibility"] == one.rig.queue.calls["delete"] == 0
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


def test_the_end_by_force_is_set_as_the_drain_begins(process):
    """A handler that blocks the hub could keep the process from every later step."""
    one = process({"job": fine}, drain_seconds=5.0)
    one.core.stop("crash", CRASHED)
    assert one.allowed == (6.0, CRASHED)
