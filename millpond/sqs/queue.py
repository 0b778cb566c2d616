"""A queue as the engine sees it: the calls that it makes, and the values that they take and give.

`SqsQueue` is one, whichever client calls SQS; tests have fakes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Protocol

import msgspec

from millpond.foreign.secrets import Unshown
from millpond.foreign.text import shown
from millpond.foreign.trace_context import TraceContext
from millpond.sqs.codes import LEASE_LOST_CODES

#: The answer to a poll may come this long after its wait: until then SQS may have given messages away.
POLL_GRACE_SECONDS = 10
#: What every other call may take: a later answer counts as lost.
CALL_SECONDS = 10
_DEDUP_ID = re.compile(r"[!-~]{1,128}")


class Attribute(Unshown, msgspec.Struct, frozen=True):
    """A user attribute: `data_type` as SQS names it (String, Number, Binary, with a suffix of one's own)."""

    data_type: str
    value: str | bytes


#: The attributes of a message that has none, as most have: one object for all.
NO_ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType({})


class Received(Unshown, msgspec.Struct, frozen=True):
    """One message as a receive brought it. `flaw`: why its body or attributes are not those that were sent.

    `body`: the UTF-8 of a long one that is not ASCII, for as a str a single emoji gives every character four bytes.
    `size`: the bytes that the message takes in an answer; 0 for one that is too small to count (see answers.py).
    """

    message_id: str
    receipt_handle: str
    body: str | bytes
    receive_count: int = 1
    sent_ms: int = 0
    group_id: str = ""
    trace_header: str = ""
    attributes: Mapping[str, Attribute] = {}
    flaw: str = ""
    size: int = 0

    @property
    def text(self) -> str:
        """The body as a text; of a long one this makes a new text each time."""
        return self.body if isinstance(self.body, str) else self.body.decode()


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

    def with_trace(self, trace: TraceContext, max_bytes: int) -> Entry:
        """The same as a part of a trace. Its attributes stay away where body and attributes would pass `max_bytes`."""
        headed = msgspec.structs.replace(self, trace_header=trace.header)
        attributes = {name: Attribute("String", value) for name, value in trace.attributes}
        traced = msgspec.structs.replace(headed, attributes=attributes | {**self.attributes})
        return traced if traced.size <= max_bytes else headed


class Failure(msgspec.Struct, frozen=True):
    """Why one entry of a batch was not done.

    `sender_fault`: the same entry will fail again. `denied`: it will, until a person has changed rights or queues.
    """

    code: str
    text: str = ""
    sender_fault: bool = False
    denied: bool = False

    @property
    def name(self) -> str:
        """The code as SQS writes it, also where the whole call failed."""
        return self.code.removeprefix("call:")

    @property
    def summary(self) -> str:
        """Code and text, as the log and a reason have them."""
        return shown(f"{self.name}: {self.text}" if self.name else self.text)

    @property
    def lease_lost(self) -> bool:
        """Whether the receipt handle is no longer ours."""
        return self.code in LEASE_LOST_CODES


#: Of an entry that the answer to its call does not name: it may have been done.
MISSING = Failure("Missing", "the answer does not name it")


class Queue(Protocol):
    """One queue. A batch call takes 1 to 10 entries and returns a result for each, in order; None: it was done.

    Every call raises QueueError where it fails as a whole.
    """

    url: str

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        """Ask for messages. `attempt_id`, on a FIFO queue: that of a lost answer brings the same messages again."""
        ...

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]: ...

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        """Change visibility: of each receipt handle, the seconds from now until its message is visible again."""
        ...

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]: ...

    def attributes(self) -> dict[str, str]: ...


def dedup_id_of(event_id: str) -> str:
    """The deduplication id for an event id: itself, or its hash where SQS would not take it (1 to 128 of [!-~])."""
    return event_id if _DEDUP_ID.fullmatch(event_id) else sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()
