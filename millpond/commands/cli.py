"""The command line: `worker.py [options] [check | send | claims | dlq]`."""

from __future__ import annotations

import argparse
import atexit
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import gevent

from millpond import __version__
from millpond.app.config import AllSettings, load
from millpond.app.platform import PLATFORM_NAMES, as_on
from millpond.commands.dlq_options import DLQ_EXAMPLES, add_options
from millpond.commands.reload import RELOAD_WAIT_SECONDS, RELOADED
from millpond.commands.steer_options import STEERING_COMMANDS, add_steering_commands
from millpond.errors import CRASHED, FINISHED, LEFT, MISCONFIGURED, ConfigError
from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.foreign.trace import describe, traceback_of
from millpond.hub import patch
from millpond.hub.signals import ExitSignals
from millpond.observe import log, screen
from millpond.observe.standard_output import unblocked

#: Characters of what is wrong with settings or with a command line.
MAX_FINDING = 2_000
DESCRIPTION = "Millpond, a worker for Amazon SQS. Without a command it runs until SIGTERM or Ctrl-C."
EXAMPLES = """\
examples:
  %(prog)s -c config.toml                 run
  %(prog)s -c config.toml --until-empty   run, and stop when nothing is left
  %(prog)s -c config.toml --demo 25       run, with 25 sample e-mails in the local queue
  %(prog)s -c config.toml check           find what is wrong before it matters
  %(prog)s -c config.toml send email.send '{"to": ["ann@example.com"], "subject": "Hello", "text": "Hi"}'
  %(prog)s -c config.toml dlq ls --group  count the dead letters by what went wrong

exit codes: 0 stopped in order, 1 some messages are left (they come back after their visibility time-out), 2 crash,
3 bad configuration or boot, or all queues refused
"""
#: What was registered with atexit has the rest of the drain, this long at the most (Sentry's limit is 2 s) ...
EXIT_SECONDS = 5.0
#: ... and at the least.
LEAST_EXIT_SECONDS = 1.0
CLAIMS_EXAMPLES = """\
examples:
  %(prog)s show 8c1f0a1e
  %(prog)s release 8c1f0a1e --type invoice.created
  %(prog)s release 'invoice.created 8c1f0a1e'
"""
SEND_EXAMPLES = """\
examples:
  %(prog)s email.send @mail.json
  %(prog)s invoice.created '{"number": "7"}' --queue invoices --delay 60 --attribute tenant=acme
  jq '.payload' event.json | %(prog)s invoice.created - --count 100
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit code.

    A worker that ran, and any command that came without `argv`, ends the process here instead: nothing may hold it.
    """
    if argv is None:  # the process is ours
        sys.stdout, sys.stderr = screen.outliving(sys.stdout), screen.outliving(sys.stderr)
    if text := patch.wrong_with_process():
        return _refuse([text])
    options = _parse(argv)
    signals = ExitSignals()
    if argv is None:
        signals.start_thread()
    if not options.command:
        # Until the service takes them over, nothing is in hand: a signal ends the process at once, without a traceback.
        # Not by KeyboardInterrupt, which gevent prints, and which an import of the user's can swallow.
        signals.on_signal(lambda number: _end(FINISHED))
        signals.on_steering(lambda number, frame: None)  # there is nothing to steer yet; by itself they end a process
        sys.stdout, sys.stderr = unblocked(sys.stdout), unblocked(sys.stderr)
    log.setup("info", "auto", sys.stderr)
    try:
        code = _obey(options, sys.argv[1:] if argv is None else argv, signals)
    except ConfigError as error:
        code = _refuse(error.findings)
    except KeyboardInterrupt:
        code = LEFT
    except BaseException as error:  # a setup() can call sys.exit
        log.event(logging.CRITICAL, "worker.crashed", describe(error), traceback=traceback_of(error))
        code = CRASHED
    if argv is None or not options.command:
        _leave(code, signals)
    return code


