"""DeadLetterQueue: looks at dead letters, sends them back, deletes them. The command and the live page stand on it.

from millpond.dead_letters.dead_letter_queue import DeadLetterQueue
from millpond.dead_letters.selection import Selection

letters = DeadLetterQueue.of({"emails": "https://sqs.eu-west-1.amazonaws.com/123456789012/emails"})
print(letters.replay(Selection(types=["email.send"], reason="timed out")))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from uuid import uuid4

import msgspec

from millpond.app.opener import Opener
from millpond.dead_letters.letter import Letter, Origin
from millpond.dead_letters.move_task import follow_task, start_task
from millpond.dead_letters.mover import Moved, Mover, MovingLetter
from millpond.dead_letters.replays import replay_entry, wrong_with_replay
from millpond.dead_letters.selection import Selection
from millpond.dead_letters.sweep import LOOK_LEASE_SECONDS, MOVE_LEASE_SECONDS, Stop, Sweep, kept_meanwhile
from millpond.dead_letters.turns import taking_turns
from millpond.errors import AccessDenied, ConfigError, QueueError
from millpond.foreign.number import number_within
from millpond.sqs.clients import connect
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue_url import is_fifo
from millpond.sqs.redrive import read_redrive
from millpond.sqs.sqs_queue import SqsQueue

#: Letters that a look receives where it is asked for no other number.
LOOK_LETTERS = 300
#: Numbers of SQS: more than any queue has.
MAX_COUNT = 10**12

Edit = Callable[[Letter], str | None]
Trim = Callable[[Letter], Letter]


#: Why a look, or a move by a filter, does not reach all.
FIFO_REACH = "a FIFO queue shows the first ten of each group"


class Look(msgspec.Struct):
    """What a look has found: the letters that are meant, of all that were `looked` at. `about`: None is unknown."""

    letters: list[Letter]
    looked: int
    about: int | None
    hidden: int = 0
    hides_groups: bool = False  # a FIFO queue, of which the look came to its end before all were seen

    @property
    def summary(self) -> str:
        """How much of the queue was seen."""
        about = "an unknown number" if self.about is None else f"about {self.about:,}"
        text = f"looked at {self.looked:,} of {about}"
        return f"{text} ({FIFO_REACH})" if self.hides_groups else text


class DeadLetterQueue:
    """One dead-letter queue. `sources`: by their names in config.toml, the queues whose dead letters it has."""

    def __init__(self, queue: SqsQueue, sources: Mapping[str, SqsQueue], opener: Opener | None = None) -> None:
        self.queue = queue
        self.sources = sources
        self._opener = opener or Opener()

    @classmethod
    def of(cls, sources: Mapping[str, str], url: str = "") -> DeadLetterQueue:
        """The dead-letter queue of these queues (name -> URL): the one at `url`, or else of the first one's policy.

        Raises ConfigError where there is none, and QueueError where the queue cannot be asked.
        """
        queues = {name: connect(one, wait_seconds=1, polls=1, settles=1).queue(one) for name, one in sources.items()}
        first = next(iter(queues.values()))
        return cls(first.sqs.queue(url) if url else dead_letters_of(first), queues)

    def look(
        self,
        selection: Selection = Selection(),  # noqa: B008  it is frozen
        most: int = LOOK_LETTERS,
        force: bool = False,
        stop: Stop | None = None,
        advance: Callable[[int], object] = bool,
        trim: Trim = lambda letter: letter,
    ) -> Look:
        """Receive up to this many letters under a short lease, and give them back. Raises QueueError, ConfigError.

        `trim` makes of each letter that is meant what is kept of it: 300 bodies can be 300 MB.
        """
        about, stop = self._about(force), stop or Stop()
        sweep = Sweep(self.queue, self._opener, LOOK_LEASE_SECONDS, about)
        look = Look([], 0, about)
        try:
            while not (sweep.ended or stop.asked) and sweep.seen < most:
                fresh = sweep.step(min(MAX_BATCH, most - sweep.seen))
                look.letters += [trim(one) for one in taking_turns(fresh) if selection.takes(one, time.time())]
                advance(len(fresh))
                sweep.keep()
        finally:
            look.looked, look.hidden = sweep.seen, sweep.give_back()
            look.hides_groups = is_fifo(self.queue.url) and sweep.ended and sweep.seen < (about or 0)
        return look

    def replay(
        self,
        selection: Selection,
        to: SqsQueue | None = None,
        most: int = 0,
        rate: float = 0.0,
        force: bool = False,
        edit: Edit | None = None,
        stop: Stop | None = None,
        advance: Callable[[int], object] = bool,
        reach: int = 0,
        done: Moved | None = None,
    ) -> Moved:
        """Send letters back to where they came from, or to this queue. `most`, `rate` (a second): 0 is no limit.

        `reach`: no more is begun once this many were looked at. `done` shows while it goes on what is done already.
        Raises QueueError and ConfigError where nothing can be moved at all.
        """
        run = uuid4().hex[:8]
        if to is not None and to.url == self.queue.url:
            raise ConfigError("the destination is the dead-letter queue itself: name another one")
        if to is not None and (why := _wrong_with_place(to)):
            raise ConfigError(f"the destination cannot be used: {why}")
        places: dict[str, str] = {}

        def parcel(letter: Letter, sweep: Sweep) -> MovingLetter | str:
            target = to or self.home_of(letter)
            if target is None:
                whose = letter.reason.queue or letter.source or "its source is not known"
                return f"came from no queue of these settings ({whose}): name the destination by --to"
            if target.url not in places:
                places[target.url] = _wrong_with_place(target)
            if why := places[target.url] or wrong_with_replay(letter, is_fifo(target.url), force):
                return why
            entry = partial(replay_entry, letter, run, is_fifo(target.url))
            if edit is None:
                return MovingLetter(letter, target, entry())
            with kept_meanwhile(sweep):
                body = edit(letter)
            return "not edited" if body is None else MovingLetter(letter, target, entry(body))

        return self._move(selection, parcel, most, rate, force, stop, advance, reach, done, run)

    def replay_by_sqs(
        self, rate: int = 0, stop: Stop | None = None, advance: Callable[[int], object] = bool
    ) -> tuple[Moved, bool]:
        """Let SQS itself move all letters, each to the queue that it moved it from.

        It marks nothing, and takes what comes meanwhile too. Returns what was moved, and whether it ended as FAILED, as
        it does at a letter that SQS did not put there itself. Raises QueueError where it does not begin.
        """
        return follow_task(self.queue, start_task(self.queue, rate), stop or Stop(), advance)

    def suits_sqs(self, stop: Stop | None = None) -> bool:
        """Whether all letters of a sample are SQS's own, of these queues, and never replayed. Raises as `look`."""
        stop = stop or Stop()
        for most in (MAX_BATCH, LOOK_LETTERS):  # the first ten mostly say it
            found = self.look(most=most, stop=stop).letters
            if stop.asked or not found or not all(map(self._is_sqss, found)):
                return False
        return True

    def _is_sqss(self, letter: Letter) -> bool:
        return letter.origin is Origin.SQS and letter.mark is None and self.home_of(letter) is not None

    def discard(
        self,
        selection: Selection,
        most: int = 0,
        force: bool = False,
        stop: Stop | None = None,
        advance: Callable[[int], object] = bool,
        reach: int = 0,
        done: Moved | None = None,
    ) -> Moved:
        """Delete letters for good. `reach`, `done` and what it raises: as `replay`."""
        parcel = lambda letter, sweep: MovingLetter(letter)  # noqa: E731
        return self._move(selection, parcel, most, 0.0, force, stop, advance, reach, done)

    def read(
        self, selection: Selection, force: bool = False, stop: Stop | None = None
    ) -> Generator[Letter, None, None]:
        """Yield every letter that is meant, as it comes; all are given back at the end. Raises as `look`."""
        sweep, stop = Sweep(self.queue, self._opener, MOVE_LEASE_SECONDS, self._about(force)), stop or Stop()
        try:
            while not (sweep.ended or stop.asked):
                yield from (letter for letter in sweep.step() if selection.takes(letter, time.time()))
                sweep.keep()
        finally:
            sweep.give_back()

    def count(self) -> int:
        """About how many letters it has; 0 where that may not be asked."""
        return self._about(force=True) or 0

    def home_of(self, letter: Letter) -> SqsQueue | None:
        """The queue that it came from: by its reason, or by what SQS knows; None where neither says it."""
        if letter.origin is Origin.WORKER:
            return self.sources.get(letter.reason.queue)
        name = letter.source.rpartition(":")[2]
        named = (queue for queue in self.sources.values() if queue.url.rstrip("/").rpartition("/")[2] == name)
        return next(named, None) if name else None

    def _move(
        self,
        selection: Selection,
        parcel_of: Callable[[Letter, Sweep], MovingLetter | str],
        most: int,
        rate: float,
        force: bool,
        stop: Stop | None,
        advance: Callable[[int], object],
        reach: int = 0,
        done: Moved | None = None,
        run: str = "",
    ) -> Moved:
        about, started, stop = self._about(force), time.time() * 1000, stop or Stop()
        sweep = Sweep(self.queue, self._opener, MOVE_LEASE_SECONDS, about, started)
        mover = Mover(sweep, stop, rate, advance, done)
        taken, missing = 0, dict.fromkeys(selection.ids)
        try:
            while not (sweep.ended or mover.is_over or (most and taken >= most) or (reach and sweep.seen >= reach)):
                if not (letters := sweep.step()):
                    mover.flush()
                for letter in taking_turns(letters):
                    if (most and taken >= most) or not selection.takes(letter, time.time()):
                        continue
                    if run and letter.mark is not None and letter.mark.run == run:  # it has failed again since
                        continue
                    taken += 1
                    missing = {one: None for one in missing if not selection.names(letter, one)}
                    parcel = parcel_of(letter, sweep)
                    mover.refuse(letter, parcel) if isinstance(parcel, str) else mover.add(parcel)
                mover.done.looked, mover.done.newer = sweep.seen, sweep.newer
                sweep.keep()
            mover.finish()
        except QueueError as error:
            if not sweep.seen:
                raise
            mover.done.stopped = str(error)
        finally:
            sweep.give_back()
        mover.done.looked, mover.done.newer, mover.done.missing = sweep.seen, sweep.newer, [*missing]
        return mover.done

    def _about(self, force: bool) -> int | None:
        """How many letters SQS counts; None: it may not be asked. Raises ConfigError where a look could lose one."""
        try:
            attributes = self.queue.attributes()
        except AccessDenied:
            return None
        redrive = read_redrive(attributes)
        if redrive.max_receive_count and not force:
            text = f"the dead-letter queue has a redrive policy of its own: after {redrive.max_receive_count} receives"
            raise ConfigError(
                f"{text} SQS moves a letter to {redrive.name}, and each look is one; --force looks anyway"
            )
        counts = (attributes.get(f"ApproximateNumberOfMessages{end}") for end in ("", "NotVisible", "Delayed"))
        return sum(number_within(count, 0, MAX_COUNT, 0) for count in counts)


def dead_letters_of(queue: SqsQueue) -> SqsQueue:
    """The dead-letter queue that its redrive policy names. Raises ConfigError where there is none, and QueueError."""
    redrive = read_redrive(queue.attributes())
    found = queue.dead_letters(redrive)
    if found is None:
        raise ConfigError(f"{queue.url}: {redrive.nameless}")
    return found


def _wrong_with_place(target: SqsQueue) -> str:
    """Why nothing can be sent there; "" where it is there. Who may send need not have the right to ask."""
    try:
        target.attributes()
    except AccessDenied:
        return ""
    except QueueError as error:
        return str(error)
    return ""
