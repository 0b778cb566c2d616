"""The queue on SQS, by boto3: nobody else knows it, but transport.py, which it sends through."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import msgspec
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    TokenRetrievalError,
)

from millpond.errors import AccessDenied, ConfigError, QueueError, QueueMissing, Throttled, Unreachable
from millpond.queue import Attribute, Entry, Failure, Received
from millpond.transport import install

CONNECT_SECONDS = 5
#: A poll's answer may come this long after its wait: SQS needs a read time-out above the wait.
POLL_GRACE_SECONDS = 10
#: A delete, an extension, a send: all answers longer than this are taken for lost.
SETTLE_SECONDS = 10

MISSING_CODES = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress"})
DENIED_CODES = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "KMS.AccessDeniedException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
THROTTLE_CODES = frozenset(
    {
        "KMS.ThrottlingException",
        "OverLimit",
        "RequestLimitExceeded",
        "RequestThrottled",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
SYSTEM_ATTRIBUTES = ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId", "AWSTraceHeader"]


class Clients(msgspec.Struct, frozen=True):
    """Two boto3 clients from one session. A throttled or hung poll takes nothing from those that settle."""

    poll: Any
    settle: Any


def connect(queue_url: str, *, region: str, endpoint_url: str, wait_seconds: int, polls: int, settles: int) -> Clients:
    """The clients for the queue at this URL.

    `polls` and `settles` are how many calls of each kind can be under way at once: so many connections are kept.
    Region and endpoint come from the settings, or else from the URL. Raises ConfigError where no region is to be
    found, and where the AWS configuration is unreadable or names a CA bundle that is.
    """
    region = region or _region_of(queue_url)
    endpoint = endpoint_url or _endpoint_of(queue_url)
    core = botocore.session.get_session()
    session = boto3.Session(botocore_session=core, region_name=region or None, **_credentials(endpoint))
    try:
        clients = Clients(
            poll=_client(session, endpoint, wait_seconds + POLL_GRACE_SECONDS, polls),
            settle=_client(session, endpoint, SETTLE_SECONDS, settles),
        )
        for client in (clients.poll, clients.settle):
            install(client, core.get_config_variable("ca_bundle"))
        return clients
    except NoRegionError:
        raise ConfigError(f"{queue_url}: no region; set [sqs] region (AWS_REGION)") from None
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"[sqs] cannot connect: {error}") from None


def _client(session: boto3.Session, endpoint: str | None, read_seconds: int, connections: int) -> Any:
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        # No SDK retries: after a read time-out each would strand another batch, and settling has its own back-off.
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
        # HTTP_PROXY is not meant for this machine itself, and NO_PROXY often forgets it.
        proxies={} if endpoint is not None and is_loopback(endpoint) else None,
        # We build every request ourselves: checking it again costs 100 us a call; so does the long user agent.
        parameter_validation=False,
        user_agent="millpond",
    )
    return session.client("sqs", endpoint_url=endpoint, config=config)


def _region_of(queue_url: str) -> str:
    host = urlsplit(queue_url).hostname or ""
    parts = host.split(".")
    if is_aws(queue_url) and parts[0] == "sqs" and len(parts) > 3:
        return parts[1]
    if is_aws(queue_url):
        return ""
    return os.environ.get("AWS_DEFAULT_REGION", "us-east-1")  # an emulator has no region of its own


def _endpoint_of(queue_url: str) -> str | None:
    """None lets botocore decide; a queue that is not at AWS is its own endpoint."""
    if is_aws(queue_url):
        return None
    parts = urlsplit(queue_url)
    return f"{parts.scheme}://{parts.netloc}"


def is_aws(queue_url: str) -> bool:
    """Whether this URL is one of Amazon's own."""
    host = urlsplit(queue_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def is_loopback(queue_url: str) -> bool:
    """Whether this URL leads to this machine."""
    host = urlsplit(queue_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _credentials(endpoint: str | None) -> dict[str, str]:
    """An emulator on this machine checks no credentials: without any, made-up ones save a search that takes seconds."""
    if endpoint is None or not is_loopback(endpoint) or os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    return {"aws_access_key_id": "local", "aws_secret_access_key": "local"}


class SqsQueue:
    """One queue at SQS. See the Protocol in queue.py for what each call does and raises."""

    def __init__(self, url: str, clients: Clients) -> None:
        self.url = url
        self._poll = clients.poll
        self._settle = clients.settle

    def receive(self, max_messages: int, wait_seconds: int, visibility_seconds: int) -> list[Received]:
        with _errors("ReceiveMessage"):
            answer = self._poll.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=max_messages,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=visibility_seconds,
                MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
                MessageAttributeNames=["All"],
            )
            _check_json(answer)
            return [_received(message) for message in answer.get("Messages", ())]

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(receipt_handles)]
        with _errors("DeleteMessageBatch"):
            return _results(len(entries), self._settle.delete_message_batch(QueueUrl=self.url, Entries=entries))

    def extend(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        entries = [
            {"Id": str(index), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for index, (handle, seconds) in enumerate(changes)
        ]
        with _errors("ChangeMessageVisibilityBatch"):
            answer = self._settle.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)
            return _results(len(entries), answer)

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        wire = [_entry(index, entry) for index, entry in enumerate(entries)]
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
            arn = json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"]
            account, name = arn.split(":")[-2:]
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
        text = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the task or pod a role"
        return AccessDenied(f"{call}: {error}: {text}", type(error).__name__)
    if not isinstance(error, ClientError):
        return Unreachable(f"{call}: {type(error).__name__}: {error}")
    body = error.response.get("Error", {})
    codes = {str(body.get("Code", "")), str(body.get("QueryErrorCode", ""))}
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _kind(codes, status)(f"{call}: {body.get('Message') or error}", str(body.get("Code", "")))


def _kind(codes: set[str], status: int) -> type[QueueError]:
    if codes & MISSING_CODES:
        return QueueMissing
    if codes & THROTTLE_CODES or status == 429:
        return Throttled
    if codes & DENIED_CODES:
        return AccessDenied
    return Unreachable if status >= 500 else QueueError


def _check_json(answer: Mapping[str, Any]) -> None:
    """botocore takes a proxy's page with status 200 for an answer that says nothing: for an empty receive."""
    content_type = answer["ResponseMetadata"]["HTTPHeaders"].get("content-type", "")
    if "json" not in content_type:
        raise ValueError(f"the answer is {content_type or 'of no content type'}, not JSON")


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


def _entry(index: int, entry: Entry) -> dict[str, Any]:
    wire: dict[str, Any] = {"Id": str(index), "MessageBody": entry.body}
    if entry.delay_seconds:
        wire["DelaySeconds"] = entry.delay_seconds
    if entry.group_id:
        wire["MessageGroupId"] = entry.group_id
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
    results: list[Failure | None] = [Failure("Missing", "the answer does not name it")] * number
    for done in answer.get("Successful", ()):
        results[int(done["Id"])] = None
    for failed in answer.get("Failed", ()):
        failure = Failure(failed.get("Code", ""), failed.get("Message", ""), bool(failed.get("SenderFault")))
        results[int(failed["Id"])] = failure
    return results
