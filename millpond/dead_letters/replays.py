"""What a replay sends: the message as it was, without its reason, and with a mark that ends loops."""

from __future__ import annotations

import msgspec

from millpond.app.dead_letter import ATTRIBUTE, ReplayMark
from millpond.dead_letters.error_groups import failure_name
from millpond.dead_letters.letter import Letter
from millpond.sqs.limits import MAX_ATTRIBUTES, MAX_BYTES
from millpond.sqs.queue import Attribute, Entry, dedup_id_of

#: Replays in a row after the same failure: the next one needs --force.
MAX_ALIKE = 3


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
