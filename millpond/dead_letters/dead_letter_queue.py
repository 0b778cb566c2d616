"""DeadLetterQueue: looks at dead letters, sends them back, deletes them. The command and the live page stand on it.

from millpond.dead_letters.dead_letter_queue import DeadLetterQueue
from millpond.dead_letters.selection import Selection

letters = DeadLetterQueue.of({"emails": "https://sqs.eu-west-1.amazonaws.com/123456789012/emails"})
print(letters.replay(Selection(types=["email.send"], reason="timed out")))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence

import msgspec

from millpond.app.opener import Opener
from millpond.dead_letters.letter import Letter, Origin
from millpond.dead_letters.move_task import follow_task, start_task
from millpond.dead_letters.mover import Moved, Mover, MovingLetter
from millpond.dead_letters.replays import Edit, Replay
from millpond.dead_letters.selection import Search, Selection
from millpond.dead_letters.sweep import LOOK_LEASE_SECONDS, MOVE_LEASE_SECONDS, Stop, Sweep
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
    def newest(self) -> list[Letter]:
        """The letters, the one that failed last first."""
        return sorted(self.letters, key=lambda letter: -letter.failed_at)

    @property
    def summary(self) -> str:
        """How much of the queue was seen."""
        about = "an unknown number" if self.about is None else f"about {max(self.about, self.looked):,}"
        text = f"looked at {self.looked:,} of {about}"
        return f"{text} ({FIFO_REACH})" if self.hides_groups else text

    def has_all(self, seen: int, fresh: Sequence[Letter], began: float) -> bool:
        """Whether as many were seen as SQS counted, and the last receive brought only later ones (ms since epoch)."""
        newer = bool(fresh) and all(one.received.sent_ms > began for one in fresh)
        return newer and self.about is not None and seen >= self.about


class DeadLetterQueue:
    """One dead-letter queue. `sources`: by their names in config.toml, the queues whose dead letters it has.

    `force`: a look that can lose letters is made, and what failed the same way again and again is replayed. `stop` ends
    whatever goes on. All that looks or moves raises QueueError, and ConfigError where nothing can be begun.
    """

    def __init__(
        self,
        queue: SqsQueue,
        sources: Mapping[str, SqsQueue],
        opener: Opener | None = None,
        *,
        force: bool = False,
        stop: Stop | None = None,
    ) -> None:
        self.queue = queue
        self.sources = sources
        self.force = force
        self.stop = stop or Stop()
        self._opener = opener or Opener()

    @classmethod
    def of(cls, sources: Mapping[str, str], url: str = "", force: bool = False) -> DeadLetterQueue:
        """The dead-letter queue of these queues (name -> URL): the one at `url`, or else of the first one's policy.

        Raises ConfigError where there is none, and QueueError where the queue cannot be asked.
        """
        queues = {name: connect(one, wait_seconds=1, polls=1, settles=1).queue(one) for name, one in sources.items()}
        first = next(iter(queues.values()))
        return cls(first.sqs.queue(url) if url else dead_letters_of(first), queues, force=force)

    def look(
        self,
        selection: Selection = Selection(),  # noqa: B008  it is frozen
        most: int = LOOK_LETTERS,
        trim: Trim = lambda letter: letter,
    ) -> Look:
        """Receive up to this many letters under a short lease, and give them back.

        It ends at letters that came after its start: while a handler fails, they would come for ever.
        `trim` makes of each letter that is meant what is kept of it: 300 bodies can be 300 MB.
        """
        search, sweep, began = Search(selection), self._sweep(LOOK_LEASE_SECONDS), time.time() * 1000
        look, fresh = Look([], 0, sweep.about), list[Letter]()
        try:
            while not (sweep.ended or self.stop.asked or search.is_over) and sweep.seen < most:
                if look.has_all(sweep.seen, fresh, began):
                    break
                fresh = sweep.step(min(MAX_BATCH, most - sweep.seen))
                look.letters += [trim(one) for one in taking_turns(fresh) if search.takes(one)]
                sweep.keep()
        finally:
            look.looked, look.hidden = sweep.seen, sweep.give_back()
            look.hides_groups = is_fifo(self.queue.url) and sweep.ended and sweep.seen < (sweep.about or 0)
        return look

    def read(self, search: Search) -> Generator[Letter, None, None]:
        """Give every letter that is meant, as it comes; all are given back at the end."""
        return self._read(search, self._sweep(MOVE_LEASE_SECONDS))

    def _read(self, search: Search, sweep: Sweep) -> Generator[Letter, None, None]:
        try:
            while not (sweep.ended or self.stop.asked or search.is_over):
                yield from (letter for letter in sweep.step() if search.takes(letter))
                sweep.keep()
        finally:
            sweep.give_back()

    def replay(
        self,
        selection: Selection,
        to: SqsQueue | None = None,
        *,
        most: int = 0,
        rate: float = 0.0,
        edit: Edit | None = None,
        advance: Callable[[int], object] = bool,
        reach: int = 0,
        done: Moved | None = None,
    ) -> Moved:
        """Send letters back to where they came from, or to this queue. `most`, `rate` (a second): 0 is no limit.

        `reach`: no more is begun once this many were looked at. `done` shows while it goes on what is done already.
        """
        if to is not None and to.url == self.queue.url:
            raise ConfigError("the destination is the dead-letter queue itself: name another one")
        replay = Replay(self.home_of, to, self.force, edit)
        mover = self._mover(rate, advance, done)
        return self._move(Search(selection, replay.run), replay.parcel_of, mover, most, reach)

    def discard(
        self,
        selection: Selection,
        *,
        most: int = 0,
        advance: Callable[[int], object] = bool,
        reach: int = 0,
        done: Moved | None = None,
    ) -> Moved:
        """Delete letters for good. `reach`, `done`: as for `replay`."""
        mover = self._mover(0.0, advance, done)
        return self._move(Search(selection), lambda letter, sweep: MovingLetter(letter), mover, most, reach)

    def replay_by_sqs(self, rate: int = 0, advance: Callable[[int], object] = bool) -> tuple[Moved, bool]:
        """Let SQS itself move all letters, each to the queue that it moved it from.

        It marks nothing, and takes what comes meanwhile too. Returns what was moved, and whether it ended as FAILED, as
        it does at a letter that SQS did not put there itself.
        """
        return follow_task(self.queue, start_task(self.queue, rate), self.stop, advance)

    def suits_sqs(self) -> bool:
        """Whether all letters of a sample are SQS's own, of these queues, and never replayed."""
        for most in (MAX_BATCH, LOOK_LETTERS):  # the first ten mostly say it
            found = self.look(most=most).letters
            if self.stop.asked or not found or not all(map(self._is_sqss, found)):
                return False
        return True

    def _is_sqss(self, letter: Letter) -> bool:
        return letter.origin is Origin.SQS and letter.mark is None and self.home_of(letter) is not None

    def count(self) -> int:
        """About how many letters it has; 0 where that may not be asked."""
        try:
            return _number_of(self.queue.attributes())
        except AccessDenied:
            return 0

    def home_of(self, letter: Letter) -> SqsQueue | None:
        """The queue that it came from: by its reason, or by what SQS knows; None where neither says it."""
        if letter.origin is Origin.WORKER:
            return self.sources.get(letter.reason.queue)
        name = letter.source.rpartition(":")[2]
        named = (queue for queue in self.sources.values() if queue.url.rstrip("/").rpartition("/")[2] == name)
        return next(named, None) if name else None

    def _mover(self, rate: float, advance: Callable[[int], object], done: Moved | None) -> Mover:
        return Mover(self._sweep(MOVE_LEASE_SECONDS, self.queue.now() * 1000), self.stop, rate, advance, done)

    def _move(
        self,
        search: Search,
        parcel_of: Callable[[Letter, Sweep], MovingLetter | str],
        mover: Mover,
        most: int,
        reach: int,
    ) -> Moved:
        sweep, done, taken = mover.sweep, mover.done, 0
        try:
            while not (sweep.ended or search.is_over or mover.is_over or 0 < most <= taken or 0 < reach <= sweep.seen):
                if not (letters := sweep.step()):
                    mover.flush()
                for letter in taking_turns(letters):
                    if 0 < most <= taken or not search.takes(letter):
                        continue
                    taken += 1
                    parcel = parcel_of(letter, sweep)
                    mover.refuse(letter, parcel) if isinstance(parcel, str) else mover.add(parcel)
                done.looked, done.newer = sweep.seen, sweep.newer
                sweep.keep()
            mover.finish()
        except QueueError as error:
            if not sweep.seen:
                raise
            done.stopped = str(error)
        finally:
            sweep.give_back()
        done.looked, done.newer, done.missing = sweep.seen, sweep.newer, search.missing
        return done

    def _sweep(self, lease_seconds: int, started: float | None = None) -> Sweep:
        """A pass over it. Raises ConfigError where a look could lose a letter."""
        return Sweep(self.queue, self._opener, lease_seconds, self._about(), started)

    def _about(self) -> int | None:
        """How many letters SQS counts; None: it may not be asked."""
        try:
            attributes = self.queue.attributes()
        except AccessDenied:
            return None
        redrive = read_redrive(attributes)
        if redrive.max_receive_count and not self.force:
            text = f"the dead-letter queue has a redrive policy of its own: after {redrive.max_receive_count} receives"
            raise ConfigError(
                f"{text} SQS moves a letter to {redrive.name}, and each look is one; --force looks anyway"
            )
        return _number_of(attributes)


def _number_of(attributes: Mapping[str, str]) -> int:
    counts = (attributes.get(f"ApproximateNumberOfMessages{end}") for end in ("", "NotVisible", "Delayed"))
    return sum(number_within(count, 0, MAX_COUNT, 0) for count in counts)


def dead_letters_of(queue: SqsQueue) -> SqsQueue:
    """The dead-letter queue that its redrive policy names. Raises ConfigError where there is none, and QueueError."""
    redrive = read_redrive(queue.attributes())
    found = queue.dead_letters(redrive)
    if found is None:
        raise ConfigError(f"{queue.url}: {redrive.nameless}")
    return found
