"""A local SQS for laptops and tests: the real wire protocol, messages in memory only.

It imports nothing of ours. `LocalSqs` is loaded at its first use, so that `python -m millpond.local` can patch the
process before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millpond.local.server import LocalSqs

__all__ = ["DEFAULT_PORT", "LocalSqs"]

DEFAULT_PORT = 9324


def __getattr__(name: str) -> Any:
    if name != "LocalSqs":
        raise AttributeError(f"module 'millpond.local' has no attribute {name!r}")
    from millpond.local.server import LocalSqs

    return LocalSqs
