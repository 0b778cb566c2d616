"""What the command line asks for is done here, and ends with its exit code."""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import gevent

from millpond.app.config import AllSettings, load
from millpond.app.platform import as_on
from millpond.commands.command_line import MAX_FINDING, read_command_line
from millpond.commands.reload import RELOAD_WAIT_SECONDS, RELOADED, with_short_drain
from millpond.commands.steer_options import STEERING_COMMANDS
from millpond.errors import CRASHED, FINISHED, LEFT, MISCONFIGURED, ConfigError
from millpond.foreign.text import shown
from millpond.foreign.trace import describe, traceback_of
from millpond.hub import patch
from millpond.hub.parent_end import end_with_parent
from millpond.hub.signals import ExitSignals
from millpond.observe import log, screen
from millpond.observe.standard_output import unblocked

#: What was registered with atexit has the rest of the drain, this long at the most (Sentry's limit is 2 s) ...
EXIT_SECONDS = 5.0
#: ... and at the least.
LEAST_EXIT_SECONDS = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit code.

    A worker that ran, and any command that came without `argv`, ends the process here instead: nothing may hold it.
    """
    if argv is None:  # the process is ours
        sys.stdout, sys.stderr = screen.outliving(sys.stdout), screen.outliving(sys.stderr)
    if text := patch.wrong_with_process():
        return _refuse([text])
    options = read_command_line(argv)
    signals = ExitSignals()
    if argv is None:
        signals.start_thread()
    if not options.command:
        # Until the service takes them over, nothing is in hand: a signal ends the process at once, without a traceback.
        # Not by KeyboardInterrupt, which gevent prints, and which an import of the user's can swallow.
        signals.on_signal(lambda number: _end(FINISHED))
        signals.on_steering(lambda number, frame: None)  # there is nothing to steer yet; by itself they end a process
        with suppress(Exception):  # there is no standard error
            faulthandler.enable()  # a library in C that crashes ends the process: where, goes there
        sys.stdout, sys.stderr = unblocked(sys.stdout), unblocked(sys.stderr)
    log.setup("info", "auto", sys.stderr)
    try:
        signals.let_through()
        code = _obey(options, sys.argv[1:] if argv is None else argv, signals)
    except ConfigError as error:
        code = _refuse(error.findings)
    except KeyboardInterrupt:
        code = LEFT
    except screen.OutputLost as error:
        _refuse([f"the output cannot be written: {error.strerror}"])
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
    if options.command and signals.has_thread:  # its error comes as a sentence; the SDK logs it with a traceback before
        logging.getLogger("botocore").setLevel(logging.CRITICAL)
    if options.command:
        return _run_command(settings, options, environ, signals)
    if options.reload:
        from millpond.commands import reload

        return reload.run(settings, argv, signals)
    return _run(settings, options, signals)


def _run_command(
    settings: AllSettings, options: argparse.Namespace, environ: Mapping[str, str], signals: ExitSignals
) -> int:
    """Run what is no worker, and load what that one needs: some of them boto3, some rich."""
    match options.command:
        case "check":
            from millpond.commands import check

            return check.run(settings, environ, as_json=options.json)
        case "send":
            from millpond.commands import send

            return send.run(settings, options)
        case "claims":
            from millpond.commands import claims

            return claims.run(settings, options)
        case "dlq":
            from millpond.commands import dlq

            return dlq.run(settings, options, signals)
    from millpond.commands import run_one

    return run_one.run(settings, options, signals)


def _run(settings: AllSettings, options: argparse.Namespace, signals: ExitSignals) -> int:
    from millpond.commands.demo import Demo
    from millpond.process import boot, parent_link

    if RELOADED in os.environ:
        settings = with_short_drain(settings)
    seat = parent_link.seat_of(os.environ)
    if seat is not None:
        settings = seat.settle(settings)
    elif signals.has_thread:  # the process is ours
        _leave_it_to_a_parent(settings, options)

    link = parent_link.ParentLink(seat) if seat is not None else None
    demo = Demo(settings, options.demo) if options.demo else None
    if RELOADED in os.environ and seat is None:
        end_with_parent(os.environ[RELOADED])
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
