"""Fixtures of the engine's tests."""

import signal

import pytest

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
