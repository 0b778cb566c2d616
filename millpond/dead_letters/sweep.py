"""Sweep: one pass over a dead-letter queue, by short leases that are kept, and given back at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

from millpond.app.opener import Opener
from millpond.dead_letters.letter import Letter
from millpond.dead_letters.letter_calls import receive_letters
from millpond.errors import Throttled, Unreachable
from millpond.sqs.entries import results_of
from millpond.sqs.limits import MAX_BATCH, lease_seconds
from millpond.sqs.queue import CALL_SECONDS
from millpond.sqs.sqs_queue import SqsQueue

#: How long SQS hides a letter from others at a time: while it is looked at, and while it is moved, where a whole batch
#: of calls must fit into what is left. After a kill -9 letters are back within this.
LOOK_LEASE_SECONDS, MOVE_LEASE_SECONDS = 30, 60
#: A sweep looks this often within a lease which of them are half over.
KEEPS = 10
#: The wait of a receive: a long poll asks all servers of SQS, a short one only some.
WAIT_SECONDS = 1
#: Empty receives in a row that are the end; one is enough where as many letters were seen as SQS counted.
EMPTY_RECEIVES = 3
#: Receives in a row that brought nothing but letters that were seen before, or came after the start.
STALE_RECEIVES = 20
#: A receive that fails is made again this often, after these seconds and twice, four times as many.
RECEIVE_TRIES, RETRY_SECONDS = 4, 0.5
#: How often the leases are looked at while a person edits.
EDIT_KEEP_SECONDS = 5.0

One = TypeVar("One")


def tens(items: Sequence[One]) -> Iterator[Sequence[One]]:
    """These, as many at a time as a batch call takes."""
    return (items[at : at + MAX_BATCH] for at in range(0, len(items), MAX_BATCH))


class Stop:
    """Asks a sweep to end after the batch in the air. `asked` is set by a signal, or by whoever waits no longer.

    `interrupts`: a person is asked something, and a signal ends the question at once.
    """

    asked = interrupts = False


class Sweep:
    """Goes over the queue once: `step` gives the letters of one receive, each letter once, until it has `ended`.

    1. A letter that has come is held: `keep` extends its lease, `settled` says that it is gone, `give_back` ends all.
    2. One that came after `started` (ms since the epoch) is held, and not given: what fails again is not met twice.
       `about`: how many SQS counts, None where that is not known.
    3. One that is received again goes on by its new receipt handle. `again` has those that were settled before.
    """

    def __init__(
        self,
        queue: SqsQueue,
        opener: Opener,
        visibility_seconds: int,
        about: int | None = None,
        started: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = queue
        self.ended = False
        self.seen = self.newer = 0
        self.again: list[Letter] = []
        self.about = about
        self._opener = opener
        self._seconds = visibility_seconds
        self._started = started
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}  # message id -> receipt handle, and the end of its lease
        self._known: set[str] = set()
        self._settled: set[str] = set()
        self._empty = self._stale = 0
        self._next_keep = -math.inf

    @property
    def holds(self) -> int:
        """How many letters are held now."""
        return len(self._held)

    def step(self, most: int = MAX_BATCH) -> list[Letter]:
        """The letters of one receive, `most` at the most, that were not seen before. Raises QueueError."""
        before = self._clock()
        letters = self._receive(most)
        fresh = [letter for letter in letters if self._take(letter, before)]
        self._empty = 0 if letters else self._empty + 1
        self._stale = self._stale + 1 if letters and not fresh else 0
        enough = 1 if self.seen + self.newer >= (self.about or 0) else EMPTY_RECEIVES
        self.ended = self._empty >= enough or self._stale >= STALE_RECEIVES
        return fresh

    def keep(self) -> None:
        """Extend every lease that is half over. One that cannot be extended is no longer held."""
        now = self._clock()
        if now < self._next_keep:  # or 100,000 held letters would be looked at after each receive
            return
        # SQS answers 200 to an extension that comes too late, as after a process was stopped, and extends nothing.
        self._held = {one: held for one, held in self._held.items() if held[1] > now}
        due = [one for one, (_, end) in self._held.items() if end - now < self._seconds / 2]
        for some in tens(due):
            began = self._clock()
            results = results_of(self.queue.change_visibility, [(self._held[one][0], self._seconds) for one in some])
            for one, failure in zip(some, results, strict=True):
                if failure is None:
                    self._held[one] = self._held[one][0], began + self._seconds
                elif failure.lease_lost:
                    del self._held[one]
        self._next_keep = now + self._seconds / KEEPS

    def is_held(self, letter: Letter) -> bool:
        """Whether it is surely ours for as long as a call to SQS can take."""
        held = self._held.get(letter.id)
        return held is not None and held[1] - self._clock() > CALL_SECONDS

    def handle(self, letter: Letter) -> str:
        """Its newest receipt handle."""
        held = self._held.get(letter.id)
        return held[0] if held is not None else letter.received.receipt_handle

    def settled(self, letters: Iterable[Letter]) -> None:
        """These need nothing more but their delete: they are not given, nor given back."""
        for letter in letters:
            self._settled.add(letter.id)
            self._held.pop(letter.id, None)

    def give_back(self) -> int:
        """Show all that is held to others at once; returns how many stay hidden until their lease ends."""
        hidden, held = 0, list(self._held.values())
        self._held.clear()
        for some in tens(held):
            results = results_of(self.queue.change_visibility, [(handle, 0) for handle, _ in some])
            hidden += sum(failure is not None and not failure.lease_lost for failure in results)
        return hidden

    def _take(self, letter: Letter, before: float) -> bool:
        """Hold it; returns whether it is to be given: it was there at the start, and was not given before."""
        if letter.id in self._settled:
            self.again.append(letter)
            return False
        was_known = letter.id in self._known
        self._held[letter.id] = letter.received.receipt_handle, before + lease_seconds(self._seconds)
        self._known.add(letter.id)
        is_newer = self._started is not None and letter.received.sent_ms > self._started
        self.newer += is_newer and not was_known
        self.seen += not is_newer and not was_known
        return not is_newer and not was_known

    def _receive(self, most: int) -> Sequence[Letter]:
        for tried in range(RECEIVE_TRIES - 1):
            try:
                return receive_letters(self.queue, most, WAIT_SECONDS, self._seconds, self._opener)
            except (Throttled, Unreachable):
                time.sleep(RETRY_SECONDS * 2**tried)
        return receive_letters(self.queue, most, WAIT_SECONDS, self._seconds, self._opener)


@contextmanager
def kept_meanwhile(sweep: Sweep) -> Iterator[None]:
    """Keep the leases while a person edits, however long that takes."""
    is_over = Event()

    def keep() -> None:
        while not is_over.wait(EDIT_KEEP_SECONDS):
            sweep.keep()

    keeper = Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        is_over.set()
        keeper.join()
