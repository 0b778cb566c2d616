"""`worker.py status`, `top`, `quiet`, `resume`, `level`, `weight`, `dump`: workers that run, looked at and steered."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple
from urllib.request import ProxyHandler, build_opener

import msgspec

from millpond.commands.status_page import status_page
from millpond.errors import FINISHED, LEFT, MISCONFIGURED
from millpond.foreign.text import shown
from millpond.process.control import CONTROL_SECONDS, MAX_CONTROL_ANSWER, Order, addresses, ask
from millpond.process.snapshot import Snapshot, read_snapshot

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
    found = _chosen(find_workers(), options.worker)
    if not found:
        return _nobody(options.worker)
    if len(found) > 1 and not options.all:
        print(f"{len(found)} workers run here: choose one by --worker ID, or all by --all", file=sys.stderr)
        for worker in found:
            print(f"  {worker.snapshot.worker.pid}  {shown(worker.snapshot.worker.name)}", file=sys.stderr)
        return MISCONFIGURED
    order = Order(options.command, getattr(options, "queue", ""), getattr(options, "value", ""))
    return max([_give(worker, order) for worker in found])


def find_workers() -> list[FoundWorker]:
    """The workers of this user on this machine that answer."""
    found = []
    for address in addresses():
        try:
            snapshot = ask(address, Order("status")).snapshot
        except (OSError, msgspec.DecodeError):  # it has just ended, or its hub is blocked
            continue
        if snapshot is not None:
            found.append(FoundWorker(address, snapshot))
    return sorted(found, key=lambda worker: worker.snapshot.worker.started)


def _chosen(found: Sequence[FoundWorker], which: str) -> list[FoundWorker]:
    return [one for one in found if which in ("", str(one.snapshot.worker.pid), one.snapshot.worker.name)]


def _nobody(which: str) -> int:
    who = f"no worker {shown(which)}" if which else "no worker of this user"
    text = f"{who} answers on this machine ([worker] control = true, the same user, the same container)"
    print(text, file=sys.stderr)
    return LEFT


def _give(worker: FoundWorker, order: Order) -> int:
    try:
        answer = ask(worker.address, order)
    except (OSError, msgspec.DecodeError) as error:
        print(f"pid {worker.snapshot.worker.pid} does not answer: {shown(error)}", file=sys.stderr)
        return LEFT
    text = f"pid {worker.snapshot.worker.pid}: {shown(answer.text, MAX_SAID)}"
    print(text, file=sys.stdout if answer.done else sys.stderr, flush=True)
    return FINISHED if answer.done else LEFT


#: Characters of what a worker says.
MAX_SAID = 2_000


def _snapshots(options: Namespace) -> list[Snapshot]:
    """Of the workers that are asked for. A URL that does not answer is named on standard error."""
    if not options.url:
        return [worker.snapshot for worker in _chosen(find_workers(), options.worker)]
    found = []
    for url in options.url:
        try:
            found.append(fetch_snapshot(url))
        except (OSError, ValueError, msgspec.DecodeError) as error:
            print(f"{shown(url)} does not answer as a worker does: {shown(error)}", file=sys.stderr)
    return found


def fetch_snapshot(url: str) -> Snapshot:
    """The snapshot of a worker elsewhere, by GET /status of its page. Raises OSError, ValueError, DecodeError."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("a URL begins with http:// or https://")
    address = url if url.rstrip("/").endswith("/status") else f"{url.rstrip('/')}/status"
    with build_opener(ProxyHandler({})).open(address, timeout=CONTROL_SECONDS) as answer:
        return read_snapshot(answer.read(MAX_CONTROL_ANSWER))


def _show(options: Namespace) -> int:
    found = _snapshots(options)
    if not found:
        return LEFT if options.url else _nobody(options.worker)
    for snapshot in found:
        print(msgspec.json.encode(snapshot).decode() if options.json else "\n".join(status_page(snapshot)), flush=True)
    return FINISHED


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
    return FINISHED if before else LEFT if options.url else _nobody(options.worker)


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
