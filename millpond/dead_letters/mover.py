"""Mover: sends letters somewhere and deletes them where they were, so that none is lost, and none goes twice unsaid.

One batch is in the air at a time. A process that is killed leaves at most this one both sent and not deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import msgspec

from millpond.dead_letters.letter import Letter
from millpond.dead_letters.sweep import Stop, Sweep, tens
from millpond.errors import QueueError, Throttled, Unanswered, Unreachable
from millpond.foreign.secrets import Unshown
from millpond.sqs.entries import batches, results_of
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue import MISSING, Entry, Failure
from millpond.sqs.queue_url import is_fifo
from millpond.sqs.sqs_queue import SqsQueue

#: What is refused through no fault of its own is sent this often. Where nothing of a batch was taken the next one waits
#: this long; twice as long each time in a row, up to the longest; and after this many the move is given up.
TRIES, RESEND_SECONDS, MAX_RESEND_SECONDS = 8, 0.1, 5.0
#: This many batches in a row without an answer end the move: each leaves ten letters that may be in both queues.
LOST_BATCHES = 2
#: Letters that are named one by one.
MAX_KEPT_NAMED = 1_000
#: How long a wait lasts until a stop is seen.
SLICE_SECONDS = 0.1


class LetterState(Enum):
    """Where a letter stands in a move.

    HELD -> SENT       the destination has confirmed it
    HELD -> KEPT       refused for good, or not ours any more: it stays a dead letter
    HELD -> UNCERTAIN  it was sent and no answer came: it stays a dead letter, and may have gone as well
    SENT -> MOVED      its delete is confirmed
    SENT -> LEFT       it could not be deleted: it is a dead letter still, and has gone to its target as well, if any
    """

    HELD = "held"
    SENT = "sent"
    MOVED = "moved"
    KEPT = "kept"
    UNCERTAIN = "uncertain"
    LEFT = "left"


class MovingLetter(Unshown, msgspec.Struct):
    """A letter on its way, `entry` as it is sent to `target`. Without a target it is deleted only."""

    letter: Letter
    target: SqsQueue | None = None
    entry: Entry | None = None
    state: LetterState = LetterState.HELD
    why: str = ""
    tries: int = 0
    may_have_gone: bool = False


class Moved(msgspec.Struct):
    """What a move has done. `moved`: letters that were sent, or else deleted; `left`: could not be deleted;
    `kept`: ids with reasons; `missing`: ids that name no letter; `stopped`: why it ended before its end;
    `in_air`: letters of the batch that goes on, which may have gone already."""

    moved: int = 0
    looked: int = 0
    newer: int = 0
    kept: list[tuple[str, str]] = msgspec.field(default_factory=list)
    uncertain: list[str] = msgspec.field(default_factory=list)
    left: list[str] = msgspec.field(default_factory=list)
    missing: list[str] = msgspec.field(default_factory=list)
    in_air: int = 0
    refused: int = 0
    stopped: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether all that was meant has been moved, and nothing else was."""
        return not (self.refused or self.uncertain or self.left or self.missing or self.stopped)


