"""The command line of `worker.py dlq`."""

from __future__ import annotations

import argparse
from typing import Any

from millpond.dead_letters.selection import Selection, age_seconds
from millpond.errors import ConfigError

DLQ_EXAMPLES = """\
examples:
  %(prog)s ls --group                                  how many failed in which way, since when
  %(prog)s ls --type 'invoice.*' --newer 2h --json
  %(prog)s show 3f2a91c0                               by the beginning of its id, or by its event id
  %(prog)s replay --type email.send --reason 'timed out' --dry-run
  %(prog)s replay --all --rate 50                      back to where they came from, 50 a second
  %(prog)s replay 3f2a91c0 --edit                      correct the payload in $EDITOR first
  %(prog)s discard --older 14d --yes
  %(prog)s export --all --file letters.jsonl           %(prog)s import --file letters.jsonl

A move is safe against Ctrl-C and kill -9: each letter is sent, and deleted once that is confirmed. Only the batch that
was in the air at a kill -9, 10 letters at most, can be in both queues: the next replay sends those again.

exit codes: 0 all that was meant is done, 1 some are left as they were (each is named), 3 nothing could be begun
"""
ACTIONS = ("ls", "show", "replay", "discard", "export", "import")


def add_options(parser: argparse.ArgumentParser, number: Any) -> None:
    """Add what `dlq` takes. `number` reads a whole number of 1 or more."""
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("ids", metavar="ID", nargs="*", help="the id (8 characters are enough), or the event id")
    text = "the dead letters of which [queues.NAME], where there are several"
    parser.add_argument("--queue", type=_given, metavar="NAME", help=text)
    text = "only this type; `*` at its end; can be repeated"
    parser.add_argument("--type", type=_given, action="append", default=[], metavar="TYPE", help=text)
    parser.add_argument("--reason", type=_given, metavar="TEXT", help="only where reason or error has this text")
    parser.add_argument("--text", type=_given, metavar="TEXT", help="only where body, attributes or ids have this text")
    parser.add_argument("--older", type=_given, metavar="AGE", help="only what failed longer ago: 90s, 15m, 2h, 3d")
    parser.add_argument("--newer", type=_given, metavar="AGE", help="only what failed within this time")
    parser.add_argument("--all", action="store_true", help="every letter; ls: look at the whole queue")
    text = "at most N letters; ls and show: look at N (default: 300 for ls, all for show)"
    parser.add_argument("--limit", type=number, default=0, metavar="N", help=text)
    parser.add_argument(
        "--group", action="store_true", help="ls: count them by type and error, without ids and numbers"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: ls one line a letter, moves their counts")
    parser.add_argument("--reveal", action="store_true", help="show: secrets and mail addresses too")
    parser.add_argument("--to", type=_given, metavar="QUEUE", help="replay, import: to this [queues.NAME] or URL")
    parser.add_argument("--rate", type=number, default=0, metavar="N", help="replay: at most N letters a second")
    parser.add_argument("--edit", action="store_true", help="replay: each payload in $EDITOR first; its type checks it")
    parser.add_argument("--dry-run", action="store_true", help="replay, discard: say which, and move nothing")
    text = "replay: what failed the same way after 3 replays too; also look where looking can lose letters"
    parser.add_argument("--force", action="store_true", help=text)
    parser.add_argument("--yes", action="store_true", help="discard: do not ask")
    parser.add_argument("--file", type=_given, metavar="PATH", help="export, import: this file instead of the pipe")


def selection_of(options: argparse.Namespace) -> Selection:
    """The letters that the command line means. Raises ConfigError where a move would take every letter unasked."""
    ages: dict[str, Any] = {name: age_seconds(text) for name in ("older", "newer") if (text := getattr(options, name))}
    selection = Selection(
        ids=tuple(options.ids), types=tuple(options.type), reason=options.reason or "", text=options.text or "", **ages
    )
    if not all(one.strip() for one in options.ids):
        raise ConfigError("an ID is empty: is a variable of the shell not set?")
    if options.action == "import" and not selection.is_all:
        raise ConfigError("import takes every line: leave out ids and filters")
    if options.dry_run and options.action not in ("replay", "discard"):
        raise ConfigError("--dry-run is for replay and discard")
    if options.action in ("replay", "discard", "export") and selection.is_all and not options.all:
        raise ConfigError(f"{options.action}: which letters? Name ids, a filter such as --type TYPE, or --all")
    if options.all and not selection.is_all and options.action not in ("ls", "show"):
        raise ConfigError("--all means every letter: leave it out beside ids and filters")
    if options.action == "show" and not options.ids:
        raise ConfigError("show: name the ID of a letter, as `dlq ls` lists it")
    return selection


def _given(text: str) -> str:
    """What stands behind an option. An empty filter would be none, and every letter be meant."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: is a variable of the shell not set?")
    return text
