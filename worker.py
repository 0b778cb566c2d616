"""The worker's entry: `python worker.py -c config.toml`. The patch comes first, before anything that it patches."""

from millpond.installed import hold_signals, require_packages

require_packages()
hold_signals()

from millpond.patched import patch_all

patch_all()

import sys

from millpond.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
