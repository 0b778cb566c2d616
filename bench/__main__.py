"""`python -m bench [throughput] [drain] [hold]`: all of them without a name."""

from gevent import monkey

monkey.patch_all()

import importlib  # noqa: E402
import sys  # noqa: E402

NAMES = ["throughput", "drain", "hold"]

for name in sys.argv[1:] or NAMES:
    print(f"{name}: {(module := importlib.import_module(f'bench.{name}')).__doc__}")
    module.run()
