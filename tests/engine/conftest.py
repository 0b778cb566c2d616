"""Fixtures of the engine's tests."""

import json
import logging
import signal

import pytest

from millpond.observe.log_format import JsonFormat
from tests.rig import Rig
from tests.virtual import VirtualClock


@pytest.fixture
def alarm():
    def rang(number, frame):
        raise AssertionError("the hub stands still")

    before = signal.signal(signal.SIGALRM, rang)
    signal.setitimer(signal.ITIMER_REAL, 4)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def no_core_greenlet_died(monkeypatch):
    rigs = []
    init = Rig.__init__

    def keep(self, *args, **kwargs):
        init(self, *args, **kwargs)
        rigs.append(self)

    monkeypatch.setattr(Rig, "__init__", keep)
    yield
    assert [rig.crashes for rig in rigs if rig.crashes] == []


@pytest.fixture
def json_lines():
    """All that is logged meanwhile, as JSON."""
    found = []
    handler = logging.Handler()
    handler.setFormatter(JsonFormat())
    handler.emit = lambda record: found.append(json.loads(handler.format(record)))
    logging.getLogger().addHandler(handler)
    yield found
    logging.getLogger().removeHandler(handler)
