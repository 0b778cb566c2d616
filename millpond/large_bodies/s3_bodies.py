"""S3Bodies: large bodies in S3, by botocore."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from millpond.errors import ConfigError, MillpondError, QueueError
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.hub.home import within
from millpond.large_bodies.body_store import BodyDenied, BodyGone, BodyStoreError, BodyUnreadable
from millpond.sqs.codes import DENIED_CODES, KEY_CODES
from millpond.sqs.credentials import Credentials, SdkKeys, credentials_loader
from millpond.sqs.endpoint import service_endpoint
from millpond.sqs.queue_url import is_loopback

#: A body has come whole within this time, its retries included.
BODY_SECONDS = 60.0
REMOVE_SECONDS = 20.0
BODY_CONNECT_SECONDS, BODY_ANSWER_SECONDS = 3.0, 10.0
#: How often one call is sent: botocore waits 1 s at most before the second time, 2 s before the third.
BODY_ATTEMPTS = 3
#: What S3 says of one body, which says nothing of its bucket: it is archived; no object can have such a key.
UNREADABLE_CODES = frozenset({"InvalidObjectState", "KeyTooLongError"})
#: What it may say of one body (it has an encryption key of its own) or of all (the worker is set up wrongly).
DOUBTFUL_CODES = frozenset({"InvalidRequest", "InvalidArgument", "InvalidURI", "MethodNotAllowed"})
GONE_CODES = frozenset({"NoSuchKey", "NoSuchVersion"})
MISSING_BUCKET_CODES = frozenset({"NoSuchBucket", "PermanentRedirect"})
#: HTTP's own, where an answer has no body with S3's.
_REFUSED_CODES = DENIED_CODES | {"403", "Forbidden", "AllAccessDisabled", "AccountProblem", "KMS.DisabledException"}

Answer = TypeVar("Answer")


class S3Bodies:
    """A BodyStore. `connections`: calls that can be under way at once. Raises ConfigError where S3 cannot be called."""

    def __init__(self, region: str, endpoint_url: str, connections: int) -> None:
        try:
            endpoint = service_endpoint("s3", "list_buckets", region, endpoint_url)
            if not endpoint.region:
                raise ConfigError("[large_bodies] region: it is not known where the buckets are: set it, or AWS_REGION")
            self._credentials = Credentials(credentials_loader(endpoint))
            session = botocore.session.get_session()
            session.register_component("credential_provider", SdkKeys(self._credentials))
            config = Config(
                connect_timeout=BODY_CONNECT_SECONDS,
                read_timeout=BODY_ANSWER_SECONDS,
                max_pool_connections=connections,
                retries={"mode": "standard", "total_max_attempts": BODY_ATTEMPTS},
                tcp_keepalive=True,
                # HTTP_PROXY is not meant for this machine itself, and NO_PROXY often forgets it.
                proxies={} if is_loopback(endpoint.url) else None,
            )
            # Without a URL of ours botocore finds a bucket that is in another region.
            self._client = session.create_client(
                "s3", region_name=endpoint.region, endpoint_url=endpoint_url or None, config=config
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"[large_bodies] S3 cannot be called: {shown(error)}") from None
        self.region = endpoint.region

    def get(self, bucket: str, key: str, take: Callable[[int], object]) -> bytes:
        return self._call(BODY_SECONDS, bucket, "s3:GetObject", lambda: self._read(bucket, key, take))

    def remove(self, bucket: str, key: str) -> None:
        def delete() -> object:
            return self._signed(lambda: self._client.delete_object(Bucket=bucket, Key=key))

        try:
            self._call(REMOVE_SECONDS, bucket, "s3:DeleteObject", delete)
        except BodyGone:  # S3 itself answers 204; others that speak as it does do not
            pass
        except BodyUnreadable as error:
            raise BodyStoreError(f"S3 refuses s3:DeleteObject on {bucket}: {error}") from None

    def _read(self, bucket: str, key: str, take: Callable[[int], object]) -> bytes:
        answer = self._signed(lambda: self._client.get_object(Bucket=bucket, Key=key))
        stream, size = answer["Body"], answer.get("ContentLength")
        try:
            if not isinstance(size, int) or size < 0:
                raise BodyStoreError(f"the answer for {bucket} does not say how large the body is: is that S3?")
            take(size)
            # An answer in chunks may go on without end, whatever size it names.
            body: bytes = stream.read(size + 1)
            stream.read(1)  # at the end botocore compares the checksum
        finally:
            stream.close()
        if len(body) != size:
            raise BodyStoreError(f"of a body in {bucket} {len(body):,} bytes came, and {size:,} were announced")
        return body

    def _signed(self, call: Callable[[], Answer]) -> Answer:
        """A call that is made once; twice only where its keys are refused and there are others."""
        keys = self._credentials.keys()
        try:
            return call()
        except ClientError as error:
            if _code(error) not in KEY_CODES or self._credentials.renew(keys) == keys:
                raise
            return call()

    def _call(self, seconds: float, bucket: str, right: str, call: Callable[[], Answer]) -> Answer:
        try:
            return within(seconds, call)
        except TimeoutError:
            raise BodyStoreError(f"S3 has not answered for {bucket} in {seconds:g} s ({right})") from None
        except ClientError as error:
            self._refuse(error, bucket, right)
        except QueueError as error:  # credentials: there are none, or their provider does not answer
            raise BodyStoreError(f"S3 cannot be asked for {bucket}: {shown(error)}") from None
        except MillpondError:  # of `take`, and our own
            raise
        except Exception as error:  # botocore stumbles over garbage with KeyError, AttributeError and worse
            raise BodyStoreError(f"S3 cannot be reached for {bucket} ({right}): {describe(error)}") from error

    def _refuse(self, error: ClientError, bucket: str, right: str) -> NoReturn:
        code, said = _code(error), shown(error.response.get("Error", {}).get("Message") or error)
        if code in GONE_CODES:
            raise BodyGone(said) from None
        if code in UNREADABLE_CODES:
            raise BodyUnreadable(f"S3 cannot give it as it is kept ({code}: {said})") from None
        if code in DOUBTFUL_CODES:
            raise BodyDenied(f"S3 refuses {right} on {bucket}: {code}: {said}") from None
        if code in MISSING_BUCKET_CODES:
            text = f"the bucket {bucket} is not there in {self.region}: create it, or correct [large_bodies] region"
            raise BodyStoreError(f"{text} ({code})") from None
        if code in _REFUSED_CODES:
            raise BodyDenied(f"S3 refuses {right} on {bucket}: give the worker's role this right ({said})") from None
        raise BodyStoreError(f"S3 failed {right} on {bucket}: {code}: {said}") from None


def _code(error: ClientError) -> str:
    return shown(error.response.get("Error", {}).get("Code", ""), 100)
