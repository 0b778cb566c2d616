"""`worker.py run`: one message by hand, to its handler, without any queue."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from uuid import uuid4

import gevent
import msgspec
from gevent.event import Event

from millpond.app import discovery
from millpond.app.config import AllSettings
from millpond.app.routing import name_of_route
from millpond.commands.send import read_payload
from millpond.engine.delivery import Delivery
from millpond.engine.no_queue import NoQueue
from millpond.engine.processor import Processor
from millpond.errors import FINISHED, LEFT, ConfigError
from millpond.foreign.nearest import did_you_mean
from millpond.foreign.text import lines, shown
from millpond.hub.clock import SystemClock
from millpond.hub.signals import ExitSignals
from millpond.message import Outcome, envelope_text
from millpond.observe import screen
from millpond.process.boot import prepare_process, set_up
from millpond.process.drain import TEARDOWN_SECONDS
from millpond.sqs.queue import Received

#: A handler that computes sees no signal: the process is ended this long after the time of the teardowns.
COMPUTES_SECONDS = 1.0
#: Characters of the reason or the error that is printed.
MAX_PRINTED = 2_000


def run(settings: AllSettings, options: Namespace, signals: ExitSignals) -> int:
    """Run the handler of a type with this payload, print its outcome, and return the exit code: 0 where it succeeded.

    Claims are not asked: what is done by hand is done although it was done before. A signal leaves a handler that waits
    where it is, and tears down. Raises ConfigError.
    """
    handlers = discovery.handlers_of(settings)
    payload = msgspec.Raw(read_payload(options.payload).encode())
    if name_of_route(options.type, handlers.routes) is None:
        text = did_you_mean(options.type, sorted(handlers.routes))
        raise ConfigError(f"no handler takes {shown(options.type)}; {text}")
    prepare_process()
    teardowns = set_up(handlers)
    try:
        clock = SystemClock()
        processor = Processor(handlers.routes, settings.retry, clock, settings.worker.threads)
        received = Received(
            message_id=str(uuid4()),
            receipt_handle="",
            body=envelope_text(options.type, options.event_id or uuid4().hex, payload),
            receive_count=options.attempt,
            sent_ms=int(time.time() * 1000),
        )
        delivery = Delivery(received, NoQueue("none"), clock, clock.time())
        running, over = gevent.spawn(processor.process, delivery), Event()
        running.link(lambda _: over.set())
        if signals.has_thread:
            signals.allow(TEARDOWN_SECONDS + COMPUTES_SECONDS, LEFT)
            signals.on_signal(lambda number: over.set())
        over.wait()
    finally:
        gevent.joinall([gevent.spawn(teardown) for teardown in teardowns], timeout=TEARDOWN_SECONDS)
    if not running.ready():
        print(f"{shown(options.type)}: interrupted, its handler had not ended", file=sys.stderr)
        return LEFT
    outcome = running.get()
    print_outcome(options.type, delivery, outcome)
    return FINISHED if outcome.name == "succeeded" else LEFT


def print_outcome(event_type: str, delivery: Delivery, outcome: Outcome) -> None:
    """Print what became of it, and what its handler would leave behind."""
    seconds = delivery.ended - delivery.started if delivery.started else 0.0
    cause = f" ({outcome.cause})" if outcome.cause else ""
    print(f"{shown(event_type)}: {outcome.name}{cause} in {seconds:.3f} s")
    for name, text in (("reason", outcome.reason), ("error", outcome.error)):
        if text:
            print(f"{name}: {shown(text, MAX_PRINTED)}")
    if outcome.name == "retried":
        print(f"a worker would make it visible again in {screen.counted(outcome.delay_seconds, 'second')}")
    for follow_up in outcome.follow_ups:
        print(f"follow-up, which is not sent: {shown(follow_up.body, MAX_PRINTED)}")
    if outcome.traceback:
        print(lines(outcome.traceback), file=sys.stderr)
    sys.stdout.flush()
