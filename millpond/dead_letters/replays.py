"""What a replay sends, and where: the message as it was, without its reason, and with a mark that ends loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import uuid4

import msgspec

from millpond.app.dead_letter import ATTRIBUTE, ReplayMark
from millpond.dead_letters.error_groups import failure_name
from millpond.dead_letters.letter import Letter
from millpond.dead_letters.mover import MovingLetter
from millpond.dead_letters.sweep import Sweep, kept_meanwhile
from millpond.errors import AccessDenied, ConfigError, QueueError
from millpond.sqs.limits import MAX_ATTRIBUTES, MAX_BYTES
from millpond.sqs.queue import Attribute, Entry, dedup_id_of
from millpond.sqs.queue_url import is_fifo
from millpond.sqs.sqs_queue import SqsQueue

#: Replays in a row after the same failure: the next one needs --force.
MAX_ALIKE = 3

Edit = Callable[[Letter], str | None]


class Replay:
    """Makes of each letter the parcel that goes to `to`, or else home. Raises ConfigError where `to` is no place."""

    def __init__(
        self, home_of: Callable[[Letter], SqsQueue | None], to: SqsQueue | None, force: bool, edit: Edit | None
    ) -> None:
        self.run = uuid4().hex[:8]
        self._home_of = home_of
        self._to = to
        self._force = force
        self._edit = edit
        self._places: dict[str, str] = {}  # URL -> why nothing can be sent there
        if to is not None and (why := self._wrong_with(to)):
            raise ConfigError(f"the destination cannot be used: {why}")

    def parcel_of(self, letter: Letter, sweep: Sweep) -> MovingLetter | str:
        """The letter as it is sent; or why it stays."""
        target = self._to or self._home_of(letter)
        if target is None:
            whose = letter.reason.queue or letter.source or "its source is not known"
            return f"came from no queue of these settings ({whose}): name the destination by --to"
        fifo = is_fifo(target.url)
        if why := self._wrong_with(target) or wrong_with_replay(letter, fifo, self._force):
            return why
        entry = partial(replay_entry, letter, self.run, fifo)
        if self._edit is None:
            return MovingLetter(letter, target, entry())
        with kept_meanwhile(sweep):
            body = self._edit(letter)
        return "not edited" if body is None else MovingLetter(letter, target, entry(body))

    def _wrong_with(self, target: SqsQueue) -> str:
        if target.url not in self._places:
            self._places[target.url] = wrong_with_place(target)
        return self._places[target.url]


def wrong_with_place(target: SqsQueue) -> str:
    """Why nothing can be sent there; "" where it is there. Who may send need not have the right to ask."""
    try:
        target.attributes()
    except AccessDenied:
        return ""
    except QueueError as error:
        return str(error)
    return ""


def is_looping(letter: Letter) -> bool:
    """Whether it was replayed MAX_ALIKE times after this very failure, and has failed so again."""
    mark = letter.mark
    return mark is not None and mark.alike >= MAX_ALIKE and mark.failed_as == failure_name(letter)


def wrong_with_replay(letter: Letter, fifo: bool, force: bool) -> str:
    """Why it cannot be sent to a queue that is there; "" where it can."""
    if letter.received.flaw:
        return f"cannot be read whole ({letter.received.flaw})"
    if not force and is_looping(letter):
        return f"replayed {MAX_ALIKE} times before, and failed the same way each time: mend the cause, or add --force"
    return "no message group, which a FIFO queue needs" if fifo and not letter.received.group_id else ""


def next_mark(letter: Letter, run: str) -> ReplayMark:
    """The mark of its next replay."""
    before, failed_as = letter.mark or ReplayMark(), failure_name(letter)
    alike = before.alike + 1 if before.failed_as == failed_as else 1
    return ReplayMark(replays=before.replays + 1, alike=alike, failed_as=failed_as, run=run)


def replay_entry(letter: Letter, run: str, fifo: bool, body: str | None = None) -> Entry:
    """Body (or this one instead), attributes, group and trace header as they are; the mark where it fits beside them.

    For a FIFO queue its deduplication id is new, since SQS may still know the old one; and it is the same where the
    same letter is sent twice, so that it is taken once.
    """
    received, mark = letter.received, next_mark(letter, run)
    attributes = {name: value for name, value in received.attributes.items() if name != ATTRIBUTE}
    dedup_id = dedup_id_of(f"replay-{mark.replays}-{letter.id}") if fifo else ""
    text = received.text if body is None else body
    plain = Entry(text, 0, received.group_id, received.trace_header, attributes, dedup_id)
    value = msgspec.json.encode({"replay": mark}).decode()
    marked = msgspec.structs.replace(plain, attributes={**attributes, ATTRIBUTE: Attribute("String", value)})
    return marked if len(marked.attributes) <= MAX_ATTRIBUTES and marked.size <= MAX_BYTES else plain
