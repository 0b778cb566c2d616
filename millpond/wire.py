"""The queue on SQS by its wire protocol: awsJson1.0 over kept connections, without an SDK in the way of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from time import monotonic, time
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from millpond import sigv4
from millpond.codes import EXPIRED_CODES, error_kind, is_skew
from millpond.connection import Answer
from millpond.connections import Connections
from millpond.credentials import Credentials
from millpond.errors import QueueError, Unreachable
from millpond.queue import (
    ENTRY_IDS,
    MISSING,
    NO_ATTRIBUTES,
    POLL_GRACE_SECONDS,
    SETTLE_SECONDS,
    SYSTEM_ATTRIBUTES,
    Attribute,
    Entry,
    Failure,
    Received,
    redrive_target,
)
from millpond.sigv4 import Keys

CONTENT_TYPE = "application/x-amz-json-1.0"
_INDEX = {entry_id: index for index, entry_id in enumerate(ENTRY_IDS)}

Answered = TypeVar("Answered")


class _Shape(msgspec.Struct, rename="pascal", omit_defaults=True):
    """What is sent or answered, with the names that the wire has."""


class _Value(_Shape, gc=False):
    data_type: str
    string_value: str | None = None
    binary_value: bytes | None = None


class _SystemAttributes(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    approximate_receive_count: int = 1
    sent_timestamp: int = 0
    message_group_id: str = ""
    trace_header: str = msgspec.field(name="AWSTraceHeader", default="")


class _Message(_Shape):
    message_id: str
    receipt_handle: str
    body: str
    attributes: _SystemAttributes = _SystemAttributes()
    message_attributes: dict[str, _Value] | None = None


class _Messages(_Shape):
    messages: list[_Message] = []


class _Handle(_Shape, gc=False):
    id: str
    receipt_handle: str


class _Change(_Shape, gc=False):
    id: str
    receipt_handle: str
    visibility_timeout: int


class _Sent(_Shape):
    id: str
    message_body: str
    delay_seconds: int = 0
    message_group_id: str = ""
    message_attributes: dict[str, _Value] = {}
    message_system_attributes: dict[str, _Value] = {}


class _Batch(_Shape):
    queue_url: str
    entries: list[_Handle] | list[_Change] | list[_Sent]


class _Done(_Shape, gc=False):
    id: str


class _Failed(_Shape, gc=False):
    id: str
    code: str = ""
    message: str = ""
    sender_fault: bool = False


class _Results(_Shape):
    successful: list[_Done] = []
    failed: list[_Failed] = []


class _Attributes(_Shape):
    attributes: dict[str, str]


class _QueueUrl(_Shape):
    queue_url: str


class _Error(msgspec.Struct, rename={"kind": "__type", "text": "message", "other_text": "Message"}):
    kind: str = ""
    text: str | None = None
    other_text: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_messages = msgspec.json.Decoder(_Messages, strict=False).decode  # numbers come as texts
_decode_results = msgspec.json.Decoder(_Results).decode
_decode_attributes = msgspec.json.Decoder(_Attributes).decode
_decode_queue_url = msgspec.json.Decoder(_QueueUrl).decode
_decode_error = msgspec.json.Decoder(_Error).decode


class Site(NamedTuple):
    """Where requests go, as they name and sign it."""

    host: str
    path: str
    region: str


class WireSqs:
    """SQS at one endpoint: signs and sends calls. All its queues share credentials, connections and the clock."""

    client = "wire"

    def __init__(self, endpoint_url: str, region: str, credentials: Credentials, connections: Connections) -> None:
        self._credentials = credentials
        self._connections = connections
        self._site = site_of(endpoint_url, region)
        self._skew_seconds = 0.0

    def queue(self, url: str) -> WireQueue:
        """The queue of this URL, at this endpoint."""
        return WireQueue(url, self)

    def call(self, name: str, body: bytes, seconds: float, read: Callable[[bytes], Answered]) -> Answered:
        """One call of this name (ReceiveMessage), its answer as `read` has it. Raises QueueError."""
        try:
            answer = self._answer(name, body, seconds)
            if answer.status != 200:
                raise _refused(answer)
            if b"json" not in answer.head:
                raise ValueError(f"it is {answer.header('content-type') or 'of no content type'}, not JSON")
            return read(answer.body)
        except QueueError as error:
            raise type(error)(f"{name}: {error}", error.code) from error
        except (ValueError, LookupError) as error:  # msgspec's own are ValueErrors
            raise Unreachable(f"{name}: the answer is not from SQS: {error}") from error

    def _answer(self, name: str, body: bytes, seconds: float) -> Answer:
        """Sent once; once more only where SQS has refused its signature and there is a better one."""
        end = monotonic() + seconds
        keys = self._credentials.keys()
        answer = self._connections.exchange(self._signed(name, body, keys), seconds)
        if answer.status == 200:
            return answer
        better = self._better(answer, keys)
        if better is None:
            return answer
        return self._connections.exchange(self._signed(name, body, better), end - monotonic())

    def _better(self, answer: Answer, keys: Keys) -> Keys | None:
        """The keys for a second try, with the server's own time; None where a second try could not help."""
        codes, text = _reason(answer)
        if codes & EXPIRED_CODES:
            renewed = self._credentials.renew(keys)
            return renewed if renewed != keys else None
        if is_skew(codes, text):
            try:
                self._skew_seconds = parsedate_to_datetime(answer.header("date")).timestamp() - time()
            except ValueError:
                return None
            return keys
        return None

    def _signed(self, name: str, body: bytes, keys: Keys) -> bytes:
        date = sigv4.moment(int(time() + self._skew_seconds))
        request = repeated_request if name == "ReceiveMessage" else signed_request
        return request(self._site, name, body, keys, date)