def _obey(options: argparse.Namespace, argv: Sequence[str], signals: ExitSignals) -> int:
    if options.command in STEERING_COMMANDS:  # they ask workers that run, which have settings of their own
        from millpond.commands import steer

        return steer.run(options)
    environ: Mapping[str, str] = os.environ
    if options.command == "check" and options.platform:
        environ = as_on(options.platform, environ)
    try:
        settings = load(options.config, environ)
    except ConfigError as error:
        if options.command != "check" or not options.json:
            raise
        from millpond.commands import check, finding

        return check.print_json([finding.Finding("error", "settings", text) for text in error.findings])
    # What a command prints for people stands alone on standard output.
    log.setup(settings.log.level, settings.log.format, sys.stderr if options.command else None)
    log.take_failures()
    # Each loads boto3 or rich, and none needs what the others do.
    if options.command == "check":
        from millpond.commands import check

        return check.run(settings, environ, as_json=options.json)
    if options.command == "send":
        from millpond.commands import send

        return send.run(settings, options)
    if options.command == "claims":
        from millpond.commands import claims

        return claims.run(settings, options)
    if options.command == "dlq":
        from millpond.commands import dlq

        return dlq.run(settings, options, signals)
    if options.command == "run":
        from millpond.commands import run_one

        return run_one.run(settings, options)
    if options.reload:
        from millpond.commands import reload

        return reload.run(settings, argv, signals)
    return _run(settings, options, signals)


def _run(settings: AllSettings, options: argparse.Namespace, signals: ExitSignals) -> int:
    from millpond.commands.demo import Demo
    from millpond.process import boot, parent_link

    seat = parent_link.seat_of(os.environ)
    if seat is not None:
        settings = seat.settle(settings)
    elif signals.has_thread:  # the process is ours
        _leave_it_to_a_parent(settings, options)

    link = parent_link.ParentLink(seat) if seat is not None else None
    demo = Demo(settings, options.demo) if options.demo else None
    longest = RELOAD_WAIT_SECONDS if RELOADED in os.environ else boot.LONGEST_POLL_SECONDS
    until_empty = options.until_empty
    service = boot.build(settings, until_empty=until_empty, longest_wait_seconds=longest, signals=signals, link=link)
    if demo is not None:
        demo.put(service)
    code = service.run()
    if demo is not None and options.until_empty:
        demo.print_table(service)
    return code


def _leave_it_to_a_parent(settings: AllSettings, options: argparse.Namespace) -> None:
    """Become the parent of workers, where there are to be several, or where one is to be replaced once it is large."""
    from millpond.app.platform import usable_cores
    from millpond.process.parent_plan import ParentPlan, become_parent

    worker = settings.worker
    number = 1 if settings.has_local else worker.process_number(usable_cores(Path("/")))
    if number > 1 or worker.max_memory_mb:
        drain_seconds = None if math.isinf(worker.drain_limit) else worker.drain_limit
        log_as = settings.log.level, settings.log.format
        become_parent(ParentPlan(number, sys.orig_argv[1:], drain_seconds, options.until_empty, *log_as))


def _leave(code: int, signals: ExitSignals) -> NoReturn:
    """End the process: no stuck handler, no thread and no poll left open may hold it."""
    seconds = max(LEAST_EXIT_SECONDS, min(EXIT_SECONDS, signals.seconds_left))
    signals.end_within(seconds + LEAST_EXIT_SECONDS, code)
    _run_exit_functions(seconds)
    _end(code)


def _run_exit_functions(seconds: float) -> None:
    """Run what was registered with atexit (Sentry, coverage): os._exit would skip it."""
    sys.unraisablehook = _log_exit_failure
    running = gevent.spawn(atexit._run_exitfuncs)
    running.join(seconds)
    if not running.ready():
        text = f"the functions of atexit have not ended within {seconds:.1f} s: the process ends without them"
        log.event(logging.WARNING, "atexit.failed", text)


def _log_exit_failure(failed: Any) -> None:
    text = f"a function of atexit raised {describe(failed.exc_value)}"
    log.event(logging.ERROR, "atexit.failed", text, traceback=traceback_of(failed.exc_value))


def _end(code: int) -> NoReturn:
    log.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, never there, or a signal came amid a flush
            stream.flush()
    os._exit(code)


def _refuse(findings: Sequence[str]) -> int:
    for finding in findings:
        print(shown(finding, MAX_FINDING), file=sys.stderr)
    return MISCONFIGURED


