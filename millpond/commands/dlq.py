"""`worker.py dlq`: dead letters are listed, shown, sent back, deleted, exported and imported."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from millpond.app import discovery
from millpond.app.config import AllSettings
from millpond.commands.dlq_command import DlqCommand
from millpond.commands.dlq_editor import editor_of
from millpond.commands.dlq_looks import ALL, LOOK_ACTIONS, look_at_letters
from millpond.commands.dlq_options import selection_of
from millpond.commands.dlq_pages import LETTER_COLUMNS, letter_rows, missing_text
from millpond.commands.question import answer_to
from millpond.commands.send import queue_name, send_all
from millpond.dead_letters.dead_letter_queue import FIFO_REACH
from millpond.dead_letters.error_groups import normalised
from millpond.dead_letters.letter import Letter
from millpond.dead_letters.letter_lines import entries_of, line_of
from millpond.dead_letters.mover import Moved
from millpond.dead_letters.selection import Search, Selection
from millpond.dead_letters.sweep import Stop
from millpond.errors import FINISHED, LEFT, ConfigError, QueueError, Unanswered
from millpond.foreign.text import shown
from millpond.hub.signals import ExitSignals
from millpond.observe import screen
from millpond.sqs.credentials_advice import with_advice
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue import MISSING, Failure
from millpond.sqs.queue_url import is_fifo

#: A move has this long after a signal: the batch in the air is sent, and deleted.
MOVE_END_SECONDS = 60.0
OTHERS_HOLD = "another program holds the others, or took them meanwhile"
#: Codes of what was sent, and perhaps taken: the answer does not name it, or there was none.
LOST_CODES = (MISSING.code, "call:")
#: Letters that are named one by one.
MAX_LISTED, MAX_IDS = 10, 3


def run(settings: AllSettings, options: Namespace, signals: ExitSignals) -> int:
    """Do what the command line says; return the exit code. Raises ConfigError where nothing can be begun."""
    selection, stop = selection_of(options), Stop()
    _stop_by(signals, stop)
    if options.action in LOOK_ACTIONS:
        return look_at_letters(settings, options, selection, stop)
    name = queue_name(settings, options.queue)
    try:
        return _ACTIONS[options.action](DlqCommand(settings, options, name, stop), selection)
    except QueueError as error:
        raise ConfigError(f"dead letters of {name}: {with_advice(error, os.environ)}") from None


def _stop_by(signals: ExitSignals, stop: Stop) -> None:
    """A signal ends a move after the batch in the air; a second one ends it at once."""

    def act(number: int) -> None:
        was_asked, stop.asked = stop.asked, True
        if was_asked or stop.interrupts:
            raise KeyboardInterrupt

    signals.allow(MOVE_END_SECONDS, LEFT)
    signals.on_signal(act)


def _replay(dlq: DlqCommand, selection: Selection) -> int:
    options = dlq.options
    if options.dry_run:
        return _dry_run(dlq, selection, "replayed")
    edit = None
    if options.edit:
        edit = editor_of(discovery.handlers_of(dlq.settings).routes, dlq.opener, os.environ, dlq.stop)
    to = dlq.destination()

    def move(advance: Callable[[int], object]) -> Moved:
        if _fits_sqs(options) and (done := _by_sqs(dlq, advance)) is not None:
            return done
        return dlq.letters.replay(selection, to, most=options.limit, rate=options.rate, edit=edit, advance=advance)

    return _move(dlq, move, "replayed", shows_bar=edit is None)


def _fits_sqs(options: Namespace) -> bool:
    """Whether every letter goes back to its own source, and SQS may set the pace: its own move does no more."""
    return options.all and not (options.to or options.limit or options.edit or options.force)


def _by_sqs(dlq: DlqCommand, advance: Callable[[int], object]) -> Moved | None:
    """What SQS's own move has done, where all letters of a sample are its own; None where it moved not all."""
    try:
        if not dlq.letters.suits_sqs():
            return None
        done, has_failed = dlq.letters.replay_by_sqs(dlq.options.rate, advance)
    except QueueError as error:
        print(f"SQS's own move is not used: {shown(error)}", file=sys.stderr)
        return None
    if has_failed and not dlq.stop.asked:
        print(f"{screen.counted(done.moved, 'letter')} replayed by SQS itself; {shown(done.stopped)}", file=sys.stderr)
        return None
    print("moved by SQS itself (StartMessageMoveTask): all were letters that it had put there", file=sys.stderr)
    return done


