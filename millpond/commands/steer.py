"""`worker.py status`, `top`, `quiet`, `resume`, `level`, `weight`, `dump`: workers that run, looked at and steered."""

from __future__ import annotations

import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple
from urllib.request import ProxyHandler, build_opener

import msgspec
from gevent.pool import Pool

from millpond.commands.status_page import status_page
from millpond.errors import FINISHED, LEFT, MISCONFIGURED
from millpond.foreign.nearest import did_you_mean
from millpond.foreign.text import shown
from millpond.process.control import CONTROL_SECONDS, MAX_CONTROL_ANSWER, Order, addresses, ask
from millpond.process.snapshot import Snapshot, read_snapshot

#: Workers that are asked at once: one whose hub is held up takes five seconds.
ASKED_AT_ONCE = 16
#: Characters of what a worker answers.
MAX_CONTROL_TEXT = 2_000
_CLEAR = "\x1b[H\x1b[J"


class FoundWorker(NamedTuple):
    """A worker that answers, and where."""

    address: str
    snapshot: Snapshot


def run(options: Namespace) -> int:
    """Do what the command line says, and return the exit code: 1 where no worker answers, or one refuses."""
    if options.command == "status":
        return _show(options)
    if options.command == "top":
        return _top(options)
    workers = find_workers()
    found = _chosen(workers, options.worker)
    if not found:
        return _nobody(options.worker, workers)
    if len(found) > 1 and not (options.all or options.worker):
        print(f"{len(found)} workers run here: choose by --worker ID, or all by --all", file=sys.stderr)
        for worker in found:
            print(f"  {worker.snapshot.worker.pid}  {shown(worker.snapshot.worker.name)}", file=sys.stderr)
        return MISCONFIGURED
    order = Order(options.command, getattr(options, "queue", ""), getattr(options, "value", ""))
    return max([_give(worker, order) for worker in found])


def find_workers() -> list[FoundWorker]:
    """The workers of this user on this machine that answer."""
    found = [worker for worker in Pool(ASKED_AT_ONCE).imap(_look_at, addresses()) if worker is not None]
    return sorted(found, key=lambda worker: _in_order(worker.snapshot.worker.name))


def _look_at(address: str) -> FoundWorker | None:
    """The worker that listens there; None where it does not answer. One whose hub is held up is named."""
    try:
        snapshot = ask(address, Order("status")).snapshot
    except TimeoutError:
        pid = address.rpartition("/")[2].partition("-")[0]
        text = f"pid {pid} has not answered in {CONTROL_SECONDS:g} s: a handler holds up its hub"
        print(f"{text}; `kill -QUIT {pid}` writes into its log where that stands", file=sys.stderr)
        return None
    except (OSError, msgspec.DecodeError):  # it has just ended
        return None
    return FoundWorker(address, snapshot) if snapshot is not None else None


def _in_order(name: str) -> list[tuple[int, str]]:
    """web-2 before web-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _chosen(found: Sequence[FoundWorker], which: str) -> list[FoundWorker]:
    """Those of this process id or name; by the name that config.toml has, the workers under one parent too."""
    if not which:
        return list(found)
    exact = [one for one in found if which in (str(one.snapshot.worker.pid), one.snapshot.worker.name)]
    return exact or [one for one in found if re.fullmatch(rf"{re.escape(which)}-\d+", one.snapshot.worker.name)]


def _nobody(which: str, found: Sequence[FoundWorker]) -> int:
    if which and found:
        meant = did_you_mean(which, dict.fromkeys(one.snapshot.worker.name for one in found))
        print(f"no worker {shown(which)} runs here; {shown(meant)}", file=sys.stderr)
        return LEFT
    text = "no worker answers on this machine ([worker] control = true, the same user, the same container)"
    print(text, file=sys.stderr)
    return LEFT


def _give(worker: FoundWorker, order: Order) -> int:
    try:
        answer = ask(worker.address, order)
    except (OSError, msgspec.DecodeError) as error:
        print(f"pid {worker.snapshot.worker.pid} does not answer: {shown(error)}", file=sys.stderr)
        return LEFT
    text = f"pid {worker.snapshot.worker.pid}: {shown(answer.text, MAX_CONTROL_TEXT)}"
    print(text, file=sys.stdout if answer.done else sys.stderr, flush=True)
    return FINISHED if answer.done else LEFT


def _snapshots(options: Namespace) -> list[Snapshot]:
    """Of the workers that are asked for. Who does not answer is named on standard error."""
    if not options.url:
        workers = find_workers()
        if not (chosen := _chosen(workers, options.worker)):
            _nobody(options.worker, workers)
        return [worker.snapshot for worker in chosen]
    found = []
    for url in options.url:
        try:
            found.append(fetch_snapshot(url))
        except (OSError, ValueError, msgspec.DecodeError) as error:
            why = getattr(error, "reason", error)
            why = (why.strerror if isinstance(why, OSError) else None) or why
            print(f"{shown(url)} does not answer as the page of a worker does: {shown(why)}", file=sys.stderr)
    return found


def fetch_snapshot(url: str) -> Snapshot:
    """The snapshot of a worker elsewhere, by GET /status of its page. Raises OSError, ValueError, DecodeError."""
    if "://" not in url:
        url = f"http://{url}"
    if not url.startswith(("http://", "https://")):
        raise ValueError("a URL begins with http:// or https://")
    address = url if url.rstrip("/").endswith("/status") else f"{url.rstrip('/')}/status"
    with build_opener(ProxyHandler({})).open(address, timeout=CONTROL_SECONDS) as answer:
        return read_snapshot(answer.read(MAX_CONTROL_ANSWER))


def _show(options: Namespace) -> int:
    found = _snapshots(options)
    as_json = options.json
    pages = [msgspec.json.encode(one).decode() if as_json else "\n".join(status_page(one)) for one in found]
    if found:
        print(("\n" if as_json else "\n\n").join(pages), flush=True)
    return FINISHED if found else LEFT


def _top(options: Namespace) -> int:
    """Show them until Ctrl-C, or until none answers any more."""
    before: dict[tuple[str, int], Snapshot] = {}
    output = _output()
    while _output() == output and (found := _snapshots(options)):  # else its reader has left: it leads nowhere now
        pages = [status_page(one, before.get((one.worker.name, one.worker.pid))) for one in found]
        before = {(one.worker.name, one.worker.pid): one for one in found}
        lines = [line for page in pages for line in [*page, ""]]
        print(f"{_CLEAR}{_fitted(lines)}" if sys.stdout.isatty() else "\n".join(lines), flush=True)
        time.sleep(max(0.1, options.seconds))
    return FINISHED if before else LEFT


def _output() -> int:
    """Which file standard output is."""
    try:
        return os.fstat(sys.stdout.fileno()).st_ino
    except (OSError, ValueError):
        return 0


def _fitted(lines: Sequence[str]) -> str:
    """As much as the terminal has room for."""
    columns, rows = os.get_terminal_size()
    return "\n".join(line[:columns] for line in lines[: rows - 1])
