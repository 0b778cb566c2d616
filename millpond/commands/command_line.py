"""The command line: what may be typed, and a sentence for what was mistyped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from millpond import __version__
from millpond.app.platform import PLATFORM_NAMES
from millpond.commands import help_texts
from millpond.commands.dlq_options import add_dlq_actions
from millpond.commands.help_texts import add_command
from millpond.commands.steer_options import add_steering_commands
from millpond.errors import MISCONFIGURED
from millpond.foreign.nearest import did_you_mean, nearest
from millpond.foreign.number import number_within
from millpond.foreign.text import shown

#: Characters of what is wrong with settings or with a command line.
MAX_FINDING = 2_000
DESCRIPTION = "Millpond, a worker for Amazon SQS. Without a command it runs until SIGTERM or Ctrl-C."


class CommandParser(argparse.ArgumentParser):
    """Ends by the exit code for bad configuration where a command line is wrong; argparse's own, 2, is a crash."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.mistyped(message)

    def mistyped(self, message: str) -> NoReturn:
        """End with a sentence alone: the usage would hide it."""
        text = f"{self.prog}: {shown(message, MAX_FINDING)}\n`{self.prog} --help` says more\n"
        self.exit(MISCONFIGURED, text)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        option = action.option_strings[-1] if action.option_strings else ""
        kind = option.lstrip("-") or (action.metavar if isinstance(action.metavar, str) else action.dest).lower()
        meant = "did you mean -c config.toml?" if value == "config.toml" else did_you_mean(value, action.choices)
        self.mistyped(f"{f'{option} {value}'.strip()}: there is no such {kind}; {meant}")

    def parsers(self) -> Iterator[CommandParser]:
        """This one, and those of the commands below it."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser.parsers()

    @property
    def options(self) -> list[str]:
        """The options that it takes."""
        return list(self._option_string_actions)


def read_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as options. Ends the process where it is wrong, or asks for help."""
    parser = command_line_parser()
    if unknown := _unknown_option(parser, sys.argv[1:] if argv is None else argv):
        _refuse_option(parser, unknown, {})
    options, rest = parser.parse_known_args(argv, argparse.Namespace(config=Path("config.toml")))
    if hasattr(options, "ids"):  # argparse takes a list of ids only where no option stands within it
        options.ids = [*options.ids, *(one for one in rest if not one.startswith("-"))]
        rest = [one for one in rest if one.startswith("-")]
    if rest:
        _refuse_rest(parser, options, rest)
    if options.command and (options.until_empty or options.demo or options.reload):
        parser.error(f"--until-empty, --demo and --reload are for running, not for {options.command}")
    return options


def _unknown_option(parser: CommandParser, argv: Sequence[str]) -> str:
    """The first option before the command that does not exist: argparse would take its value for the command."""
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        action = parser._option_string_actions.get(name)
        if not word.startswith("-") or word == "--":
            return ""
        if action is None and not word.startswith("-c"):
            return name
        if action is not None and action.nargs != 0 and not equals:
            next(words, "")  # its value
    return ""


def _refuse_rest(parser: CommandParser, options: argparse.Namespace, rest: Sequence[str]) -> NoReturn:
    """End with a sentence on what no command takes: an option of another command, or a mistyped one."""
    parsers = {one.prog.removeprefix(parser.prog).strip() or "the worker itself": one for one in parser.parsers()}
    command = f"{options.command} {getattr(options, 'action', '')}".strip()
    own = parsers.get(command) or parsers.get(options.command) or parser
    name = next((one.partition("=")[0] for one in rest if one.startswith("-")), "")
    if not name:
        own.error(
            f"{' '.join(rest)}: too many arguments; in a shell a text with spaces or quotes needs '...' around it"
        )
    _refuse_option(own, name, parsers)


def _refuse_option(own: CommandParser, name: str, parsers: Mapping[str, CommandParser]) -> NoReturn:
    if others := [title for title, one in parsers.items() if name in one.options]:
        own.error(f"{name} is an option of {', '.join(others)}, and of no other command")
    near = nearest(name, own.options)
    own.mistyped(f"{name}: there is no such option{f'; did you mean {near}?' if near else ''}")


