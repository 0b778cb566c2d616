"""What a message costs, in bytecodes and Python frames: neither the clock nor a busy machine changes them.

Each ceiling is about 3 % above what a message takes today. Where one is passed, `python -m bench instructions --quick`
shows by function where the new steps are; a ceiling goes up only for what is worth it, and down with each gain.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from bench.consumers import plain_body
from bench.servers import millpond_local
from millpond.sqs.clients import wire_sqs
from millpond.sqs.sqs_queue import SqsQueue
from tests.steps import MISSING, Cost, Steps, Tray, engine

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

#: Of the engine, by how many are at once: 886 bytecodes in 27.7 frames and 809 in 24.8 (Python 3.13; 3.12 within 1 %).
ENGINE = {10: Cost(913, 28.5), 100: Cost(833, 25.6)}
#: Of the wire client's share, a receive of ten and a delete of ten: 123 in 4.7, over TLS 147 in 6.1.
WIRE = {False: Cost(127, 4.85), True: Cost(152, 6.3)}


def steps(work: Callable[[], object]) -> Cost:
    with Steps() as counted:
        work()
    return counted.total()


def check(cost: Cost, most: Cost) -> None:
    """The bytecodes where they are those that were measured: a newer Python compiles to others."""
    assert cost.frames <= most.frames, f"{cost}, at most {most}"
    assert cost.bytecodes <= most.bytecodes or sys.version_info >= (3, 14), f"{cost}, at most {most}"


@pytest.mark.parametrize("at_once", [10, 100])
def test_a_message_takes_no_more_steps_in_the_engine_than_it_did(at_once):
    """The second half of a run: slots and flushers are made in the first."""
    engine(Tray(100), at_once)
    half, whole = (steps(lambda number=number: engine(Tray(number), at_once)) for number in (300, 600))
    check((whole - half) / 300, ENGINE[at_once])


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
def test_a_message_takes_no_more_steps_in_the_wire_client_than_it_did(tls, monkeypatch):
    """The least of five rounds: an answer that comes in two pieces takes more."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with millpond_local(tls) as server, server.queue() as url:
        server.send(url, map(plain_body, range(1_000)))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca or ""))
        sqs = wire_sqs(url, "us-east-1", server.url, 1)
        assert sqs is not None
        queue = sqs.queue(url)
        move(queue, 100)
        rounds = [steps(lambda: move(queue, 100)) for _ in range(5)]
    check(min(rounds) / 100, WIRE[tls])


def move(queue: SqsQueue, messages: int) -> None:
    """Receive and delete so many, ten a call."""
    for _ in range(messages // 10):
        handles = [one.receipt_handle for one in queue.receive(10, 1, 600)]
        assert queue.delete(handles) == [None] * 10
