"""The worker without a worker.py: `python -m millpond -c config.toml`."""

from gevent import monkey

monkey.patch_all()

import sys

from millpond.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
