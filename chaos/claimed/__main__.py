"""python -m chaos.simulation: see --help."""

import tests.patch  # noqa: F401, I001  (before all else: the schedules run patched, as the worker does)

import sys

from chaos.claimed.runner import main

if __name__ == "__main__":
    sys.exit(main())