class _Parser(argparse.ArgumentParser):
    """Ends by the exit code for bad configuration where a command line is wrong; argparse's own, 2, is a crash."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(MISCONFIGURED, f"{self.prog}: {shown(message, MAX_FINDING)}\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(argv, argparse.Namespace(config=Path("config.toml")))
    if options.command == "dlq":  # argparse takes a list of ids only where no option stands within it
        options.ids += [one for one in rest if not one.startswith("-")]
        rest = [one for one in rest if one.startswith("-")]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command and (options.until_empty or options.demo or options.reload):
        parser.error(f"--until-empty, --demo and --reload are for running, not for {options.command}")
    return options


def _parser() -> argparse.ArgumentParser:
    # SUPPRESS: or the default of a command's -c would undo the one before the command.
    common = _Parser(add_help=False)
    help_text = "the settings (default: config.toml)"
    common.add_argument("-c", "--config", type=Path, metavar="PATH", default=argparse.SUPPRESS, help=help_text)
    parser = _Parser(prog=_program(), description=DESCRIPTION, epilog=EXAMPLES, parents=[common])
    parser.add_argument("--until-empty", action="store_true", help="stop when the queues are empty")
    parser.add_argument("--version", action="version", version=f"millpond {__version__}", help="print it and exit")
    parser.add_argument("--demo", type=_number, metavar="N", help="first put N sample e-mails into the local queue")
    help_text = "for development: start again when a file of the project changes"
    parser.add_argument("--reload", action="store_true", help=help_text)
    commands = parser.add_subparsers(dest="command", metavar="command")
    check = commands.add_parser("check", help="find what is wrong before it matters", parents=[common])
    check.add_argument("--json", action="store_true", help="the findings as JSON, for a program")
    help_text = f"as if it ran there: {', '.join(PLATFORM_NAMES)}"
    check.add_argument("--platform", choices=PLATFORM_NAMES, default="", metavar="NAME", help=help_text)
    send = commands.add_parser("send", help="put messages into a queue", epilog=SEND_EXAMPLES, parents=[common])
    send.add_argument("type", metavar="TYPE", help="the message type, such as email.send")
    send.add_argument("payload", metavar="PAYLOAD", help="JSON, @file, or - for standard input")
    send.add_argument("--queue", default="", metavar="NAME", help="which [queues.NAME], where there are several")
    send.add_argument("--count", type=_number, default=1, metavar="N", help="send it N times (default: 1)")
    send.add_argument("--delay", type=int, default=0, metavar="SECONDS", help="received after this, at most 900")
    send.add_argument("--group", default="", metavar="ID", help="its MessageGroupId")
    help_text = "a message attribute (String); can be repeated"
    send.add_argument("--attribute", action="append", default=[], metavar="NAME=VALUE", help=help_text)
    one = commands.add_parser("run", help="run one message by hand, without a queue", parents=[common])
    one.add_argument("type", metavar="TYPE", help="the message type, such as email.send")
    one.add_argument("payload", metavar="PAYLOAD", help="JSON, @file, or - for standard input")
    one.add_argument("--attempt", type=_number, default=1, metavar="N", help="which attempt it is (default: 1)")
    one.add_argument("--event-id", default="", metavar="ID", help="its event id (default: a new one)")
    add_steering_commands(commands, common)
    help_text = "what is known of an event of an idempotent handler"
    claims = commands.add_parser("claims", help=help_text, epilog=CLAIMS_EXAMPLES, parents=[common])
    claims.add_argument("action", metavar="ACTION", choices=["show", "release"], help="show, or release: remove it")
    claims.add_argument("id", metavar="ID", help="the event id, or the whole key, 'TYPE ID'")
    claims.add_argument("--type", default="", metavar="TYPE", help="the message type, where several have this id")
    claims.add_argument("--force", action="store_true", help="release it although a worker has it")
    help_text = "dead letters: list, show, send back, delete, export, import"
    add_options(commands.add_parser("dlq", help=help_text, epilog=DLQ_EXAMPLES, parents=[common]), _number)
    return parser


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