def _discard(dlq: DlqCommand, selection: Selection) -> int:
    options = dlq.options
    if options.dry_run:
        return _dry_run(dlq, selection, "deleted")
    if not options.yes and not _is_sure(dlq, selection):
        print("nothing was deleted", file=sys.stderr)
        return LEFT
    discard = partial(dlq.letters.discard, selection, most=options.limit)
    return _move(dlq, lambda advance: discard(advance=advance), "deleted")


def _is_sure(dlq: DlqCommand, selection: Selection) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("discard deletes for good and asks first: where nobody can answer, add --yes")
    look = dlq.letters.look(selection)
    sample = f"{len(look.letters)} of them are meant ({look.summary})"
    return answer_to(f"{sample}. Delete all that are meant, for good? Type yes: ", dlq.stop) == "yes"


def _dry_run(dlq: DlqCommand, selection: Selection, what: str) -> int:
    look = dlq.letters.look(selection, dlq.options.limit or ALL)
    if look.letters:
        screen.table(LETTER_COLUMNS, letter_rows(look.letters, time.time()))
    count = screen.counted(len(look.letters), "letter")
    print(f"{count} would be {what}; {look.summary}; nothing was moved", file=sys.stderr)
    return FINISHED


def _move(dlq: DlqCommand, move: Callable[[Callable[[int], object]], Moved], what: str, shows_bar: bool = True) -> int:
    count = dlq.letters.count()
    total = dlq.options.limit or len(dlq.options.ids) or count
    with screen.progress(what, total) if shows_bar else nullcontext(bool) as advance:
        done = move(advance)
    print(_as_json(done) if dlq.options.json else f"{screen.counted(done.moved, 'letter')} {what}", flush=True)
    _print_rest(done, what)
    is_early = bool(dlq.options.limit or done.stopped or (dlq.options.ids and not done.missing))
    if done.moved <= done.looked < count - done.newer and not is_early:
        why = OTHERS_HOLD
        if is_fifo(dlq.letters.queue.url) and not dlq.options.all:
            why = f"{FIFO_REACH}; the others stayed"
        print(f"looked at {done.looked:,} of about {count:,}: {why}", file=sys.stderr)
    return FINISHED if done.is_whole else LEFT


def _as_json(done: Moved) -> str:
    fields = {"moved": done.moved, "looked": done.looked, "newer": done.newer, "refused": done.refused}
    kept = [{"id": one, "why": shown(why)} for one, why in done.kept]
    ids = {"missing": done.missing, "uncertain": done.uncertain, "left": done.left}
    return json.dumps({**fields, "kept": kept, **ids, "stopped": shown(done.stopped)})


