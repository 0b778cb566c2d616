"""Fixtures of the tests of invocations."""

import json
import logging

import gevent
import pytest

from millpond.local import LocalSqs
from millpond.observe.log_format import JsonFormat
from tests.invocations.batches import Batches


@pytest.fixture
def batches(tmp_path):
    """batches({"type": handler}, ...) -> a function with these handlers."""
    server = LocalSqs(port=0)
    server.start()
    yield lambda handlers, **options: Batches(server, tmp_path, handlers, **options)
    server.stop()


@pytest.fixture
def quiet_hub(monkeypatch):
    """The tracebacks of greenlets that a test lets die."""
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *args: None)


@pytest.fixture
def lines():
    """All that is logged meanwhile, as JSON."""
    found = []
    handler = logging.Handler()
    handler.setFormatter(JsonFormat())
    handler.emit = lambda record: found.append(json.loads(handler.format(record)))
    logging.getLogger().addHandler(handler)
    yield found
    logging.getLogger().removeHandler(handler)
