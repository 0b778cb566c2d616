"""In a child process of `--reload`: it ends with its parent, however that ends."""

from __future__ import annotations

import os
import signal
from typing import Any

from gevent.monkey import get_original

_start_thread: Any = get_original("_thread", "start_new_thread")
_read: Any = get_original("os", "read")


def end_with_parent(lifeline: str) -> None:
    """SIGTERM to this process when the parent is gone, else it would go on unseen and keep its port.

    `lifeline`: the descriptor of a pipe, of which the parent alone has the other end.
    """
    number = int(lifeline)
    os.set_inheritable(number, False)
    _start_thread(_wait_for_end, (number,))


def _wait_for_end(number: int) -> None:
    _read(number, 1)
    os.kill(os.getpid(), signal.SIGTERM)
