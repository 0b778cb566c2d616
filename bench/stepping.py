"""The worker, its steps counted between its last two marks: `python -m bench.stepping FILE WORKER_ARGUMENT ...`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

from millpond.commands.cli import main  # noqa: E402
from tests.steps import Steps  # noqa: E402

file = Path(sys.argv.pop(1))
steps = Steps()
marks: Iterator[Callable[[], object]]
go_on = os.getloadavg


def mark() -> tuple[float, float, float]:
    """In place of os.getloadavg, which it calls."""
    next(marks)()
    return go_on()


def end() -> None:
    steps.__exit__()
    file.write_text(json.dumps(steps.by_function()))


if __name__ == "__main__":
    os.getloadavg = mark
    marks = iter([lambda: None, steps.__enter__, end])
    sys.exit(main())
