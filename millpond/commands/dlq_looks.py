"""`worker.py dlq ls` and `dlq show`: a look at the dead letters of one queue, or of all."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from millpond.app.config import AllSettings
from millpond.commands.dlq_command import DlqCommand
from millpond.commands.dlq_pages import (
    GROUP_COLUMNS,
    LETTER_COLUMNS,
    group_fields,
    group_rows,
    letter_fields,
    letter_page,
    letter_rows,
    missing_text,
)
from millpond.commands.send import queue_name
from millpond.dead_letters.dead_letter_queue import LOOK_LETTERS, Look
from millpond.dead_letters.error_groups import groups_of
from millpond.dead_letters.letter import Letter
from millpond.dead_letters.selection import Selection
from millpond.dead_letters.sweep import Stop
from millpond.errors import FINISHED, LEFT, MISCONFIGURED, ConfigError, QueueError
from millpond.observe import screen
from millpond.sqs.credentials_advice import with_advice

#: More letters than SQS can have in flight, so that a look ends by itself.
ALL = 10**9

Looked = Sequence[tuple[DlqCommand, Look]]


def look_at_letters(settings: AllSettings, options: Namespace, selection: Selection, stop: Stop) -> int:
    """List or show letters; return the exit code. Raises ConfigError where no queue can be looked at."""
    names = [queue_name(settings, options.queue)] if options.queue or len(settings.queues) == 1 else [*settings.queues]
    most = options.limit or (ALL if options.all or options.action == "show" else LOOK_LETTERS)
    looked: list[tuple[DlqCommand, Look]] = []
    failures: list[str] = []
    urls = set()  # several queues can share one, which is looked at once
    for name in names:
        if stop.asked:
            break
        try:
            dlq = DlqCommand(settings, options, name, stop)
            if dlq.letters.queue.url not in urls:
                urls.add(dlq.letters.queue.url)
                looked.append((dlq, dlq.letters.look(selection, most)))
        except QueueError as error:
            failures.append(f"dead letters of {name}: {with_advice(error, os.environ)}")
        except ConfigError as error:
            failures += error.findings
    if not looked:
        raise ConfigError(*failures)
    code = LOOK_ACTIONS[options.action](looked, selection, len(names) > 1)
    for text in failures:
        print(text, file=sys.stderr)
    return MISCONFIGURED if failures else code


def _list(looked: Looked, selection: Selection, several: bool) -> int:
    options = looked[0][0].options
    if options.json:
        for _, found in looked:
            print("".join(f"{json.dumps(fields)}\n" for fields in _fields(found, options.group)), end="", flush=True)
    elif rows := [(dlq.name, *row) for dlq, found in looked for row in _rows(found, options.group)]:
        columns = GROUP_COLUMNS if options.group else LETTER_COLUMNS
        screen.table(["queue", *columns] if several else columns, rows if several else [row[1:] for row in rows])
    for dlq, found in looked:
        name = f"{dlq.name}: " if several else ""
        more = "; --all looks at the whole queue" if _is_cut(dlq.options, found) else ""
        print(f"{name}{screen.counted(len(found.letters), 'dead letter')}; {found.summary}{more}", file=sys.stderr)
        if found.hidden:
            text = f"{name}{found.hidden} of them stay hidden for up to 30 s: giving them back failed"
            print(text, file=sys.stderr)
    return LEFT if looked[0][0].stop.asked else FINISHED


def _rows(found: Look, grouped: bool) -> list[list[str]]:
    return group_rows(groups_of(found.newest), time.time()) if grouped else letter_rows(found.newest, time.time())


def _fields(found: Look, grouped: bool) -> list[dict[str, Any]]:
    if grouped:
        return [group_fields(one) for one in groups_of(found.newest)]
    return [letter_fields(one, time.time()) for one in found.newest]


def _is_cut(options: Namespace, found: Look) -> bool:
    return not (options.all or options.limit or options.ids) and LOOK_LETTERS <= found.looked < (found.about or 0)


def _show(looked: Looked, selection: Selection, several: bool) -> int:
    letters: list[Letter] = [letter for _, found in looked for letter in found.letters]
    for letter in letters:
        print(letter_page(letter, time.time(), looked[0][0].options.reveal), flush=True)
    missing = [one for one in selection.ids if not any(selection.names(letter, one) for letter in letters)]
    summary = "; ".join(f"{f'{dlq.name}: ' if several else ''}{found.summary}" for dlq, found in looked)
    for one in missing:
        print(f"{missing_text(one)}; {summary}", file=sys.stderr)
    return LEFT if missing else FINISHED


LOOK_ACTIONS: dict[str, Callable[[Looked, Selection, bool], int]] = {"ls": _list, "show": _show}
