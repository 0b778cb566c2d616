"""The store of large bodies of one process: opened where buckets are named."""

from __future__ import annotations

from millpond.app.config import AllSettings
from millpond.large_bodies.body_store import BodyStore


def open_body_store(settings: AllSettings) -> BodyStore | None:
    """S3, where the settings name buckets to read from; else None. Raises ConfigError where it cannot be called."""
    wanted = settings.large_bodies
    if not wanted.names:
        return None
    from millpond.large_bodies.s3_bodies import S3Bodies  # botocore's model of S3: 100 ms

    # Each message makes one call at a time.
    connections = settings.worker.concurrency + sum(queue.prefetch for queue in settings.queues.values())
    return S3Bodies(wanted.region, wanted.endpoint_url, connections)
