"""What an operator may ask of a process: quiet, resume, a level, a weight, a dump; and the socket for that."""

import json
import logging
import os
import socket
import subprocess
import sys
import types
from signal import SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2

import gevent
import pytest

from millpond.errors import Unavailable
from millpond.observe import log
from millpond.observe.metric_row import MetricKey
from millpond.process import control
from millpond.process.control import ControlServer, Order, addresses, ask
from millpond.process.dump import Dump
from millpond.process.gauges import SnapshotGauges
from millpond.process.observer import Observer
from millpond.process.steering import SteeringRefused
from tests.handlers import fine
from tests.virtual import settle

HOUR = 3_600.0


@pytest.fixture
def level():
    """The level of the log before the test comes back."""
    before = logging.getLogger().level
    yield
    log.set_level(logging.getLevelName(before).lower())


@pytest.fixture
def written(monkeypatch):
    """What is written on demand: [(event, message, fields)]."""
    found = []
    output = types.SimpleNamespace(
        handle=lambda record: found.append((record.event, record.getMessage(), record.fields))
    )
    monkeypatch.setattr(log, "outputs", lambda: [output])
    return found


# --- quiet


def test_a_quiet_process_receives_nothing_and_goes_on_with_what_is_in_hand(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(5.0)}, wait_seconds=1)
    first = one.rig.put("job", number=3)
    settle()
    one.steering.quiet()
    clock.advance(2.0)  # the open poll comes back, empty
    calls = one.rig.queue.calls["receive"]
    second = one.rig.put("job", number=4)
    clock.advance(HOUR)
    assert one.rig.queue.calls["receive"] == calls
    assert one.rig.outcomes() == dict.fromkeys(first, "succeeded")
    assert (one.observer.state, one.observer.take().queues[0].state) == ("quiet", "quiet")
    one.steering.resume()
    clock.advance(10.0)
    assert one.rig.outcomes() == dict.fromkeys(first + second, "succeeded")
    assert one.observer.state == "running"


def test_a_poller_that_waits_for_permits_begins_no_receive_once_it_is_quiet(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(5.0)}, concurrency=2, wait_seconds=1)
    one.rig.put("job", number=8)
    settle()
    one.steering.quiet()
    clock.advance(60.0)
    assert len(one.rig.ended) == 2
    assert one.rig.permits.free == 2
    one.steering.resume()
    clock.advance(60.0)
    assert len(one.rig.ended) == 8


def test_a_permit_that_comes_in_the_same_moment_as_quiet_begins_no_receive(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(60.0)}, concurrency=1, wait_seconds=1)
    one.rig.put("job", number=3)
    settle()
    calls = one.rig.queue.calls["receive"]
    one.rig.consumer.share.release()  # the poller that waits has it, and has not had a turn yet
    one.steering.quiet()
    settle()
    clock.advance(5.0)
    assert one.rig.queue.calls["receive"] == calls
    assert one.rig.permits.free == 1


def test_a_quiet_queue_is_well(process, clock):
    one = process({"job": fine}, wait_seconds=1)
    one.steering.quiet()
    clock.advance(HOUR)
    assert one.rig.consumer.pollers.well_until(clock.now()) == clock.now()


@pytest.mark.parametrize("is_full", [True, False])
def test_no_receives_is_not_said_of_a_worker_that_is_full_or_quiet_and_of_one_whose_receives_hang_it_is(
    process, clock, is_full
):
    one = process({"job": lambda payload, message: clock.sleep(2 * HOUR)}, concurrency=1, wait_seconds=1)
    one.rig.put("job", number=3)
    settle()
    if not is_full:
        one.rig.consumer.share.release()  # a permit is free, and the poller that has it never comes back
        one.rig.queue.receive = lambda *_: clock.sleep(2 * HOUR)
    clock.advance(1.0)
    gauges = SnapshotGauges(one.observer, clock)
    age = lambda: gauges.read().gauges[MetricKey("receive_age_seconds", one.rig.consumer.name)]  # noqa: E731
    for _ in range(60):
        clock.advance(HOUR / 60)
        last = age()
    assert (last < 60) is is_full
    one.steering.quiet()
    assert age() == 0.0


