"""The queue on SQS by boto3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ConnectionClosedError, ReadTimeoutError

from millpond.errors import ConfigError, QueueError, Unanswered, Unreachable
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.hub.home import Errand, home, process
from millpond.sqs import shapes
from millpond.sqs.codes import KEY_CODES
from millpond.sqs.connection_pool import CONNECT_SECONDS, tls_context
from millpond.sqs.credentials import Credentials
from millpond.sqs.endpoint import credentials_loader, find_endpoint, is_loopback
from millpond.sqs.entries import send_apart
from millpond.sqs.http_connection import TOO_LARGE
from millpond.sqs.queue import POLL_GRACE_SECONDS, SETTLE_SECONDS, Entry, Failure, Received
from millpond.sqs.redrive import redrive_target
from millpond.sqs.shapes import ENTRY_IDS, SYSTEM_ATTRIBUTES


class BotoSqs:
    """SQS by two boto3 clients from one session: a throttled or hung poll takes nothing from those that settle.

    `polls` and `settles` are how many calls of each kind can be under way at once: so many connections are kept.
    Raises ConfigError where no region is to be found, and where the AWS configuration is unreadable or names a CA
    bundle that is.
    """

    client = "boto3"

    def __init__(
        self, queue_url: str, region: str, endpoint_url: str, wait_seconds: int, polls: int, settles: int
    ) -> None:
        endpoint = find_endpoint(queue_url, region, endpoint_url)
        url = endpoint.url.rstrip("/")
        self.credentials = Credentials(credentials_loader(endpoint))
        try:
            core = botocore.session.get_session()
            core.register_component("credential_provider", _Provider(self.credentials))
            session = boto3.Session(botocore_session=core, region_name=endpoint.region)
            self.poll = _client(session, url, wait_seconds + POLL_GRACE_SECONDS, polls)
            self.settle = _client(session, url, SETTLE_SECONDS, settles)
            tls_context(endpoint.ca_file)  # botocore would find at the first call that it cannot be read
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"[sqs] cannot connect: {error}") from None

    def queue(self, url: str) -> BotoQueue:
        """The queue of this URL, by these clients."""
        return BotoQueue(url, self)


class _Provider(BotoCredentials):  # type: ignore[misc]
    """What botocore signs with: the keys of our own Credentials, which nobody waits for without end."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__("", "", method="millpond")
        self._credentials = credentials

    def load_credentials(self) -> _Provider:
        return self

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return ReadOnlyCredentials(*self._credentials.keys())


def _client(session: boto3.Session, endpoint_url: str, read_seconds: int, connections: int) -> Any:
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        # No SDK retries: after a read time-out each would strand another batch, and settling has its own back-off.
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
        # HTTP_PROXY is not meant for this machine itself, and NO_PROXY often forgets it.
        proxies={} if is_loopback(endpoint_url) else None,
        # The endpoint is found already; botocore refuses one beside these.
        use_fips_endpoint=False,
        use_dualstack_endpoint=False,
        # We build every request ourselves: checking it again costs 100 us a call; so does the long user agent.
        parameter_validation=False,
        user_agent="millpond",
    )
    client = session.client("sqs", endpoint_url=endpoint_url, config=config)
    client.meta.events.register("before-parse.sqs", _keep_body)
    return client


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """We read an answer as the other client does; botocore finds an empty one to parse.

    It would take what is no JSON for an answer that says nothing (a proxy's page for an empty receive), fail as a whole
    where one message is not as SQS writes it, and take four times as long. Raises QueueError for a refusal.
    """
    headers, body = response_dict["headers"], response_dict["body"]
    if response_dict["status_code"] != 200:
        raise shapes.refusal(response_dict["status_code"], headers.get("x-amzn-query-error", ""), body)
    content_type = headers.get("content-type", "")
    if "json" not in content_type:
        raise ValueError(f"the answer is {content_type or 'of no content type'}, not JSON")
    customized_response_dict["body"], response_dict["body"] = body, b"{}"


