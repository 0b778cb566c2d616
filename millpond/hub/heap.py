"""Heap: memory that the process has freed, and that its C library keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def trim() -> None:
    """Give freed memory back to the system, where the C library can be asked to (glibc); it takes some milliseconds.

    glibc raises its own limits with each large block that is freed: after 200 bodies of 1 MiB, four times that as
    texts, the process kept 100 to 190 MiB for good.
    """
    with suppress(OSError, AttributeError):
        malloc_trim: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
        malloc_trim(0)