def test_a_quiet_process_drains_at_once(process, clock):
    one = process({"job": fine}, wait_seconds=1)
    one.steering.quiet()
    clock.advance(5.0)
    one.signal(SIGTERM)
    assert one.exit_code == 0
    assert one.rig.consumer.pollers.active == 0


def test_quiet_and_resume_do_nothing_in_a_drain(process, clock):
    one = process({"job": lambda payload, message: clock.sleep(5.0)}, wait_seconds=1)
    one.rig.put("job")
    settle()
    one.signal(SIGTERM)
    for ask_for in (one.steering.quiet, one.steering.resume):
        with pytest.raises(SteeringRefused, match="drains"):
            ask_for()
    for number in (SIGUSR1, SIGUSR2):
        one.steering._signalled(number)
    clock.advance(10.0)
    assert one.exit_code == 0
    assert one.rig.queue.calls["receive"] == 2  # the one that was open, and the one that brought it


def test_what_is_made_quiet_during_the_boot_is_quiet_after_it(process, clock):
    one = process({"job": fine}, start=False)
    ids = one.rig.put("job", number=2)
    one.steering.quiet()
    one.start()
    clock.advance(60.0)
    assert one.rig.queue.calls["receive"] == 0
    one.steering.resume()
    clock.advance(5.0)
    assert one.rig.outcomes() == dict.fromkeys(ids, "succeeded")


def test_one_queue_can_be_quiet_and_a_name_that_is_none_is_refused(process, clock):
    one = process({"job": fine}, {"job": fine}, wait_seconds=1)
    for name, rig in zip("ab", one.rigs, strict=True):
        rig.consumer.name = name
    clock.advance(2.0)
    one.steering.quiet("a")
    clock.advance(2.0)
    for rig in one.rigs:
        rig.put("job")
    clock.advance(5.0)
    assert [len(rig.ended) for rig in one.rigs] == [0, 1]
    assert one.observer.state == "running"
    with pytest.raises(SteeringRefused, match="there is no queue c in this worker; there are: a, b"):
        one.steering.quiet("c")


def test_until_empty_does_not_believe_what_was_seen_before_it_was_quiet(process, clock):
    one = process({"job": fine}, wait_seconds=1, until_empty=True)
    clock.advance(0.5)
    one.steering.quiet()
    clock.advance(5.0)  # the open poll was empty; two are believed
    one.steering.resume()
    clock.advance(1.5)
    ids = one.rig.put("job", number=3)
    clock.advance(10.0)
    assert one.rig.outcomes() == dict.fromkeys(ids, "succeeded")


# --- the level, the weights


def test_the_level_of_the_log_changes_and_a_line_says_so_whatever_it_is(process, clock, level, written):
    one = process({"job": fine})
    one.steering.set_level("critical")
    assert logging.getLogger().level == logging.CRITICAL
    assert [event for event, _, _ in written] == ["log.level"]
    one.steering.set_level("debug")
    assert log.is_debug
    assert one.observer.take().worker.log_level == "debug"
    with pytest.raises(SteeringRefused, match="loud is no level"):
        one.steering.set_level("loud")


def test_each_message_that_begins_has_a_line_at_debug_and_only_then(process, clock, level, caplog):
    one = process({"job": fine})
    one.service._queues = one.service._queues._replace(processor=one.rig.processor)
    one.observer.queues = one.service._queues
    one.rig.put("job")
    settle()
    one.steering.set_level("debug")
    ids = one.rig.put("job", number=2)
    clock.advance(1.0)
    started = [record for record in caplog.records if getattr(record, "event", "") == "message.started"]
    assert [record.fields["message_id"] for record in started] == ids
    events = {getattr(record, "event", "") for record in caplog.records}
    assert {"poll.done", "batch.done"} <= events
    one.steering.set_level("info")
    one.rig.put("job")
    clock.advance(1.0)
    assert len([one for one in caplog.records if getattr(one, "event", "") == "message.started"]) == 2
    assert one.rig.processor._call is one.rig.processor._plain_call


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1001", "x", ""])
def test_what_is_no_weight_is_refused(process, text):
    one = process({"job": fine})
    with pytest.raises(SteeringRefused):
        one.steering.set_weight("q", text)


