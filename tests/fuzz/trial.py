"""What both kinds that go through the processor share: books that log every ending, and letters."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from millpond.app.config import RetrySettings
from millpond.app.dead_letter import ATTRIBUTE, MAX_VALUE_BYTES
from millpond.app.opener import Opener
from millpond.app.routing import Route
from millpond.engine.books import Books
from millpond.engine.delivery import Delivery
from millpond.engine.processor import OPENER, Processor
from millpond.engine.unsent import EntryWriter
from millpond.hub.clock import SystemClock
from millpond.message import Outcome
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.queue import Received

#: Characters that no line may pass, all its fields and a traceback in it.
MAX_LINE = 120_000
STYLES = ("json", "text")


class KeptLease:
    """The lease of a message that stays this worker's."""

    def is_lost(self, now: float) -> bool:
        return False


class Trial:
    """Takes one message through processor, books, log and letters, and looks at what comes out."""

    name = "q"
    max_bytes = MAX_BYTES

    def __init__(self, routes: Mapping[str, Route], secret: str) -> None:
        self._clock = SystemClock()
        self._processor = Processor(routes, RetrySettings(max_attempts=3), self._clock)
        metrics = Metrics()
        self._books = Books("q", routes, metrics, log.Allowance(1_000_000), self._clock)
        self._entries = EntryWriter("q", self._processor.where, self._clock, fifo=False)
        self._secret = secret
        self._stream = io.StringIO()
        self._outputs: dict[str, logging.Handler] = {}
        for style in STYLES:
            log.setup("debug", style, self._stream)
            self._outputs[style] = logging.getLogger().handlers[-1]

    def take(self, received: Received, style: str, opener: Opener = OPENER) -> tuple[Delivery, Outcome, str]:
        """The outcome, and all lines. Raises AssertionError for any that is not right."""
        logging.getLogger().handlers[:] = [self._outputs[style]]
        self._stream.seek(0)
        self._stream.truncate()
        delivery = Delivery(received, self, self._clock, self._clock.time())
        delivery.lease = KeptLease()
        outcome = self._processor.process(delivery, opener)
        assert type(outcome) is Outcome, outcome
        assert not delivery.is_inside(), "nobody is inside any more"
        for text in (outcome.reason, outcome.error, outcome.traceback):
            assert type(text) is str
            assert len(text) < 10_000, len(text)
        delivery.outcome = outcome
        self._books.finish([delivery])
        self._look_at_letters(delivery, outcome)
        lines = self._stream.getvalue()
        self._look_at_lines(lines, style, outcome)
        return delivery, outcome, lines

    def _look_at_letters(self, delivery: Delivery, outcome: Outcome) -> None:
        letters = [self._entries.letter_of_message(delivery, outcome)] if outcome.name == "dead_lettered" else []
        jobs = [job for job in outcome.follow_ups if job.reject is not None]
        letters += [self._entries.letter_of_follow_up(delivery, job, str(job.reject)) for job in jobs]
        for letter in letters:
            if ATTRIBUTE in letter.attributes:
                text = letter.attributes[ATTRIBUTE].value
                assert isinstance(text, str)
                assert text.isascii()
                assert len(text) <= MAX_VALUE_BYTES
                told = json.loads(text)
                assert self._secret not in told["reason"] + told["error"], text

    def _look_at_lines(self, lines: str, style: str, outcome: Outcome) -> None:
        assert lines.endswith("\n"), "each ending is told"
        assert len(lines) < MAX_LINE, len(lines)
        assert self._secret not in lines, lines
        endings = 0
        for line in lines[:-1].split("\n"):
            assert line.isprintable(), repr(line)
            event = json.loads(line)["event"] if style == "json" else line[9:].split()[1:2]
            endings += event in (f"message.{outcome.name}", [f"message.{outcome.name}"])
        assert endings == 1, lines

    def stuck(self, delivery: Delivery) -> object:
        raise AssertionError("no handler here swallows interrupts")


@contextmanager
def own_log() -> Iterator[None]:
    """The log is the case's own meanwhile, and what a `__del__` raises is nobody's."""
    root, hook = logging.getLogger(), sys.unraisablehook
    handlers, level, flags = list(root.handlers), root.level, (logging.logThreads, logging.logProcesses)
    sys.unraisablehook = _ignore
    try:
        yield
    finally:
        sys.unraisablehook = hook
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.logThreads, logging.logProcesses = flags


def _ignore(unraisable: Any) -> None: ...
