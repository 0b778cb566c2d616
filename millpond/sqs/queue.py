"""What the engine asks of a queue, and the limits that SQS sets.

`wire.py` and `boto.py` fulfil it; the tests have fakes that do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Protocol, TypeVar

import msgspec

from millpond.errors import AccessDenied, QueueError, QueueMissing, Throttled, Unreachable
from millpond.foreign.number import number_within
from millpond.foreign.secrets import Unshown
from millpond.foreign.text import shown

#: Entries in one batch call, and messages in one receive (SQS quotas).
MAX_BATCH = 10
#: Bytes of one message, and of one batch call together: bodies and user attributes (SQS since 2025-08).
MAX_BYTES = 1_048_576
#: A receive can keep a message for 12 h at the longest, counted from the receive; extensions do not reset it.
MAX_HOLD_SECONDS = 43_200
#: The longest long poll.
MAX_WAIT_SECONDS = 20
#: An answer may have been on its way this long: a lease counts as shorter by it (a quarter of it at the most).
MARGIN_SECONDS = 1.0
#: Receives after which SQS moves a message: maxReceiveCount is 1 to 1000.
MAX_RECEIVES = 1_000
#: How the entries of a batch are named: by number, since one message can be in it twice.
ENTRY_IDS = [str(number) for number in range(MAX_BATCH)]
#: What is wrong with the URL of no queue.
NAMELESS = "the queue's name is missing at its end: https://sqs.<region>.amazonaws.com/<account>/<name>"
#: User attributes of one message.
MAX_ATTRIBUTES = 10
#: A poll's answer may come this long after its wait: SQS needs a read time-out above the wait.
POLL_GRACE_SECONDS = 10
#: A delete, an extension, a send: an answer later than this is taken for lost.
SETTLE_SECONDS = 10
#: What a receive asks for about each message: all that anybody here reads.
SYSTEM_ATTRIBUTES = ("ApproximateReceiveCount", "SentTimestamp", "MessageGroupId", "AWSTraceHeader")

Each = TypeVar("Each")

#: As JSON has it: its account and its name are the last two.
_ARN = re.compile(r'"(?:[^":]+:)+([^":]+):([^":]+)"')
# More than a host, and than the number of an account behind it.
_NAMED = re.compile(r"https?://[^\s/?#]+/+(?![0-9]{12}/*\Z)[^\s/?#]")
_DEDUP_ID = re.compile(r"[!-~]{1,128}")

#: Codes that say: this receipt handle is no longer yours. Final, never retried.
LEASE_LOST_CODES = frozenset(
    {
        "ReceiptHandleIsInvalid",
        "MessageNotInflight",
        "AWS.SimpleQueueService.MessageNotInflight",
        "InvalidParameterValue",
        "InvalidParameterValueException",
    }
)


class Attribute(Unshown, msgspec.Struct, frozen=True):
    """A user attribute: `data_type` as SQS names it (String, Number, Binary, with a suffix of one's own)."""

    data_type: str
    value: str | bytes


#: A message without any: one for all, since most have none.
NO_ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType({})


class Received(Unshown, msgspec.Struct, frozen=True):
    """One message as a receive brought it. `flaw`: why its body or attributes are not those that were sent."""

    message_id: str
    receipt_handle: str
    body: str
    receive_count: int = 1
    sent_ms: int = 0
    group_id: str = ""
    trace_header: str = ""
    attributes: Mapping[str, Attribute] = {}
    flaw: str = ""


class Entry(Unshown, msgspec.Struct, frozen=True):
    """One message to send. `dedup_id`: for a FIFO queue, which needs a group too."""

    body: str
    delay_seconds: int = 0
    group_id: str = ""
    trace_header: str = ""
    attributes: Mapping[str, Attribute] = {}
    dedup_id: str = ""

    @property
    def size(self) -> int:
        """Bytes that count toward MAX_BYTES: the body, and name, type and value of each user attribute."""
        size = len(self.body.encode("utf-8", "surrogatepass"))
        for name, attribute in self.attributes.items():
            size += len(name) + len(attribute.data_type)
            value = attribute.value
            size += len(value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"))
        return size


class Failure(msgspec.Struct, frozen=True):
    """Why one entry of a batch was not done.

    `sender_fault`: trying again as it is cannot help. `denied`: nor before a person has mended something.
    """

    code: str
    text: str = ""
    sender_fault: bool = False
    denied: bool = False

    @property
    def name(self) -> str:
        """The code as SQS names it, also where the whole call has failed."""
        return self.code.removeprefix("call:")

    @property
    def said(self) -> str:
        """Code and text, as the log and a reason show them."""
        return shown(f"{self.name}: {self.text}" if self.name else self.text)

    @property
    def lease_lost(self) -> bool:
        """True where the receipt handle is no longer ours."""
        return self.code in LEASE_LOST_CODES


#: For an entry that the answer of its call does not name: it may have been done.
MISSING = Failure("Missing", "the answer does not name it")


class Queue(Protocol):
    """One queue. A batch call takes 1 to 10 entries and returns one result an entry, in order: None is done.

    Every call raises QueueError where it fails as a whole.
    """

    url: str

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        """`attempt_id`: of a FIFO queue; the one of a receive whose answer was lost brings that answer again."""
        ...

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]: ...

    def extend(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        """Each change: a receipt handle, and the seconds from now until the message is visible again."""
        ...

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]: ...

    def attributes(self) -> dict[str, str]: ...


def answers(call: Callable[[list[Each]], list[Failure | None]], entries: list[Each]) -> list[Failure | None]:
    """The results of a batch call, also where it fails as a whole: that says nothing final of any one entry.

    A call that SQS refuses as it stands is made again for each entry: a bad one must not fail its nine neighbours.
    """
    try:
        return call(entries)
    except (Throttled, Unreachable) as error:
        return [Failure(f"call:{error.code}", str(error))] * len(entries)
    except (AccessDenied, QueueMissing) as error:
        return [Failure(f"call:{error.code}", str(error), denied=True)] * len(entries)
    except QueueError as error:
        if len(entries) > 1:
            return [answers(call, [entry])[0] for entry in entries]
        return [Failure(f"call:{error.code}", str(error), sender_fault=True)]


def lease_seconds(visibility_seconds: int) -> float:
    """How long a message that was received just now is surely ours: its visibility time-out, less the answer's way."""
    return visibility_seconds - min(MARGIN_SECONDS, visibility_seconds / 4)


def has_name(url: str) -> bool:
    """Whether the URL goes on behind its host, and behind the number of an account."""
    return bool(_NAMED.match(url))


def is_fifo(url: str) -> bool:
    """Whether messages of one group come in order: the name's suffix alone tells. (A group is a tenant elsewhere.)"""
    return url.partition("?")[0].partition("#")[0].rstrip("/").endswith(".fifo")


def dedup_id_of(event_id: str) -> str:
    """A deduplication id: 1 to 128 letters, digits and punctuation (SQS). What is none is hashed."""
    return event_id if _DEDUP_ID.fullmatch(event_id) else sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()


class Redrive(msgspec.Struct, frozen=True):
    """A redrive policy: where SQS moves a message, after how many receives; "" and 0 where it does not say."""

    account: str = ""
    name: str = ""
    max_receive_count: int = 0


def read_redrive(policy: str) -> Redrive:
    """What a redrive policy says, whatever it is: SQS writes the count as a number or as a text, others write more."""
    try:
        fields = msgspec.json.decode(policy, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return Redrive()
    count = number_within(_raw_text(fields.get("maxReceiveCount")).strip('"'), 1, MAX_RECEIVES, 0)
    arn = _ARN.fullmatch(_raw_text(fields.get("deadLetterTargetArn")))
    return Redrive(arn[1], arn[2], count) if arn else Redrive(max_receive_count=count)


def _raw_text(value: msgspec.Raw | None) -> str:
    return bytes(value).decode() if value is not None else ""


def redrive_target(policy: str) -> tuple[str, str]:
    """Account and name of the dead-letter queue in a redrive policy. Raises ValueError where it names none."""
    redrive = read_redrive(policy)
    if not redrive.name:
        raise ValueError(f"the redrive policy {shown(policy)} names no queue")
    return redrive.account, redrive.name
