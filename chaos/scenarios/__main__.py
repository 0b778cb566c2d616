"""`python -m chaos.scenarios [NAME ...] [--quick]`: all without a name. Exit code 1: one does not hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from chaos.scenarios import (
    burn,
    claims,
    crowd,
    deletes,
    deploys,
    fifo,
    kill,
    letters,
    memory,
    outage,
    rate,
    restarts,
    slow_relay,
)
from chaos.scenarios.report import Report

SCENARIOS: Mapping[str, Callable[[Path, bool], Report]] = {
    "burn": burn.run,
    "fifo": fifo.run,
    "kill": kill.run,
    "deletes": deletes.run,
    "restarts": restarts.run,
    "crowd": crowd.run,
    "letters": letters.run,
    "memory": memory.run,
    "claims": claims.run,
    "deploys": deploys.run,
    "outage": outage.run,
    "rate": rate.run,
    "slow_relay": slow_relay.run,
}


def main() -> int:
    options = _options()
    names = options.names or list(SCENARIOS)
    with tempfile.TemporaryDirectory(prefix="scenarios-") as scratch:
        folder = options.keep or Path(scratch)
        held = [_play(name, folder / name, options.quick) for name in names]
    return 0 if all(held) else 1


def _play(name: str, folder: Path, quick: bool) -> bool:
    """One of them: its table, or how far it came. Returns whether all of it holds."""
    folder.mkdir(parents=True)
    try:
        report = SCENARIOS[name](folder, quick)
    except AssertionError as error:  # it came to no end
        print(f"{name} DOES NOT HOLD: {error}\n", flush=True)
        return False
    print("\n".join([f"{name}: {report.did}", *report.lines(name), ""]), flush=True)
    return report.holds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.scenarios", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, or of the messages")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for ledgers, configs and logs")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCENARIOS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
