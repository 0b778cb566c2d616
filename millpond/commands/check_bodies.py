"""The check of large bodies: whether each bucket of [large_bodies] can be read."""

from __future__ import annotations

from collections.abc import Iterator

from millpond.app.config import AllSettings
from millpond.commands.finding import Finding
from millpond.errors import ConfigError
from millpond.large_bodies.body_store import BodyDenied, BodyGone, BodyStore, BodyStoreError, BodyUnreadable
from millpond.process.body_buckets import open_body_store

SECTION = "large_bodies"
#: No body has this key: S3 says that it is not there, where it may be read and its bucket listed.
ABSENT_KEY = "millpond-check"


def check_bodies(settings: AllSettings) -> Iterator[Finding]:
    """Yield a finding on each bucket; none where no bucket is named."""
    try:
        store = open_body_store(settings)
    except ConfigError as error:
        yield from (Finding("error", SECTION, text) for text in error.findings)
        return
    if store is not None:
        yield from (_check(store, bucket) for bucket in settings.large_bodies.names)


def _check(store: BodyStore, bucket: str) -> Finding:
    try:
        store.get(bucket, ABSENT_KEY, lambda size: None)
    except (BodyGone, BodyUnreadable):
        pass
    except BodyDenied as error:
        text = (
            "without s3:ListBucket it also refuses what is not there, so this does not show whether bodies can be read"
        )
        return Finding("warning", SECTION, f"{error}; {text}")
    except BodyStoreError as error:
        return Finding("error", SECTION, str(error))
    return Finding("ok", SECTION, f"bodies in {bucket} can be read")
