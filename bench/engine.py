"""The engine alone, with its marks for callgrind: `python -m bench.engine MESSAGES AT_ONCE`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import sys  # noqa: E402

from tests.steps import Tray, engine  # noqa: E402


def main() -> None:
    messages, at_once = int(sys.argv[1]), int(sys.argv[2])
    tray = Tray(messages)
    os.getloadavg()
    engine(Tray(1_000), at_once)
    os.getloadavg()
    engine(tray, at_once)
    os.getloadavg()


if __name__ == "__main__":
    main()
