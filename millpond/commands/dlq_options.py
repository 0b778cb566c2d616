"""The command line of `worker.py dlq`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from millpond.commands.help_texts import DLQ_ACTION_EXAMPLES, DLQ_EXAMPLES, add_command
from millpond.dead_letters.selection import Selection, age_seconds
from millpond.errors import ConfigError

#: Every action, and what --help says.
DLQ_ACTIONS = {
    "ls": "list them, or count them by what went wrong",
    "show": "all that is known of one",
    "replay": "send them back to where they came from",
    "discard": "delete them for good; it asks first",
    "export": "write them as lines of JSON; each stays in the queue",
    "import": "send what was exported",
}
#: What the command goes by where an action has no such option.
NO_OPTIONS = {
    "ids": (),
    "type": (),
    **dict.fromkeys(("reason", "text", "older", "newer", "to", "file")),
    **dict.fromkeys(("all", "group", "json", "reveal", "edit", "dry_run", "force", "yes"), False),
    **dict.fromkeys(("limit", "rate"), 0),
}
_LIMITS = {
    "ls": "look at N letters (default: 300)",
    "show": "look at N letters (default: all)",
}


def add_dlq_actions(commands: Any, common: Any, number: Callable[[str], int]) -> None:
    """Add `dlq` and its actions. `number` reads a whole number of 1 or more."""
    help_text = "dead letters: list, show, send back, delete, export, import"
    description = "Dead letters: messages that failed for good, in the dead-letter queue."
    dlq = commands.add_parser("dlq", help=help_text, description=description, epilog=DLQ_EXAMPLES, parents=[common])
    _add_queue(dlq, None)
    actions = dlq.add_subparsers(dest="action", required=True)
    for name, text in DLQ_ACTIONS.items():
        parser = add_command(actions, common, name, text, DLQ_ACTION_EXAMPLES[name])
        parser.usage = f"%(prog)s [options]{'' if name == 'import' else ' [ID ...]'}"
        parser.set_defaults(**NO_OPTIONS)
        _add_queue(parser, argparse.SUPPRESS)
        _add_options(parser, name, number)


def _add_queue(parser: Any, default: str | None) -> None:
    text = "the dead letters of which [queues.NAME], where there are several; ls, show: all without it"
    parser.add_argument("--queue", type=_given, default=default, metavar="NAME", help=text)


def _add_options(parser: Any, action: str, number: Callable[[str], int]) -> None:
    if action != "import":
        text = "its id (the beginning is enough, 8 characters at least), or the event id"
        parser.add_argument("ids", metavar="ID", nargs="*", help=text)
        text = _LIMITS.get(action, "at most N letters (default: all)")
        parser.add_argument("--limit", type=number, default=0, metavar="N", help=text)
    if action in ("ls", "replay", "discard", "export"):
        _add_filters(parser, action)
    if action == "ls":
        text = "count them by type and error, without ids and numbers"
        parser.add_argument("--group", action="store_true", help=text)
        parser.add_argument("--json", action="store_true", help="a line of JSON for each letter or group")
    if action == "show":
        parser.add_argument("--reveal", action="store_true", help="secrets and mail addresses too")
    if action in ("replay", "import"):
        where = "where they came from" if action == "replay" else "the dead-letter queue"
        text = f"to this [queues.NAME], or this URL (default: {where})"
        parser.add_argument("--to", type=_given, metavar="QUEUE", help=text)
    if action == "replay":
        parser.add_argument("--rate", type=number, default=0, metavar="N", help="at most N letters a second")
        text = "each payload in $VISUAL or $EDITOR first; its type checks it"
        parser.add_argument("--edit", action="store_true", help=text)
    if action in ("replay", "discard"):
        parser.add_argument("--dry-run", action="store_true", help="say which, and move nothing")
        parser.add_argument("--json", action="store_true", help="the counts as JSON")
    if action == "discard":
        parser.add_argument("--yes", action="store_true", help="do not ask")
    if action != "import":
        text = "where looking can lose letters too"
        text = f"what failed the same way after 3 replays too; {text}" if action == "replay" else text
        parser.add_argument("--force", action="store_true", help=text)
    if action in ("export", "import"):
        pipe = "standard output" if action == "export" else "standard input"
        parser.add_argument("--file", type=_given, metavar="PATH", help=f"this file instead of {pipe}")


def _add_filters(parser: Any, action: str) -> None:
    text = "only this type; `*` stands for any ending; can be repeated"
    parser.add_argument("--type", type=_given, action="append", default=[], metavar="TYPE", help=text)
    parser.add_argument("--reason", type=_given, metavar="TEXT", help="only where reason or error has this text")
    parser.add_argument("--text", type=_given, metavar="TEXT", help="only where body, attributes or ids have this text")
    parser.add_argument("--older", type=_given, metavar="AGE", help="only what failed longer ago: 90s, 15m, 2h, 3d")
    parser.add_argument("--newer", type=_given, metavar="AGE", help="only what failed within this time")
    text = "look at the whole queue" if action == "ls" else "every letter"
    parser.add_argument("--all", action="store_true", help=text)


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
