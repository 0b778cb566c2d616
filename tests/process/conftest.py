"""Fixtures of the tests of a whole process."""

import gevent
import pytest

from tests import rig as rig_module
from tests.process.running import Process, Wired, virtual_gevent
from tests.virtual import VirtualClock


@pytest.fixture
def clock():
    return VirtualClock()


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


@pytest.fixture
def quiet_hub(monkeypatch):
    """The tracebacks of greenlets that a test lets die."""
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *args: None)
