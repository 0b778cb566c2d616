"""The queue on SQS by boto3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.session
import msgspec
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)

from millpond.aws import find_endpoint, is_loopback, needs_no_credentials
from millpond.codes import error_kind
from millpond.connections import CONNECT_SECONDS, tls_context
from millpond.credentials import HINT
from millpond.errors import AccessDenied, ConfigError, QueueError, Unreachable
from millpond.queue import (
    ENTRY_IDS,
    MISSING,
    POLL_GRACE_SECONDS,
    SETTLE_SECONDS,
    SYSTEM_ATTRIBUTES,
    Attribute,
    Entry,
    Failure,
    Received,
    redrive_target,
)


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
        keys = {}
        if needs_no_credentials(endpoint.url):
            keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        try:
            core = botocore.session.get_session()
            session = boto3.Session(botocore_session=core, region_name=endpoint.region, **keys)
            self.poll = _client(session, url, wait_seconds + POLL_GRACE_SECONDS, polls)
            self.settle = _client(session, url, SETTLE_SECONDS, settles)
            tls_context(endpoint.ca_file)  # botocore would find at the first call that it cannot be read
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"[sqs] cannot connect: {error}") from None

    def queue(self, url: str) -> BotoQueue:
        """The queue of this URL, by these clients."""
        return BotoQueue(url, self.poll, self.settle)


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
    client.meta.events.register("before-parse.sqs", _check_json)
    return client


def _check_json(response_dict: Mapping[str, Any], **_: object) -> None:
    """botocore takes what is no JSON for an answer that says nothing: a proxy's page for an empty receive."""
    if response_dict["status_code"] == 200:
        content_type = response_dict["headers"].get("content-type", "")
        if "json" not in content_type:
            raise ValueError(f"the answer is {content_type or 'of no content type'}, not JSON")
        msgspec.json.decode(response_dict["body"], type=dict[str, msgspec.Raw])


class BotoQueue:
    """One queue at SQS. See the Protocol in queue.py for what each call does and raises."""

    def __init__(self, url: str, poll: Any, settle: Any) -> None:
        self.url = url
        self._poll = poll
        self._settle = settle

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        attempt = {"ReceiveRequestAttemptId": attempt_id} if attempt_id else {}
        with _errors("ReceiveMessage"):
            answer = self._poll.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=max_messages,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=visibility_seconds,
                MessageSystemAttributeNames=list(SYSTEM_ATTRIBUTES),
                MessageAttributeNames=["All"],
                **attempt,
            )
            return [_received(message) for message in answer.get("Messages") or ()]

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        entries = [
            {"Id": one, "ReceiptHandle": handle} for one, handle in zip(ENTRY_IDS, receipt_handles, strict=False)
        ]
        with _errors("DeleteMessageBatch"):
            return _results(len(entries), self._settle.delete_message_batch(QueueUrl=self.url, Entries=entries))

    def extend(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        entries = [
            {"Id": one, "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for one, (handle, seconds) in zip(ENTRY_IDS, changes, strict=False)
        ]
        with _errors("ChangeMessageVisibilityBatch"):
            answer = self._settle.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)
            return _results(len(entries), answer)

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        wire = list(map(_entry, ENTRY_IDS, entries))
        with _errors("SendMessageBatch"):
            return _results(len(entries), self._settle.send_message_batch(QueueUrl=self.url, Entries=wire))

    def attributes(self) -> dict[str, str]:
        with _errors("GetQueueAttributes"):
            answer = self._settle.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])
            return dict(answer["Attributes"])

    def dead_letter_url(self, attributes: Mapping[str, str]) -> str:
        """The URL of the redrive policy's target; "" where the queue has none."""
        if "RedrivePolicy" not in attributes:
            return ""
        with _errors("GetQueueUrl"):
            account, name = redrive_target(attributes["RedrivePolicy"])
            answer = self._settle.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
            return str(answer["QueueUrl"])


@contextmanager
def _errors(call: str) -> Iterator[None]:
    """Every failure of a call as a QueueError."""
    try:
        yield
    except Exception as error:  # botocore stumbles over garbage with KeyError, AttributeError and worse
        raise _queue_error(call, error) from error


def _queue_error(call: str, error: Exception) -> QueueError:
    if isinstance(error, NoCredentialsError | PartialCredentialsError | TokenRetrievalError):
        return AccessDenied(f"{call}: {error}: {HINT}", type(error).__name__)
    if not isinstance(error, ClientError):
        return Unreachable(f"{call}: {type(error).__name__}: {error}")
    body = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    # An answer that names no error gets its status for a code.
    codes = {str(body.get("Code", "")), str(body.get("QueryErrorCode", ""))} - {"", str(status)}
    return error_kind(codes, status)(f"{call}: {body.get('Message') or error}", str(body.get("Code", "")))


def _received(message: Mapping[str, Any]) -> Received:
    system = message.get("Attributes", {})
    user = message.get("MessageAttributes")
    return Received(
        message_id=message["MessageId"],
        receipt_handle=message["ReceiptHandle"],
        body=message["Body"],
        receive_count=int(system.get("ApproximateReceiveCount", 1)),
        sent_ms=int(system.get("SentTimestamp", 0)),
        group_id=system.get("MessageGroupId", ""),
        trace_header=system.get("AWSTraceHeader", ""),
        attributes={name: _attribute(value) for name, value in user.items()} if user else {},
    )


def _attribute(value: Mapping[str, Any]) -> Attribute:
    return Attribute(value["DataType"], value["BinaryValue"] if "BinaryValue" in value else value["StringValue"])


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


def _results(number: int, answer: Mapping[str, Any]) -> list[Failure | None]:
    """What became of each entry. One that the answer does not name counts as failed: it may have been done."""
    results: list[Failure | None] = [MISSING] * number
    for done in answer.get("Successful") or ():
        results[ENTRY_IDS.index(done["Id"])] = None
    for failed in answer.get("Failed") or ():
        failure = Failure(failed.get("Code", ""), failed.get("Message", ""), bool(failed.get("SenderFault")))
        results[ENTRY_IDS.index(failed["Id"])] = failure
    return results
