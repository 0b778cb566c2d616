"""What every test of the mail wing has: a limit of time, prompt time-outs, and an end of what it has set up."""

from __future__ import annotations

import gevent
import pytest

import handlers.email
from millpond.mail import timeouts
from tests.mail.senders import close_pools
from tests.smtp_server import make_certificate


@pytest.fixture(autouse=True)
def _bounded(monkeypatch):
    monkeypatch.setattr(timeouts, "TIMEOUT_LOOK_SECONDS", 0.02)
    with gevent.Timeout(90):
        yield
        handlers.email.teardown()
        close_pools()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))