def signed_request(site: Site, name: str, body: bytes, keys: Keys, date: str) -> bytes:
    """The whole request for the call of this name. `date`: X-Amz-Date, which the signature is good for 15 min from."""
    head, signer = _frame(site, name, keys, date)
    return b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (head, signer.signature(body), len(body), body)


@lru_cache(maxsize=32)
def _frame(site: Site, name: str, keys: Keys, date: str) -> tuple[bytes, sigv4.Signer]:
    """What all calls of this name within one second have: the head up to the signature, and what makes that."""
    headers = {
        "content-type": CONTENT_TYPE,
        "host": site.host,
        "x-amz-date": date,
        **({"x-amz-security-token": keys.token} if keys.token else {}),
        "x-amz-target": f"AmazonSQS.{name}",
        "x-amzn-query-mode": "true",
    }
    signer = sigv4.Signer(keys, site.region, date, site.path, headers)
    lines = [f"{field}: {value}" for field, value in headers.items()]
    lines = [f"POST {site.path} HTTP/1.1", *lines, "user-agent: millpond", f"authorization: {signer.authorization}"]
    return "\r\n".join(lines).encode(), signer


#: A receive is the same for a second, until the date changes: signed once for all pollers.
repeated_request = lru_cache(maxsize=32)(signed_request)


