"""`python -m bench [SECTION ...] [--quick] [--runs N] [--only CONSUMER,...]`: all sections without a name.

compare, latency, idle, growth, floor and instructions write bench/results.json, report makes bench/README.md's tables
and plots of it. --quick is for the time of work: one round of the fast consumers and the tutorial's loop, nothing is
written.
"""

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import importlib  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

from bench.consumers import CONSUMERS  # noqa: E402
from bench.options import Options  # noqa: E402
from bench.process import SERVER_CORE  # noqa: E402

#: In the order in which they run: latency's rates come of compare's figures.
SECTIONS = ["compare", "latency", "idle", "floor", "growth", "mail", "instructions", "report"]
SECTIONS += ["drain", "hold", "processes", "page", "slow"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer runs, nothing written")
    parser.add_argument("--runs", type=int, default=0, help="rounds (default: 5, or 1 if quick)")
    parser.add_argument("--only", default="", metavar="CONSUMER,...", help="these consumers alone")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    only = [name for name in given.only.split(",") if name]
    if unknown := set(only) - {consumer.name for consumer in CONSUMERS}:
        names = ", ".join(consumer.name for consumer in CONSUMERS)
        parser.error(f"no consumer {', '.join(sorted(unknown))}; there are {names}")
    runs = given.runs or (1 if given.quick else 5)
    options = Options(runs, given.quick, only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that consumers and servers end with it
    os.sched_setaffinity(0, {SERVER_CORE})  # the last core is the consumer's alone
    for name in given.sections or SECTIONS:
        module = importlib.import_module(f"bench.{name}")
        print(f"\n{name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        began = time.monotonic()
        if name == "mail":
            module.run(options.runs)
        elif name in ("drain", "hold"):
            module.run()
        else:
            module.run(options)
        print(f"{name} took {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
