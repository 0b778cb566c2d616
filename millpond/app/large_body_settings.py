"""[large_bodies]: bodies that are too large for SQS, as its extended client puts them into S3."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from millpond.app.setting_types import InHandBytes, Text, Url
from millpond.foreign.secrets import Unshown

# Its name, or the ARN of an access point.
Bucket = Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]{3,255}|arn:[^\s:]+:s3\S+)?\Z")]
Buckets = Annotated[tuple[Bucket, ...], Meta(description='a list of buckets, ["my-bodies"]')]
#: As they are in memory: half of max_bytes_in_flight.
MAX_LARGE_BYTES = 16 * 1024 * 1024


class LargeBodySettings(Unshown, msgspec.Struct, frozen=True):
    """[large_bodies]: buckets = []: no body is read from S3. An empty name in the list counts as none."""

    buckets: Buckets = ()
    max_bytes: InHandBytes = MAX_LARGE_BYTES
    delete_after_success: bool = False
    region: Text = ""
    endpoint_url: Url = ""

    @property
    def names(self) -> list[str]:
        """The buckets that may be read."""
        return [bucket for bucket in self.buckets if bucket]