class BotoQueue:
    """One queue at SQS. See the Protocol in queue.py for what each call does and raises."""

    def __init__(self, url: str, sqs: BotoSqs) -> None:
        self.url = url
        self._poll = sqs.poll
        self._settle = sqs.settle
        self._credentials = sqs.credentials

    def _body(self, call: Callable[..., Any], **request: Any) -> Any:
        """Of one answer. Asked once more only where SQS has refused the keys, and there are others."""
        keys = self._credentials.keys()
        try:
            return call(**request)["body"]
        except QueueError as error:
            if error.code not in KEY_CODES or self._credentials.renew(keys) == keys:
                raise
        return call(**request)["body"]

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        attempt = {"ReceiveRequestAttemptId": attempt_id} if attempt_id else {}
        with _errors("ReceiveMessage"):
            answer = self._body(
                self._poll.receive_message,
                QueueUrl=self.url,
                MaxNumberOfMessages=max_messages,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=visibility_seconds,
                MessageSystemAttributeNames=list(SYSTEM_ATTRIBUTES),
                AttributeNames=list(SYSTEM_ATTRIBUTES),  # the older name: some servers know only this one
                MessageAttributeNames=["All"],
                **attempt,
            )
            return shapes.read_messages(answer)

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        entries = [
            {"Id": one, "ReceiptHandle": handle} for one, handle in zip(ENTRY_IDS, receipt_handles, strict=False)
        ]
        with _errors("DeleteMessageBatch"):
            answer = self._body(self._settle.delete_message_batch, QueueUrl=self.url, Entries=entries)
            return shapes.read_results(len(entries), answer)

    def extend(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        entries = [
            {"Id": one, "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for one, (handle, seconds) in zip(ENTRY_IDS, changes, strict=False)
        ]
        with _errors("ChangeMessageVisibilityBatch"):
            answer = self._body(self._settle.change_message_visibility_batch, QueueUrl=self.url, Entries=entries)
            return shapes.read_results(len(entries), answer)

    def send(self, entries: Sequence[Entry], seconds: float = SETTLE_SECONDS) -> list[Failure | None]:
        if seconds >= SETTLE_SECONDS or home() is not process:  # in a real thread beside the hub: the SDK's limits
            return send_apart(entries, self._send)
        try:
            return Errand(lambda: send_apart(entries, self._send), process).result(seconds)
        except TimeoutError:
            raise Unanswered(f"SendMessageBatch: no answer in {seconds:.3g} s") from None

    def _send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        shapes.send_body(self.url, entries)  # raises for half a character, which botocore would escape
        wire = list(map(_entry, ENTRY_IDS, entries))
        with _errors("SendMessageBatch"):
            answer = self._body(self._settle.send_message_batch, QueueUrl=self.url, Entries=wire)
            return shapes.read_results(len(entries), answer)

    def attributes(self) -> dict[str, str]:
        with _errors("GetQueueAttributes"):
            answer = self._body(self._settle.get_queue_attributes, QueueUrl=self.url, AttributeNames=["All"])
            return shapes.read_attributes(answer)

    def dead_letter_url(self, attributes: Mapping[str, str]) -> str:
        """The URL of the redrive policy's target; "" where the queue has none."""
        if "RedrivePolicy" not in attributes:
            return ""
        with _errors("GetQueueUrl"):
            account, name = redrive_target(attributes["RedrivePolicy"])
            answer = self._body(self._settle.get_queue_url, QueueName=name, QueueOwnerAWSAccountId=account)
            return shapes.read_queue_url(answer)


@contextmanager
def _errors(call: str) -> Iterator[None]:
    """Every failure of a call as a QueueError: a caller's own, botocore's, and whatever an answer makes a reader do."""
    try:
        yield
    except Exception as error:  # botocore stumbles over garbage with KeyError, AttributeError and worse
        raise _queue_error(call, error) from error


def _queue_error(call: str, error: Exception) -> QueueError:
    if isinstance(error, QueueError):
        return type(error)(f"{call}: {shown(error, shapes.MAX_TOLD)}", error.code)
    if isinstance(error, MemoryError):
        return Unreachable(f"{call}: no memory for the answer", TOO_LARGE)
    kind = Unanswered if isinstance(error, ReadTimeoutError | ConnectionClosedError) else Unreachable
    return kind(f"{call}: {describe(error)}")


def _entry(entry_id: str, entry: Entry) -> dict[str, Any]:
    wire: dict[str, Any] = {"Id": entry_id, "MessageBody": entry.body}
    if entry.delay_seconds:
        wire["DelaySeconds"] = entry.delay_seconds
    if entry.group_id:
        wire["MessageGroupId"] = entry.group_id
    if entry.dedup_id:
        wire["MessageDeduplicationId"] = entry.dedup_id
    if entry.trace_header:
        wire["MessageSystemAttributes"] = {"AWSTraceHeader": {"DataType": "String", "StringValue": entry.trace_header}}
    if entry.attributes:
        wire["MessageAttributes"] = {
            name: {
                "DataType": attribute.data_type,
                "BinaryValue" if isinstance(attribute.value, bytes) else "StringValue": attribute.value,
            }
            for name, attribute in entry.attributes.items()
        }
    return wire
