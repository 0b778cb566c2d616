"""`python -m chaos --seconds 600 --seed 1`: a chaos run. Exit code 1: its audit fails."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from chaos.run import RunSettings, run

#: What a run of ten minutes must have injected of each kind of network fault, and of each blow to a process.
LEAST_FAULTS, LEAST_BLOWS, LEAST_SECONDS = 100, 20, 600


def main() -> int:
    options = _options()
    settings = RunSettings(
        seed=options.seed,
        seconds=options.seconds,
        per_second=options.per_second,
        workers=options.workers,
        fifo=options.fifo,
        scale=options.scale,
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        report = run(settings, options.keep or Path(scratch))
    print("\n".join(report.lines()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    thin = report.thin(LEAST_FAULTS, LEAST_BLOWS) if options.seconds >= LEAST_SECONDS else []
    for kind in thin:
        print(f"injected too seldom: {kind}")
    return 0 if report.audit.passes and not thin else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long messages are sent")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-second", type=float, default=1_500.0, help="messages, in the mean")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the rates of network faults")
    fifo = {"action": argparse.BooleanOptionalAction, "default": True}
    parser.add_argument("--fifo", help="a FIFO queue beside the standard one", **fifo)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for ledger, logs and faults")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
