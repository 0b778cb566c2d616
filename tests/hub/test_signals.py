"""The native thread that ends a process in time, whatever its main thread does: real processes, real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from millpond.errors import FINISHED
from tests.worker_process import ROOT, SECONDS

#: Computes: no greenlet has a turn, and no handler of a signal could end it.
PROGRAM = """
import signal, sys, threading, time
from millpond.observe import log
from millpond.hub.signals import ExitSignals

log.setup("info", "text", sys.stdout)
signals = ExitSignals()
signals.start_thread()
signals.on_signal(lambda number: None)
signal.signal(signal.SIGUSR1, lambda number, frame: None)
{}
print("here", flush=True)
while True:
    pass
"""


@pytest.fixture
def start() -> Iterator[object]:
    """start(more lines) -> a process that computes."""
    processes = []

    def start(more: str) -> subprocess.Popen:
        command = [sys.executable, "-c", PROGRAM.format(more)]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "here\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit code and what it has written."""
    output, _ = process.communicate(timeout=SECONDS)
    return process.returncode, output


def test_a_process_that_computes_is_ended_when_its_time_after_a_signal_is_over_and_says_where_it_stood(start):
    process = start("signals.allow(0.3, 7)")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, output = ended(process)
    assert code == 7
    assert time.monotonic() - began >= 0.3
    assert "the process did not end within 0.3 s and is ended by force, exit code 7" in output
    assert 'File "<string>", line ' in output
    assert "while True:" in output or sys.version_info < (3, 13)  # which does not keep the source of `python -c`


def test_a_signal_that_is_another_matter_ends_nothing(start):
    process = start("signals.allow(0.1, 7)")
    process.send_signal(signal.SIGUSR1)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.6)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 7


def test_the_signals_that_steer_are_none_of_a_forked_childs(start):
    process = start("from millpond.hub.signals import begin_child\nsignals.on_steering(print)\nbegin_child()")
    process.send_signal(signal.SIGUSR2)
    assert ended(process)[0] == -signal.SIGUSR2


def test_an_end_that_was_begun_without_a_signal_has_its_time_too(start):
    process = start("signals.end_within(0.2, 9)")
    assert ended(process)[0] == 9


@pytest.mark.slow
def test_a_process_that_does_nothing_yet_has_three_seconds_after_a_signal(start):
    process = start("")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)  # the one that no shell in the background ignores
    assert ended(process)[0] == FINISHED
    assert time.monotonic() - began >= 3.0
