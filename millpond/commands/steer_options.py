"""The arguments of the commands that look at workers which run, and steer them: `status`, `top`, `quiet` ..."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from millpond.app.output_settings import LogLevel
from millpond.commands.help_texts import STEERING_EXAMPLES, add_command

#: Every command here: the verb, what --help says, and its own arguments.
STEERING_COMMANDS = {
    "status": "show what the workers on this machine do",
    "top": "the same, again and again, with rates",
    "quiet": "receive nothing more; what is in hand goes on",
    "resume": "receive again",
    "level": "change the level of the log",
    "weight": "change the weight of a queue",
    "dump": "write every running handler, with its stack, into the log of the worker",
}
#: Between two looks of `top`.
MOST_SECONDS = 3600.0


def add_steering_commands(commands: Any, common: Any) -> None:
    """Add the parsers of these commands."""
    examples, texts = STEERING_EXAMPLES, STEERING_COMMANDS.items()
    made = {name: add_command(commands, common, name, text, examples[name]) for name, text in texts}
    for name in ("quiet", "resume"):
        made[name].add_argument("queue", metavar="QUEUE", nargs="?", default="", help="this one alone; else all")
    made["level"].add_argument("value", metavar="LEVEL", choices=get_args(LogLevel), help=", ".join(get_args(LogLevel)))
    made["weight"].add_argument("queue", metavar="QUEUE", help="its name in config.toml")
    made["weight"].add_argument("value", metavar="WEIGHT", help="its share beside those of the other queues")
    for parser in made.values():
        parser.add_argument("--worker", default="", metavar="ID", help="its process id, or its name")
    for name in ("status", "top"):
        help_text = "ask a worker elsewhere, by its page; can be repeated"
        made[name].add_argument("--url", action="append", default=[], metavar="URL", help=help_text)
    made["status"].add_argument("--json", action="store_true", help="print it as JSON, a line a worker")
    made["top"].add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="S", help="between two looks (default: 2)"
    )
    for name in ("quiet", "resume", "level", "weight", "dump"):
        made[name].add_argument("--all", action="store_true", help="every worker that runs on this machine")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds above 0, at most {MOST_SECONDS:g}")
    return seconds
