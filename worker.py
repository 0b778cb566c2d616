"""The worker's entry: `python worker.py -c config.toml`. The patch comes first, before anything else is imported."""

from gevent import monkey

monkey.patch_all()

import sys

from millpond.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
