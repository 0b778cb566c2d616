"""Large bodies, as the engine knows them: what a pointer of the extended client leads to."""

from __future__ import annotations

from typing import Protocol

from millpond.app.envelope import Pointer
from millpond.engine.delivery import Delivery
from millpond.engine.outcomes import undecodable
from millpond.foreign.text import shown
from millpond.message import Outcome


class LargeBodies(Protocol):
    """Where the bodies are that are too large for SQS."""

    def fetch(self, delivery: Delivery, pointer: Pointer) -> str | bytes | Outcome:
        """The body that a pointer leads to, or the outcome of its message where it cannot be had. Never raises.

        Called in the slot, before the handler's time counts.
        """
        ...


class NoLargeBodies:
    """Fulfils LargeBodies where no bucket may be read."""

    def fetch(self, delivery: Delivery, pointer: Pointer) -> Outcome:
        return unlisted(pointer)


NO_LARGE_BODIES = NoLargeBodies()


def unlisted(pointer: Pointer) -> Outcome:
    """The outcome of a message whose body is in a bucket that may not be read."""
    bucket = shown(pointer.bucket)
    return undecodable(f"the body is in S3, in the bucket {bucket!r}, which is not in [large_bodies] buckets")