def _print_rest(done: Moved, what: str) -> None:
    """Print what was not done, and why."""
    for one in done.missing:
        print(missing_text(one), file=sys.stderr)
    kept_by: dict[str, list[tuple[str, str]]] = {}
    for one, why in done.kept:
        kept_by.setdefault(normalised(why), []).append((one, why))
    for kept in list(kept_by.values())[:MAX_LISTED]:
        named = ", ".join(shown(one) for one, _ in kept[:MAX_IDS]) + (", ..." if len(kept) > MAX_IDS else "")
        print(f"{screen.counted(len(kept), 'letter')} not {what}: {shown(kept[0][1])} ({named})", file=sys.stderr)
    if done.refused > len(done.kept):
        print(f"and {done.refused - len(done.kept)} more were not {what}", file=sys.stderr)
    for ids, text in (
        (done.uncertain, "sent without an answer: still dead letters, and perhaps sent as well"),
        (done.left, f"{'replayed, but ' if what == 'replayed' else ''}could not be deleted: still dead letters"),
    ):
        if ids:
            more = f" and {len(ids) - MAX_LISTED} more" if len(ids) > MAX_LISTED else ""
            print(f"{text}: {', '.join(map(shown, ids[:MAX_LISTED]))}{more}", file=sys.stderr)
    if done.newer:
        print(f"{screen.counted(done.newer, 'letter')} came after the start and stayed", file=sys.stderr)
    if done.stopped:
        print(f"stopped before the end: {shown(done.stopped)}; the rest are dead letters as before", file=sys.stderr)


def _export(dlq: DlqCommand, selection: Selection) -> int:
    path, search = dlq.options.file, Search(selection)
    count = dlq.letters.count() if dlq.options.all and not dlq.options.limit else 0
    letters = dlq.letters.read(search)
    try:
        with open(path, "xb") if path else nullcontext(sys.stdout.buffer) as file, closing(letters):
            number, unread = _write_letters(file, islice(letters, dlq.options.limit or None))
    except OSError as error:
        where = f"--file {path}" if path else "standard output"
        raise ConfigError(f"{where}: cannot be written: {error.strerror}") from None
    for one in search.missing:
        print(missing_text(one), file=sys.stderr)
    if number + unread < count and not dlq.stop.asked:
        print(f"looked at {number + unread:,} of about {count:,}: {OTHERS_HOLD}", file=sys.stderr)
    if has_left := not path and screen.reader_has_left(sys.stdout):
        print("the reader of the export left before its end", file=sys.stderr)
    print(f"{screen.counted(number, 'letter')} exported; each is still in the queue", file=sys.stderr)
    return LEFT if dlq.stop.asked or unread or search.missing or has_left else FINISHED


def _write_letters(file: BinaryIO, letters: Iterable[Letter]) -> tuple[int, int]:
    """How many were written, and how many could not be read whole."""
    number = unread = 0
    for letter in letters:
        if flaw := letter.received.flaw:
            unread += 1
            print(f"{letter.id} not exported: it cannot be read whole ({shown(flaw)})", file=sys.stderr)
        else:
            file.write(line_of(letter))
            number += 1
    file.flush()
    return number, unread


def _import(dlq: DlqCommand, selection: Selection) -> int:
    path = dlq.options.file
    try:
        lines = Path(path).read_bytes().splitlines() if path else sys.stdin.buffer.read().splitlines()
    except OSError as error:
        raise ConfigError(f"--file {path}: cannot be read: {error.strerror}") from None
    target = dlq.destination() or dlq.letters.queue
    entries = entries_of(lines, is_fifo(target.url))
    failures: dict[int, Failure] = {}
    sent = 0
    try:
        for index, failure in send_all(target, entries) if entries else ():
            if failure is None:
                sent += 1
            else:
                failures[index] = failure
    except Unanswered as error:  # the first call: no other was made
        failures = dict.fromkeys(range(min(MAX_BATCH, len(entries))), Failure(MISSING.code, str(error)))
    for index, failure in sorted(failures.items())[:MAX_LISTED]:
        what = "perhaps imported, for no answer came" if failure.code in LOST_CODES else "not imported"
        print(f"{what}: line {index + 1}: {failure.summary}", file=sys.stderr)
    if more := max(0, len(entries) - sent - MAX_LISTED):
        print(f"and {more} more", file=sys.stderr)
    print(f"{screen.counted(sent, 'letter')} imported", flush=True)
    return LEFT if failures else FINISHED


_ACTIONS: dict[str, Callable[[DlqCommand, Selection], int]] = {
    "replay": _replay,
    "discard": _discard,
    "export": _export,
    "import": _import,
}
