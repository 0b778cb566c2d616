"""`python -m tests.fuzz --kind bodies --cases 1000`: as many bad inputs as asked for; exit code 1 for a finding."""

from gevent import monkey

monkey.patch_all()

import argparse
import resource
import sys
import time

from tests.fuzz.kind import kinds, run

#: Findings of one kind that are shown.
MAX_SHOWN = 5


def main() -> int:
    known = kinds()
    options = _options(sorted(known))
    findings = 0
    for name in options.kind or sorted(known):
        started, found = time.monotonic(), 0
        for finding in run(known[name], options.seed, options.cases, options.first):
            found += 1
            if found <= MAX_SHOWN:
                print(f"{finding.kind} seed {finding.seed} case {finding.case}:\n{finding.text}", flush=True)
        seconds, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{name}: {options.cases:,} cases, {found} findings, {seconds:.0f} s, peak {peak} MiB", flush=True)
        findings += found
    return 1 if findings else 0


def _options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", action="append", choices=names, help="one kind of bad input; repeatable")
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, metavar="CASE", help="begin with this case, to see one again")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
