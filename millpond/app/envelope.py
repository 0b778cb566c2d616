"""Envelope: the message type, event id and payload of a body, before the payload is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import msgspec

from millpond.errors import MillpondError
from millpond.foreign.number import number_within
from millpond.foreign.secrets import Unshown
from millpond.hub.backoff import whole_seconds
from millpond.sqs.limits import MAX_DELAY_SECONDS
from millpond.sqs.queue import NO_ATTRIBUTES, Attribute, Received

EnvelopeKind = Literal["auto", "millpond", "sns", "eventbridge", "s3", "cloudevents", "none"]

#: Milliseconds since the epoch up to the year 5138.
MAX_MOMENT_MS = 10**14
#: The attribute of an envelope of our own in a queue whose bodies are payloads (`envelope = "none"`).
OWN_ATTRIBUTE = "millpond_envelope"
#: The type of what S3 sends once to the queue of each new notification; there is no record in it.
S3_TEST_EVENT = "s3:TestEvent"


class Undecodable(MillpondError):
    """A body that names no type, or is not JSON where it must be: it goes to the dead-letter queue."""


class Envelope(Unshown, msgspec.Struct):
    """A body that is an envelope of our own. `payload` is the payload's text as it came.

    `not_before`: ms since the epoch; a follow-up on a FIFO queue has it, since no message can be delayed there.
    The class variables are fields of other envelopes: what a sender writes beside our own four keys is not read.
    """

    event_type: str
    payload: msgspec.Raw
    event_id: str | int | None = None
    not_before: msgspec.Raw = msgspec.Raw()  # whatever others write there, their message is not refused for it

    records: ClassVar[tuple[Unwrapped, ...]] = ()  # where a body holds several payloads
    attributes: ClassVar[Mapping[str, Attribute]] = NO_ATTRIBUTES  # where they are others than those of the receive
    source: ClassVar[str] = ""  # within which its event id is unique, where that is not everywhere

    @property
    def path(self) -> str:
        """Where the payload stands in the body, in msgspec's notation."""
        return "$.payload"


class Unwrapped(Envelope):
    """What stood in an envelope of another kind, or around which there was none.

    `attributes`: those of the receive, and those that stood in its envelopes.
    """

    place: str = "$"  # `path` is a property of its class
    attributes: Mapping[str, Attribute] = NO_ATTRIBUTES  # type: ignore[misc]  # here it is a field
    source: str = ""  # type: ignore[misc]  # and this

    @property
    def path(self) -> str:
        return self.place


class Records(Unwrapped):
    """A body with several payloads, of one type or of more. As a whole it is known by the type of the first."""

    records: tuple[Unwrapped, ...] = ()  # type: ignore[misc]  # here it is a field


class Pointer(Unwrapped):
    """The place of a body that stands in S3. `opened` gives the envelope of what is there, and raises Undecodable."""

    bucket: str = ""
    key: str = ""
    opened: Callable[[str | bytes], Envelope] = None  # type: ignore[assignment]  # the opener gives it


def marks_of(kind: EnvelopeKind) -> Mapping[str, Attribute]:
    """The attributes that show an envelope of our own, in a queue of this kind of bodies."""
    return {OWN_ATTRIBUTE: Attribute("String", "millpond")} if kind == "none" else NO_ATTRIBUTES


def early_seconds(envelope: Envelope, received: Received, now: float) -> int:
    """Whole seconds until this message may be handled; 0: now. `now`: since the epoch.

    No message waits past 900 s after it was sent, whatever it says: that is the longest delay of a follow-up.
    """
    moment = number_within(bytes(envelope.not_before).decode("ascii", "replace"), 1, MAX_MOMENT_MS, 0) / 1000
    latest = (received.sent_ms / 1000 or now) + MAX_DELAY_SECONDS
    if not received.sent_ms and received.receive_count > 1:
        return 0
    return min(MAX_DELAY_SECONDS, whole_seconds(min(moment, latest) - now))


def located(text: str, path: str) -> str:
    """A msgspec message with its path as seen from the body: `$.to[0]` -> `$.payload.to[0]`."""
    if "`$" in text:
        return text.replace("`$", f"`{path}", 1)
    return f"{text} - at `{path}`"
