"""LetterDesk: looks at the dead letters of this process's queues, and moves them, one thing at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import gevent
import msgspec

from millpond.app.config import QueueSettings
from millpond.app.opener import Opener
from millpond.dead_letters.dead_letter_queue import DeadLetterQueue, Look
from millpond.dead_letters.letter import Letter
from millpond.dead_letters.mover import Moved
from millpond.dead_letters.sweep import Stop
from millpond.engine.consumer import Consumer
from millpond.errors import AccessDenied, ConfigError, MillpondError, QueueError
from millpond.foreign.body_text import body_line
from millpond.foreign.text import shown
from millpond.foreign.trace import describe, traceback_of
from millpond.hub.clock import Event
from millpond.observe import log
from millpond.process.core import Core
from millpond.process.letter_orders import (
    MAX_PAGE_REACH,
    LookOrder,
    MoveOrder,
    MoveProgress,
    left_behind,
    wrong_with_order,
)

#: Characters of the body of a letter that the page shows.
MAX_LETTER_BODY = 2_000
#: What the role of a worker has not by itself: a worker never receives dead letters.
MISSING_RIGHTS = "; the page needs the rights of deploy/policies/worker-dead-letters.json"


class LettersRefused(MillpondError):
    """What was asked for cannot be done now; the text says why."""


class LettersUnknown(LettersRefused):
    """There is no such queue, or its dead-letter queue is not known."""


class LetterDesk:
    """The dead letters of the queues of one process, from `ready` until the drain.

    1. A look or a move goes on, never two: they would take letters from each other.
    2. Its calls go by the clients of the queues, beside the worker's own, and are not among its counted requests. They
       take no permit: a letter is no message in hand.
    3. The drain asks it to stop: the batch in the air is sent and deleted, the rest given back; `close` waits for that.
       Where that takes too long, `ended` logs what may be in both queues.
    4. What fails in it is logged, and ends it alone: the work goes on.
    """

    def __init__(self, core: Core, settings: Mapping[str, QueueSettings], show_bodies: bool = False) -> None:
        self.progress: MoveProgress | None = None  # of the last move
        self._core = core
        self._settings = settings
        self._trim = with_body_line if show_bodies else without_body
        self._consumers: dict[str, Consumer] = {}
        self._goes_on = ""  # "look" or "move"
        self._stop = Stop()
        self._idle: Event = core.clock.event()
        self._idle.set()

    # A Follower

    def ready(self, consumers: Sequence[Consumer]) -> None:
        """These are the queues."""
        self._consumers = {consumer.name: consumer for consumer in consumers}

    def draining(self) -> None:
        """End what goes on after the batch in the air."""
        self._stop.asked = True

    def ended(self) -> None:
        """Log what a move leaves that `close` could not wait for."""
        progress = self.progress
        if progress is not None and self._goes_on == "move":
            progress.state, progress.why = "failed", left_behind(progress)
            self._end()
            self._log_result(progress)

    def close(self) -> None:
        """Wait until nothing goes on; the caller limits that."""
        self._stop.asked = True
        self._idle.wait()

    # What the page asks for

    @property
    def names(self) -> list[str]:
        """The queues whose dead-letter queue is known."""
        return [name for name, consumer in self._consumers.items() if consumer.dead_letters is not None]

    def look(self, order: LookOrder, who: str) -> Look:
        """Look at a sample, and give it back. Raises LettersRefused."""
        letters, text = self.letters(order.queue), f"{who} looked at dead letters of {order.queue} by the live page"
        try:
            with self._turn("look", letters.stop):
                look = letters.look(order.selection, trim=self._trim)
        except (QueueError, ConfigError) as error:
            log.event(logging.INFO, "letters.looked", f"{text}: {_why(error)}", queue=order.queue, number=0)
            raise LettersRefused(_why(error)) from error
        log.event(logging.INFO, "letters.looked", f"{text}: {look.summary}", queue=order.queue, number=look.looked)
        return look

    def start(self, order: MoveOrder, who: str) -> MoveProgress:
        """Begin a move, and log who asked for it. Raises LettersRefused."""
        letters, wrong = self.letters(order.queue), wrong_with_order(order) or self._why_not_now()
        if wrong:
            raise LettersRefused(wrong)
        self.progress = progress = MoveProgress(order, Moved())
        self._begin("move", letters.stop)
        text = f"{who} orders by the live page: {order.described}"
        gevent.spawn(self._run, letters, progress)  # before the log: a handler added there may let others run
        log.event(logging.WARNING, "letters.ordered", text, queue=order.queue, action=order.do, most=order.most)
        return progress

    def stop(self, who: str) -> MoveProgress | None:
        """End the move after the batch in the air, and log who asked for it."""
        progress = self.progress
        if progress is not None and self._goes_on == "move" and not progress.stop_asked:
            self._stop.asked = progress.stop_asked = True
            order = progress.order
            text = f"{who} stops by the live page the {order.do} of dead letters of {order.queue}"
            log.event(logging.WARNING, "letters.stopped", text, queue=order.queue, action=order.do)
        return progress

    def letters(self, name: str) -> DeadLetterQueue:
        """The dead letters of this queue. Raises LettersUnknown."""
        consumer = self._consumers.get(name)
        dead = consumer.dead_letters if consumer is not None else None
        if dead is None:
            raise LettersUnknown("no dead-letter queue is known of this queue")
        settings = self._settings[name]
        sources = {one.name: one.queue.sqs.queue(one.url) for one in self._consumers.values()}
        return DeadLetterQueue(dead.sqs.queue(dead.url), sources, Opener(settings.event_type, settings.envelope))

    # One thing at a time

    def _why_not_now(self) -> str:
        if self._core.stopping:
            return "the worker drains"
        return f"a {self._goes_on} goes on: wait for its end" if self._goes_on else ""

    @contextmanager
    def _turn(self, what: str, stop: Stop) -> Iterator[None]:
        if wrong := self._why_not_now():
            raise LettersRefused(wrong)
        self._begin(what, stop)
        try:
            yield
        finally:
            self._end()

    def _begin(self, what: str, stop: Stop) -> None:
        self._goes_on, self._stop = what, stop
        self._idle.clear()

    def _end(self) -> None:
        self._goes_on = ""
        self._idle.set()

    def _run(self, letters: DeadLetterQueue, progress: MoveProgress) -> None:
        try:
            self._move(letters, progress)
        except (QueueError, ConfigError) as error:
            progress.state, progress.why = "failed", _why(error)
        except Exception as error:
            progress.state, progress.why = "failed", describe(error)
            text = f"a move of dead letters failed: {progress.why}"
            log.event(logging.ERROR, "letters.failed", text, queue=progress.order.queue, traceback=traceback_of(error))
        finally:
            if progress.state == "moving":
                progress.state, progress.why = "failed", "it was ended from outside"
            if self._goes_on:  # or `ended` has logged it
                self._end()
                self._log_result(progress)

    def _move(self, letters: DeadLetterQueue, progress: MoveProgress) -> None:
        order, done = progress.order, progress.done
        move = letters.replay if order.do == "replay" else letters.discard
        move(order.selection, most=order.most, reach=MAX_PAGE_REACH, done=done)
        progress.state, progress.why = "done", shown(done.stopped)
        if done.looked >= MAX_PAGE_REACH and not done.stopped:
            progress.why = f"it ended at {done.looked:,} letters: one order looks at no more"

    def _log_result(self, progress: MoveProgress) -> None:
        order, done = progress.order, progress.done
        text = f"the {order.do} of dead letters of {order.queue} by the live page has ended: {progress.result}"
        fields = {"queue": order.queue, "action": order.do, "moved": done.moved, "kept": done.refused}
        log.event(logging.WARNING, "letters.moved", text, **fields)


def _why(error: Exception) -> str:
    return f"{shown(error)}{MISSING_RIGHTS if isinstance(error, AccessDenied) else ''}"


def without_body(letter: Letter, body: str = "") -> Letter:
    """What is kept of a letter that is looked at: not its attributes, and not its body, or this one instead."""
    return msgspec.structs.replace(letter, received=msgspec.structs.replace(letter.received, body=body, attributes={}))


def with_body_line(letter: Letter) -> Letter:
    """The same with a line of its body, without secrets."""
    return without_body(letter, body_line(letter.received.body, MAX_LETTER_BODY))