class Mover:
    """Moves the letters that `add` takes, in batches; `finish` moves the rest.

    1. The leases of a batch are extended first. What is not ours any more is left alone.
    2. Each is sent, and only what the destination has confirmed is deleted.
    3. In a FIFO queue one letter of a group goes at a time, and none overtakes one that was refused.
    """

    def __init__(
        self,
        sweep: Sweep,
        stop: Stop,
        rate: float = 0.0,
        advance: Callable[[int], object] = bool,
        done: Moved | None = None,
    ) -> None:
        self.done = done or Moved()
        self.sweep = sweep
        self._stop = stop
        self._rate = rate
        self._batch = max(1, min(MAX_BATCH, int(rate))) if rate else MAX_BATCH
        self._advance = advance
        self._waiting: list[MovingLetter] = []
        self._later: list[MovingLetter] = []  # refused for now: they go again when all others have gone
        self._sent = 0
        self._began = time.monotonic()
        self._refused_in_a_row = self._lost_in_a_row = 0
        self._behind: set[str] = set()  # groups of which one was refused

    @property
    def is_over(self) -> bool:
        """Whether nothing more is begun."""
        if self._stop.asked and not self.done.stopped:
            self.done.stopped = "interrupted"
        return bool(self.done.stopped)

    def add(self, parcel: MovingLetter) -> None:
        """Move it as soon as a batch is full."""
        self._waiting.append(parcel)
        if len(self._waiting) >= self._batch:
            self.flush()

    def flush(self) -> None:
        """Move what waits for its batch to be full: a FIFO queue gives no more of a group while one of it is held."""
        waiting, self._waiting = self._waiting, []
        for parcels in _by_place(waiting):
            if self.is_over:
                return
            self._pace(len(parcels))
            self._move(parcels)

    def finish(self) -> None:
        """Move all that waits, and delete again what has come back since its delete."""
        while (self._waiting or self._later) and not self.is_over:
            self.flush()
            self._waiting, self._later = self._later, []
        again, self.sweep.again = self.sweep.again, []
        for some in tens(again):
            results_of(self.sweep.queue.delete, [one.received.receipt_handle for one in some])

    def refuse(self, letter: Letter, why: str) -> None:
        """Say that it stays where it is."""
        self.done.refused += 1
        if len(self.done.kept) < MAX_KEPT_NAMED:
            self.done.kept.append((letter.id, why))

    def _move(self, parcels: list[MovingLetter]) -> None:
        self.sweep.keep()
        for parcel in parcels:
            if not self.sweep.is_held(parcel.letter):
                _end(parcel, LetterState.KEPT, "the lease was lost: another reader has taken it")
            elif parcel.letter.received.group_id in self._behind:
                _end(parcel, LetterState.KEPT, "an earlier letter of the group was refused")
        ready = [parcel for parcel in parcels if parcel.state is LetterState.HELD]
        self.done.in_air = len(ready)
        if ready:
            self._send(ready)
        self._delete([parcel for parcel in parcels if parcel.state is LetterState.SENT])
        self.done.in_air = 0
        self._count(parcels)

    def _send(self, parcels: Sequence[MovingLetter]) -> None:
        """Send a batch. What is refused for now is HELD still, and goes again; in a FIFO queue at once."""
        target = parcels[0].target
        if target is None:  # there is nothing to be sent
            for parcel in parcels:
                parcel.state = LetterState.SENT
            return
        fifo, ready = is_fifo(target.url), list(parcels)
        while ready:
            for parcel, failure in zip(ready, self._results(target, ready), strict=True):
                self._judge(parcel, failure, fifo)
            held = [parcel for parcel in ready if parcel.state is LetterState.HELD]
            self._back_off(len(held) == len(ready))
            if not fifo or self.is_over:
                for parcel in held:  # it is not sent again, which would have told
                    parcel.state = LetterState.UNCERTAIN if parcel.may_have_gone else parcel.state
                return
            ready = held
            self.sweep.keep()

    def _back_off(self, is_refused: bool) -> None:
        """Wait where nothing of a batch was taken; each time in a row longer, until the move is given up."""
        self._refused_in_a_row = self._refused_in_a_row + 1 if is_refused else 0
        if self._refused_in_a_row >= TRIES:
            self.done.stopped = self.done.stopped or f"nothing was taken {TRIES} times in a row"
        elif is_refused:
            self._wait(min(MAX_RESEND_SECONDS, RESEND_SECONDS * 2 ** (self._refused_in_a_row - 1)))

    def _results(self, target: SqsQueue, parcels: Sequence[MovingLetter]) -> list[Failure | None]:
        entries = [parcel.entry for parcel in parcels if parcel.entry is not None]
        try:
            return target.send(entries)
        except Unanswered as error:
            return [Failure(MISSING.code, str(error))] * len(entries)
        except (Throttled, Unreachable) as error:
            return [Failure(error.code, str(error))] * len(entries)
        except QueueError as error:
            self.done.stopped = str(error)
            return [Failure(error.code, str(error), denied=True)] * len(entries)

    def _judge(self, parcel: MovingLetter, failure: Failure | None, is_safe_twice: bool) -> None:
        """`is_safe_twice`: a FIFO queue knows a letter again by its deduplication id, for five minutes."""
        parcel.tries += 1
        parcel.why = "" if failure is None else failure.summary
        is_lost = failure is not None and (failure.code == MISSING.code or failure.code.startswith("call:"))
        parcel.may_have_gone = parcel.may_have_gone or is_lost
        if failure is None:
            parcel.state = LetterState.SENT
        elif (is_lost and not is_safe_twice) or failure.sender_fault or failure.denied or parcel.tries >= TRIES:
            parcel.state = LetterState.UNCERTAIN if parcel.may_have_gone else LetterState.KEPT

    def _delete(self, parcels: list[MovingLetter]) -> None:
        """Delete what was sent, until SQS has confirmed it. What then comes again is deleted by its new handle."""
        for tried in range(TRIES):
            if not parcels:
                return
            results = results_of(self.sweep.queue.delete, [self.sweep.handle(parcel.letter) for parcel in parcels])
            for parcel, failure in zip(parcels, results, strict=True):
                if failure is None:
                    parcel.state = LetterState.MOVED
                else:
                    parcel.why = failure.summary
            parcels = [parcel for parcel in parcels if parcel.state is LetterState.SENT]
            if any(failure is not None and failure.denied for failure in results):  # so would the next ones be
                self.done.stopped = self.done.stopped or f"cannot delete letters: {parcels[0].why}"
                break
            if parcels:  # a stop does not end this: these have gone already
                time.sleep(min(MAX_RESEND_SECONDS, RESEND_SECONDS * 2**tried))
        for parcel in parcels:
            _end(parcel, LetterState.LEFT, parcel.why)

    def _count(self, parcels: Sequence[MovingLetter]) -> None:
        """Count what has ended, and let what was refused for now wait for the end."""
        gone = [parcel for parcel in parcels if parcel.state in (LetterState.MOVED, LetterState.LEFT)]
        self.sweep.settled(parcel.letter for parcel in gone)
        self._sent += len(gone)
        left = [parcel for parcel in gone if parcel.state is LetterState.LEFT]
        self.done.left += [parcel.letter.id for parcel in left]
        self.done.moved += len(gone) - sum(parcel.target is None for parcel in left)  # those went nowhere
        uncertain = [parcel for parcel in parcels if parcel.state is LetterState.UNCERTAIN]
        self.done.uncertain += [parcel.letter.id for parcel in uncertain]
        for parcel in parcels:
            if parcel.state is LetterState.KEPT:
                self.refuse(parcel.letter, parcel.why)
            may_lack = parcel.state in (LetterState.KEPT, LetterState.UNCERTAIN)
            if may_lack and parcel.target is not None and is_fifo(parcel.target.url):
                self._behind.add(parcel.letter.received.group_id)
        self._later += [parcel for parcel in parcels if parcel.state is LetterState.HELD]
        self._lost_in_a_row = self._lost_in_a_row + 1 if len(uncertain) == len(parcels) else 0
        if self._lost_in_a_row >= LOST_BATCHES and not self.done.stopped:
            self.done.stopped = f"no answer came to {LOST_BATCHES} batches in a row: {uncertain[0].why}"
        self._advance(len(gone))

    def _pace(self, number: int) -> None:
        """Wait until this many more may go."""
        if self._rate:
            self._wait(self._began + (self._sent + number - 1) / self._rate - time.monotonic())

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stop.asked:
            time.sleep(min(left, SLICE_SECONDS))
            self.sweep.keep()


def _end(parcel: MovingLetter, state: LetterState, why: str) -> None:
    parcel.state, parcel.why = state, why


def _by_place(parcels: Sequence[MovingLetter]) -> Iterator[list[MovingLetter]]:
    """Batches of one destination each, as large as SQS takes; of a FIFO queue with one letter of each group."""
    places: dict[Any, list[MovingLetter]] = {}
    for parcel in parcels:
        url = "" if parcel.target is None else parcel.target.url
        key: tuple[Any, ...] = (url,)
        if is_fifo(url):
            group = parcel.letter.received.group_id
            earlier = (one for key, all_of in places.items() if key[0] == url for one in all_of)
            key = url, sum(one.letter.received.group_id == group for one in earlier)
        places.setdefault(key, []).append(parcel)
    for some in places.values():
        if some[0].entry is None:
            yield some
            continue
        for indexes in batches([parcel.entry for parcel in some if parcel.entry is not None]):
            yield [some[index] for index in indexes]
