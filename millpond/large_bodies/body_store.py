"""BodyStore: where large bodies are, as the engine knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millpond.errors import MillpondError


class BodyStoreError(MillpondError):
    """The store cannot be reached, or refuses: it may pass. Its text says what helps."""


class BodyDenied(BodyStoreError):
    """The store refuses this body. S3 says so of one that is gone, too, where its bucket may not be listed."""


class BodyGone(MillpondError):
    """There is no such body."""


class BodyUnreadable(MillpondError):
    """It is there, and the store cannot give it, now or later, as it is kept (it is archived). Its text says why."""


class BodyStore(Protocol):
    """The bodies in some buckets. Each call ends within its time."""

    def get(self, bucket: str, key: str, take: Callable[[int], object]) -> bytes:
        """The body. `take` gets its size before it is read: a MillpondError of it comes out, and nothing is read.

        Raises BodyGone, BodyUnreadable, and BodyStoreError.
        """
        ...

    def remove(self, bucket: str, key: str) -> None:
        """Delete it; one that is not there is no error. Raises BodyStoreError."""
        ...
