"""`python -m tests.mutation --sample 300 --seed 1`: how many mutations the tests find; exit code 1 below 95 %."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    options = _options()
    # Not at the top: --help works without cosmic-ray, which `make mutation` alone installs.
    from tests.mutation.run import FILES, run

    return 0 if run(options.file or FILES, options.sample, options.seed, options.workers) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=300, metavar="N", help="bugs to plant (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="at the same time (default: %(default)s)")
    parser.add_argument("--file", action="append", metavar="PATH", help="only in this file; can be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