def test_the_weight_of_a_queue_changes_while_it_runs(process):
    one = process({"job": fine})
    assert "from 1 to 2.5" in one.steering.set_weight("q", "2.5")
    assert (one.rig.consumer.share.weight, one.observer.take().queues[0].weight) == (2.5, 2.5)
    with pytest.raises(SteeringRefused, match="name the queue"):
        one.steering.set_weight("", "2")


# --- the dump


def stands_here(payload, message):
    gevent.sleep(60.0)


def down(payload, message):
    raise Unavailable("the mail server is down")


def test_a_dump_has_the_worker_each_queue_each_type_and_each_handler_with_its_own_stack(process, clock, written):
    one = process({"job": stands_here, "mail": down}, concurrency=5)
    ids = one.rig.put("job", number=2)
    one.rig.put("mail")
    settle()
    Dump(one.observer).write()
    events = [event for event, _, _ in written]
    assert events == ["dump.worker", "dump.queue", "dump.type", "dump.type", *["dump.handler"] * 2, "dump.ended"]
    assert "its breaker is open (the mail server is down" in written[3][1]
    assert "leases: 3 held" in written[1][1]
    handlers = [fields for event, _, fields in written if event == "dump.handler"]
    assert [fields["message_id"] for fields in handlers] == ids
    for fields in handlers:
        stack = fields["traceback"]
        assert "in stands_here" in stack
        assert "gevent.sleep(60.0)" in stack
        assert "call_handler" not in stack


def test_a_dump_leaves_out_what_is_too_much_and_says_so(process, clock, written, monkeypatch):
    monkeypatch.setattr("millpond.process.observer.MAX_RUNNING", 3)
    one = process({"job": stands_here}, concurrency=5)
    one.rig.put("job", number=5)
    settle()
    Dump(one.observer).write()
    assert written[-1][1:] == (
        "the dump ends here: 3 handlers, those that have run for longest; 2 more are left out",
        {"handlers": 3, "left_out": 2},
    )


def test_a_dump_of_a_process_that_boots_is_one_too(process, written):
    one = process({"job": fine}, start=False)
    Dump(Observer(one.core, "test")).write()
    assert [event for event, _, _ in written] == ["dump.worker", "dump.ended"]


def test_sigquit_while_the_hub_stands_still_is_answered_in_the_handlers_own_frame(process, clock, written):
    """From inside the handler, as a signal's handler runs: `gr_frame` of the current greenlet is None."""
    acts = []
    one = process({"job": lambda payload, message: computes(one, clock, acts)}, start=True)
    one.steering.install_signals(types.SimpleNamespace(on_steering=acts.append))
    one.rig.put("job")
    settle()
    [(_, _, fields)] = [line for line in written if line[0] == "dump.handler"]
    assert "in computes" in fields["traceback"]


def computes(one, clock, acts):
    one.core.pulse.last = clock.now() - 5.0
    acts[0](SIGQUIT, sys._getframe())
    one.core.pulse.last = clock.now()


# --- the socket


@pytest.fixture
def served(process, clock):
    one = process({"job": fine}, wait_seconds=1)
    server = ControlServer(one.steering, one.observer)
    server.start()
    yield one, server
    server.ended()


def asked(server, order):
    """The answer, as another process has it: by a real thread's worth of greenlet."""
    return gevent.spawn(ask, server._address, order).get(timeout=10)


def test_the_socket_answers_with_a_snapshot_and_obeys(served, clock):
    _, server = served
    assert server._address in addresses()
    answer = asked(server, Order("status"))
    assert (answer.done, answer.snapshot.worker.pid, answer.snapshot.worker.state) == (True, os.getpid(), "running")
    answer = asked(server, Order("quiet"))
    assert answer.done
    assert "it receives nothing from q" in answer.text
    assert answer.snapshot.worker.state == "quiet"
    assert asked(server, Order("resume")).snapshot.worker.state == "running"
    refused = asked(server, Order("quiet", queue="nowhere"))
    assert (refused.done, refused.text[:28]) == (False, "there is no queue nowhere in")


