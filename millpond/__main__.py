"""The worker without a worker.py: `python -m millpond -c config.toml`."""

from millpond.installed import hold_signals, require_packages

require_packages()
hold_signals()

from millpond.patched import patch_all

patch_all()

import sys

from millpond.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