def command_line_parser() -> CommandParser:
    """The parser of all commands."""
    # SUPPRESS: or the default of a command's -c would undo the one before the command.
    common = CommandParser(add_help=False)
    help_text = "the settings (default: config.toml)"
    common.add_argument("-c", "--config", type=Path, metavar="PATH", default=argparse.SUPPRESS, help=help_text)
    parser = CommandParser(prog=_program(), description=DESCRIPTION, epilog=help_texts.EXAMPLES, parents=[common])
    parser.add_argument("--until-empty", action="store_true", help="stop when the queues are empty")
    parser.add_argument("--version", action="version", version=f"millpond {__version__}", help="print it and exit")
    parser.add_argument("--demo", type=_number, metavar="N", help="first put N sample e-mails into the local queue")
    help_text = "for development: start again when a file of the project changes"
    parser.add_argument("--reload", action="store_true", help=help_text)
    commands = parser.add_subparsers(dest="command", metavar="command")
    _add_check(commands, common)
    _add_send(commands, common)
    _add_run(commands, common)
    add_steering_commands(commands, common)
    _add_claims(commands, common)
    add_dlq_actions(commands, common, _number)
    return parser


def _add_check(commands: Any, common: CommandParser) -> None:
    check = add_command(commands, common, "check", "find what is wrong before it matters", help_texts.CHECK_EXAMPLES)
    check.add_argument("--json", action="store_true", help="the findings as JSON, for a program")
    help_text = f"as if it ran there: {', '.join(PLATFORM_NAMES)}"
    check.add_argument("--platform", choices=PLATFORM_NAMES, default="", metavar="NAME", help=help_text)


def _add_send(commands: Any, common: CommandParser) -> None:
    send = add_command(commands, common, "send", "put messages into a queue", help_texts.SEND_EXAMPLES)
    send.usage = "%(prog)s [options] TYPE PAYLOAD"
    send.add_argument("type", metavar="TYPE", help="the message type, such as email.send")
    send.add_argument("payload", metavar="PAYLOAD", help="JSON, @file, or - for standard input")
    send.add_argument("--queue", default="", metavar="NAME", help="which [queues.NAME], where there are several")
    send.add_argument("--count", type=_number, default=1, metavar="N", help="send it N times (default: 1)")
    send.add_argument("--delay", type=_seconds, default=0, metavar="SECONDS", help="received after this, at most 900")
    send.add_argument("--group", default="", metavar="ID", help="its MessageGroupId")
    help_text = "PAYLOAD is the whole body, as another program sends it; TYPE is not sent"
    send.add_argument("--raw", action="store_true", help=help_text)
    help_text = "a message attribute (String); can be repeated"
    send.add_argument("--attribute", action="append", default=[], metavar="NAME=VALUE", help=help_text)


def _add_run(commands: Any, common: CommandParser) -> None:
    one = add_command(commands, common, "run", "run one message by hand, without a queue", help_texts.RUN_EXAMPLES)
    one.usage = "%(prog)s [options] TYPE PAYLOAD   (one message by hand; a worker starts without `run`)"
    one.add_argument("type", metavar="TYPE", help="the message type, such as email.send")
    one.add_argument("payload", metavar="PAYLOAD", help="JSON, @file, or - for standard input")
    one.add_argument("--attempt", type=_number, default=1, metavar="N", help="which attempt it is (default: 1)")
    one.add_argument("--event-id", default="", metavar="ID", help="its event id (default: a new one)")


def _add_claims(commands: Any, common: CommandParser) -> None:
    help_text = "what is known of an event of an idempotent handler"
    claims = add_command(commands, common, "claims", help_text, help_texts.CLAIMS_EXAMPLES)
    claims.add_argument("action", metavar="ACTION", choices=["show", "release"], help="show, or release: remove it")
    claims.add_argument("id", metavar="ID", help="the event id, or the whole key, 'TYPE ID'")
    claims.add_argument("--type", default="", metavar="TYPE", help="the message type, where several have this id")
    claims.add_argument("--force", action="store_true", help="release it although a worker has it")


def _program() -> str:
    """What was typed before the arguments: `python worker.py`, `.venv/bin/python -m millpond`."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return f"{sys.orig_argv[0]} -m millpond"
    return f"{sys.orig_argv[0]} {sys.argv[0]}" if script.suffix == ".py" else script.name


def _number(text: str) -> int:
    number = number_within(text, 1, sys.maxsize, 0)
    if not number:
        raise argparse.ArgumentTypeError(f"{text}: a whole number, 1 or more")
    return number


def _seconds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: a whole number of seconds") from None