def test_after_its_end_nobody_finds_it(served):
    _, server = served
    server.ended()
    assert server._address not in addresses()


def raw(server, data):
    def talk():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(server._address)
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            try:
                return b"".join(iter(lambda: connection.recv(65_536), b""))
            except ConnectionResetError:  # it was closed before all was read
                return b""

    return gevent.spawn(talk).get(timeout=10)


@pytest.mark.parametrize("data", [b"\n", b"{}\n", b'{"do": "kill"}\n', b"\xff\n", b"[" * 4_000, b'{"do": 1}\n'])
def test_nonsense_is_refused_in_words_and_breaks_nothing(served, data):
    _, server = served
    assert json.loads(raw(server, data))["done"] is False
    assert asked(server, Order("status")).done


def test_an_order_without_an_end_is_cut_off(served):
    _, server = served
    assert b'"done":true' not in raw(server, b'{"do": "quiet", "queue": "' + b"x" * 100_000)
    assert served[0].observer.state == "running"


def test_another_user_and_another_container_are_not_answered(served, monkeypatch):
    assert served
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    peers = [(77, 4711, 0), (77, 0, 0), (77, 4712, 0), (0, 4711, 0)]
    found = []
    for peer in peers:
        connection = types.SimpleNamespace(getsockopt=lambda *args, peer=peer: control._PEER.pack(*peer))
        found.append(control.is_own_peer(connection))
    assert found == [True, True, False, False]


def test_who_is_refused_hears_nothing(served, monkeypatch):
    _, server = served
    monkeypatch.setattr(control, "is_own_peer", lambda connection: False)
    assert raw(server, b'{"do": "quiet"}\n') == b""
    assert served[0].observer.state == "running"


def test_connections_that_say_nothing_are_closed_and_hold_nobody_up(served, monkeypatch):
    monkeypatch.setattr(control, "CONTROL_SECONDS", 0.3)
    _, server = served
    silent = []
    for _ in range(12):
        one = socket.socket(socket.AF_UNIX)
        one.connect(server._address)
        silent.append(one)
    try:
        assert gevent.spawn(ask, server._address, Order("status"), 5.0).get(timeout=10).done
    finally:
        for one in silent:
            one.close()


def test_where_there_are_no_abstract_sockets_it_is_a_file_of_this_user_alone(process, monkeypatch, tmp_path):
    monkeypatch.setattr(control, "HAS_ABSTRACT", False)
    monkeypatch.setattr(control.tempfile, "gettempdir", lambda: str(tmp_path))
    one = process({"job": fine})
    server = ControlServer(one.steering, one.observer)
    server.start()
    [address] = addresses()
    assert asked(server, Order("status")).done
    assert (tmp_path / address).parent.stat().st_mode & 0o777 == 0o700
    server.ended()
    assert addresses() == []


def test_a_folder_that_others_may_enter_is_not_used_and_the_work_goes_on(process, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(control, "HAS_ABSTRACT", False)
    monkeypatch.setattr(control.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"millpond-control-{os.getuid()}").mkdir(mode=0o755)
    one = process({"job": fine})
    server = ControlServer(one.steering, one.observer)
    server.start()
    server.ended()
    assert [record.event for record in caplog.records if getattr(record, "event", "") == "control.failed"]


def test_the_title_of_the_process_is_before_its_command_and_the_environment_stays():
    code = """
import os
from pathlib import Path
from millpond.hub.process_title import ProcessTitle
before = Path("/proc/self/environ").read_bytes()
title = ProcessTitle()
for text in ("[12/100]", "[3/100] " + "x" * 5000, "[1/100]"):
    title.show(text)
    shown = Path("/proc/self/cmdline").read_bytes()
    print(shown.rstrip(b"\\0").decode()[:30])
print(Path("/proc/self/environ").read_bytes() == before)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout
    first, second, third, same = output.splitlines()
    assert first.startswith(f"[12/100] {sys.executable}"[:30])
    assert second == "[3/100] " + "x" * 22
    assert third.startswith(f"[1/100] {sys.executable}"[:30])
    assert same == "True"
