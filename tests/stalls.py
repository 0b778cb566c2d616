"""A plugin of pytest (`-p tests.stalls`): a test marked `clock` runs again where its failure can be the machine's.

Its subject is a limit by the clock. Where the process was stopped meanwhile, or processes waited for a core, a limit
that has passed says nothing. A third failure counts in any case; and so does one where all that was ready to run ran.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from gevent.monkey import get_original

TIMES = 3
#: Less than the least limit that a test has.
STALL_SECONDS = 0.05
TICK_SECONDS = 0.01
#: Begins the line at the end of a run that names a test which ran again.
AGAIN = "ran again: "

_sleep, _now = get_original("time", ["sleep", "monotonic"])
_start_thread = get_original("_thread", "start_new_thread")
_again: list[str] = []


class Stalls:
    """While its `with` block runs: for how long this process, or one of the machine's, could not run."""

    def __init__(self) -> None:
        self._longest = 0.0  # between two ticks of a native thread
        self._over = False
        self._waited = _waited_for_a_core()

    def __enter__(self) -> Stalls:
        _start_thread(self._tick, ())
        return self

    def __exit__(self, *exception: object) -> None:
        self._over = True

    def _tick(self) -> None:
        before = _now()
        while not self._over:
            _sleep(TICK_SECONDS)
            self._longest, before = max(self._longest, _now() - before), _now()

    @property
    def seconds(self) -> float:
        return self._longest - TICK_SECONDS + _waited_for_a_core() - self._waited


def _waited_for_a_core() -> float:
    """Seconds for which a process of this machine was ready to run and did not, as Linux counts them."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().split("total=")[1].split()[0]) / 1e6
    except (OSError, IndexError):  # a kernel without it
        return 0.0


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if item.get_closest_marker("clock") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(TIMES):
        with Stalls() as stalls:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not any(report.failed for report in reports) or stalls.seconds < STALL_SECONDS:
            break
        _again.append(f"{AGAIN}{item.nodeid} (it could not run for {stalls.seconds:.2f} s meanwhile)")
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _again:
        terminalreporter.write_line(line)
