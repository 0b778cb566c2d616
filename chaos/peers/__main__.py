"""`python -m chaos.peers`: the chaos run's schedules on Millpond and on other consumers, in one table."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from chaos.peers import table, trial
from chaos.peers.findings import Row
from chaos.peers.programs import PROGRAMS, Program, find
from chaos.peers.schedules import EXPERIMENTS, Experiment


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `with`: nothing is left running
    options = _options()
    programs = list(find(_names(options.only)))
    wanted = _names(options.experiments)
    experiments = [experiment for experiment in EXPERIMENTS if experiment.name in wanted]
    rows: list[Row] = []
    for experiment in experiments:
        for program in programs:
            rows.append(_row(program, experiment, options))
            if options.json:
                options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    print("\n".join(table.lines(rows, programs, experiments)))
    return 1 if any(row.failure for row in rows) else 0


def _row(program: Program, experiment: Experiment, options: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        folder = (options.keep or Path(scratch)) / f"{experiment.name}-{program.name}"
        folder.mkdir(parents=True)  # an old ledger would be gone on with
        try:
            row = trial.run(program, experiment, options.seed, options.seconds, options.per_second, folder)
        except Exception as error:  # the others go on
            row = Row(program.name, experiment.name, options.seed, failure=f"{type(error).__name__}: {error}"[-2_000:])
    print(f"{experiment.name} {msgspec.json.encode(row).decode()}", flush=True)
    return row


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.peers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long messages are sent in each trial")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-second", type=float, default=100.0, help="messages, in the mean")
    names = ", ".join(program.name for program in PROGRAMS)
    parser.add_argument("--only", default="", metavar="NAME,...", help=names)
    experiments = ",".join(experiment.name for experiment in EXPERIMENTS)
    parser.add_argument("--experiments", default="network,kill,deploy,all", metavar="NAME,...", help=experiments)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="for ledgers, logs and faults, a new folder a trial"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