class WireQueue:
    """One queue at SQS. See the Protocol in queue.py for what each call does and raises."""

    def __init__(self, url: str, sqs: WireSqs) -> None:
        self.url = url
        self._call = sqs.call

    def receive(self, max_messages: int, wait_seconds: int, visibility_seconds: int) -> list[Received]:
        body = _receive_body(self.url, max_messages, wait_seconds, visibility_seconds)
        return self._call("ReceiveMessage", body, wait_seconds + POLL_GRACE_SECONDS, _messages)

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        return self._batch("DeleteMessageBatch", list(map(_Handle, ENTRY_IDS, receipt_handles)))

    def extend(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        entries = [_Change(one, handle, seconds) for one, (handle, seconds) in zip(ENTRY_IDS, changes, strict=False)]
        return self._batch("ChangeMessageVisibilityBatch", entries)

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        return self._batch("SendMessageBatch", list(map(_sent, ENTRY_IDS, entries)))

    def attributes(self) -> dict[str, str]:
        body = _encode({"QueueUrl": self.url, "AttributeNames": ["All"]})
        return self._call("GetQueueAttributes", body, SETTLE_SECONDS, _decode_attributes).attributes

    def dead_letter_url(self, attributes: Mapping[str, str]) -> str:
        if "RedrivePolicy" not in attributes:
            return ""
        try:
            account, name = redrive_target(attributes["RedrivePolicy"])
        except ValueError as error:
            raise Unreachable(f"GetQueueUrl: {error}") from None
        body = _encode({"QueueName": name, "QueueOwnerAWSAccountId": account})
        return self._call("GetQueueUrl", body, SETTLE_SECONDS, _decode_queue_url).queue_url

    def _batch(self, name: str, entries: list[Any]) -> list[Failure | None]:
        body = _encode(_Batch(self.url, entries))
        return self._call(name, body, SETTLE_SECONDS, partial(_results, len(entries)))


@lru_cache(maxsize=32)
def _receive_body(url: str, max_messages: int, wait_seconds: int, visibility_seconds: int) -> bytes:
    return _encode(
        {
            "QueueUrl": url,
            "MaxNumberOfMessages": max_messages,
            "WaitTimeSeconds": wait_seconds,
            "VisibilityTimeout": visibility_seconds,
            "MessageSystemAttributeNames": SYSTEM_ATTRIBUTES,
            "MessageAttributeNames": ["All"],
        }
    )


def _messages(body: bytes) -> list[Received]:
    return [
        Received(
            message.message_id,
            message.receipt_handle,
            message.body,
            (system := message.attributes).approximate_receive_count,
            system.sent_timestamp,
            system.message_group_id,
            system.trace_header,
            _attributes(message.message_attributes) if message.message_attributes else NO_ATTRIBUTES,
        )
        for message in _decode_messages(body).messages
    ]


def _attributes(values: Mapping[str, _Value]) -> dict[str, Attribute]:
    return {name: _attribute(value) for name, value in values.items()}


def _attribute(value: _Value) -> Attribute:
    content = value.string_value if value.binary_value is None else value.binary_value
    if content is None:
        raise ValueError("a message attribute has no value")
    return Attribute(value.data_type, content)


def _results(entries: int, body: bytes) -> list[Failure | None]:
    """What became of each entry. One that the answer does not name counts as failed: it may have been done."""
    answer = _decode_results(body)
    results: list[Failure | None] = [MISSING] * entries
    for done in answer.successful:
        results[_INDEX[done.id]] = None
    for failed in answer.failed:
        results[_INDEX[failed.id]] = Failure(failed.code, failed.message, failed.sender_fault)
    return results


def _sent(entry_id: str, entry: Entry) -> _Sent:
    system = {"AWSTraceHeader": _Value("String", entry.trace_header)} if entry.trace_header else {}
    user = {name: _value(attribute) for name, attribute in entry.attributes.items()} if entry.attributes else {}
    return _Sent(entry_id, entry.body, entry.delay_seconds, entry.group_id, user, system)


def _value(attribute: Attribute) -> _Value:
    value = attribute.value
    if isinstance(value, bytes):
        return _Value(attribute.data_type, binary_value=value)
    return _Value(attribute.data_type, string_value=value)


def _refused(answer: Answer) -> QueueError:
    codes, text = _reason(answer)
    code = answer.header("x-amzn-query-error").partition(";")[0] or next(iter(codes), "")
    return error_kind(codes, answer.status)(text or f"HTTP {answer.status}", code)


def _reason(answer: Answer) -> tuple[set[str], str]:
    """All names of the error, none where the answer is not from SQS, and what it says."""
    try:
        error = _decode_error(answer.body)
    except ValueError:
        return set(), ""
    codes = {answer.header("x-amzn-query-error").partition(";")[0], error.kind.rpartition("#")[2].partition(":")[0]}
    return codes - {""}, error.text or error.other_text or ""


def site_of(endpoint_url: str, region: str) -> Site:
    """Of an endpoint: the host without the scheme's own port, as it is signed; the path with a slash at its end."""
    parts = urlsplit(endpoint_url)
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    own = 443 if parts.scheme == "https" else 80  # is not in the Host that is signed
    port = "" if parts.port in (None, own) else f":{parts.port}"
    return Site(f"{host}{port}", f"{quote(parts.path.rstrip('/'), safe='/%~')}/", region)
