"""What goes over the wire to SQS and comes back, as Structs, for either client.

`requests.py` makes those that are sent; `answers.py` reads the others, and `salvage.py` what is odd among them.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from millpond.foreign.secrets import Unshown
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue import Attribute

#: How the entries of a batch are named: by number, since one message can be in it twice.
ENTRY_IDS = [str(number) for number in range(MAX_BATCH)]
#: The numbers of SQS within these bounds can be compared, added to a time, and made into a date.
LARGEST_RECEIVE_COUNT = 2**31 - 1
MAX_SENT_MS = 4_102_444_800_000  # the year 2100
#: Characters of an error's code, and of a whole error: a remedy can stand behind a provider's own words.
MAX_CODE, MAX_TOLD = 100, 1_000

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Receives = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_RECEIVE_COUNT)]
_Moment = Annotated[int, msgspec.Meta(ge=0, le=MAX_SENT_MS)]


class Shape(Unshown, msgspec.Struct, rename="pascal", omit_defaults=True):
    """A part of a request or an answer, with the field names of the wire."""


class Value(Shape, gc=False):
    data_type: str
    string_value: str | None = None
    binary_value: bytes | None = None

    def attribute(self) -> Attribute:
        """The user attribute. Raises ValueError where it has no value."""
        content = self.string_value if self.binary_value is None else self.binary_value
        if content is None:
            raise ValueError("a message attribute has no value")
        return Attribute(self.data_type, content)


class SystemAttributes(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    approximate_receive_count: _Receives = 1
    sent_timestamp: _Moment = 0
    message_group_id: str = ""
    trace_header: str = msgspec.field(name="AWSTraceHeader", default="")


class AnsweredMessage(Shape):
    message_id: _Name
    receipt_handle: _Name
    body: str
    attributes: SystemAttributes = SystemAttributes()
    message_attributes: dict[str, Value] | None = None


class Messages(Shape):
    messages: list[AnsweredMessage] | None = None


class MessagesApart(Shape):
    """The same, to be read one after another."""

    messages: list[msgspec.Raw] | None = None


class DeleteEntry(Shape, gc=False):
    id: str
    receipt_handle: str


class ExtendEntry(Shape, gc=False):
    id: str
    receipt_handle: str
    visibility_timeout: int


class SendEntry(Shape):
    id: str
    message_body: str
    delay_seconds: int = 0
    message_group_id: str = ""
    message_deduplication_id: str = ""
    message_attributes: dict[str, Value] = {}
    message_system_attributes: dict[str, Value] = {}


class BatchCall(Shape):
    queue_url: str
    entries: list[DeleteEntry] | list[ExtendEntry] | list[SendEntry]


class DoneEntry(Shape, gc=False):
    id: str


class FailedEntry(Shape, gc=False):
    id: str
    code: str = ""
    message: str | None = None
    sender_fault: bool = False


class Results(Shape):
    successful: list[DoneEntry] | None = None
    failed: list[FailedEntry] | None = None


class Attributes(Shape):
    attributes: dict[str, str]


class AnsweredUrl(Shape):
    queue_url: str


class AnsweredError(msgspec.Struct, rename={"kind": "__type", "text": "message", "other_text": "Message"}):
    kind: Any = ""
    text: Any = None
    other_text: Any = None
