"""Checks whether gevent's patch came in time and is sound. Imports gevent alone, so that it can be called first."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import gevent
from gevent import monkey

#: Older ones leave queue.LifoQueue unpatched: urllib3's connection pool can deadlock (gevent#1957).
OLDEST_GEVENT = (25, 4, 1)

FIRST_LINES = "a worker begins with: from gevent import monkey; monkey.patch_all()"


def wrong_with_process() -> str:
    """Why this process must not run a worker; "" where it may."""
    if text := wrong_with_version(gevent.__version__):
        return text
    if not (monkey.is_module_patched("socket") and monkey.is_module_patched("ssl")):
        return f"the process is not patched: {FIRST_LINES}"
    early = imported_before_patch(list(sys.modules))
    if early:
        names = " and ".join(early)
        return f"{names} came before gevent's patch (by sitecustomize, a wrapper, an import above): {FIRST_LINES}"
    return ""


def wrong_with_version(version: str) -> str:
    """Why this gevent is too old; "" where it is not."""
    if tuple(map(int, re.findall(r"\d+", version)[:3])) >= OLDEST_GEVENT:
        return ""
    return f"gevent {version} is too old: {'.'.join(map(str, OLDEST_GEVENT))} or newer is needed"


def imported_before_patch(modules: Sequence[str]) -> list[str]:
    """Which of ssl and urllib3 were imported before the patch; `modules` are the names in sys.modules, in order.

    That order is the one in which imports ended. The patch itself imports gevent.socket, then ssl, then gevent.ssl:
    what stands before them holds on to the sockets and the TLS that block.
    """
    place = {name: index for index, name in enumerate(modules)}
    patched = {"ssl": "gevent.socket", "urllib3": "gevent.ssl"}
    return [name for name, by in patched.items() if name in place and place[name] < place[by]]
