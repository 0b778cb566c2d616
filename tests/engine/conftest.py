"""Fixtures of the engine's tests."""

import signal

import pytest


@pytest.fixture
def alarm():
    def rang(number, frame):
        raise AssertionError("the hub stands still")

    before = signal.signal(signal.SIGALRM, rang)
    signal.setitimer(signal.ITIMER_REAL, 4)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
