"""Envelope: the message type, event id and payload of a body, before the payload is decoded."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from millpond.errors import MillpondError
from millpond.foreign.number import number_within
from millpond.foreign.secrets import Unshown
from millpond.hub.backoff import whole_seconds
from millpond.sqs.limits import MAX_DELAY_SECONDS
from millpond.sqs.queue import Attribute, Received

#: Milliseconds since the epoch up to the year 5138.
MAX_MOMENT_MS = 10**14


class Undecodable(MillpondError):
    """A body that names no type, or is not JSON where it must be: it goes to the dead-letter queue."""


class Envelope(Unshown, msgspec.Struct):
    """A body that is an envelope. `payload` is the payload's text as it came.

    `not_before`: ms since the epoch; a follow-up on a FIFO queue has it, since no message can be delayed there.
    """

    event_type: str
    payload: msgspec.Raw
    event_id: str | int | None = None
    not_before: msgspec.Raw = msgspec.Raw()  # whatever others write there, their message is not refused for it

    @property
    def path(self) -> str:
        """Where the payload stands in the body, in msgspec's notation."""
        return "$.payload"


class BodyOnly(Envelope):
    """A body that is the payload itself."""

    @property
    def path(self) -> str:
        return "$"


_decode = msgspec.json.Decoder(Envelope).decode


def unwrap(body: str | bytes, attributes: Mapping[str, Attribute], default_type: str, message_id: str) -> Envelope:
    """The envelope of a body. Raises Undecodable.

    A body `{"event_type", "event_id", "payload"}` speaks for itself. Any other is the payload of the type that the
    message attribute `event_type`, or else `default_type`, names.
    """
    try:
        envelope = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _bare(body, attributes, default_type, message_id, error)
    event_id = envelope.event_id
    if not isinstance(event_id, str) or not event_id:
        envelope.event_id = message_id if event_id in (None, "") else str(event_id)
    return envelope


def early_seconds(envelope: Envelope, received: Received, now: float) -> int:
    """Whole seconds until this message may be handled; 0: now. `now`: since the epoch.

    No message waits past 900 s after it was sent, whatever it says: that is the longest delay of a follow-up.
    """
    moment = number_within(bytes(envelope.not_before).decode("ascii", "replace"), 1, MAX_MOMENT_MS, 0) / 1000
    latest = (received.sent_ms / 1000 or now) + MAX_DELAY_SECONDS
    if not received.sent_ms and received.receive_count > 1:
        return 0
    return min(MAX_DELAY_SECONDS, whole_seconds(min(moment, latest) - now))


def _bare(
    body: str | bytes, attributes: Mapping[str, Attribute], default_type: str, message_id: str, error: Exception
) -> Envelope:
    named = attributes.get("event_type")
    event_type = str(named.value) if named is not None else default_type
    if not event_type:
        raise Undecodable(
            f"the message names no type: its body is not JSON with event_type and payload ({type(error).__name__}: "
            f"{error}); correct its sender, or set the message attribute event_type, or the queue's event_type"
        )
    try:
        return BodyOnly(event_type, msgspec.Raw(body.encode() if isinstance(body, str) else body), message_id)
    except UnicodeEncodeError as problem:  # lone surrogates: JSON can name them, UTF-8 cannot hold them
        raise Undecodable(f"the body is not Unicode text: {problem.reason} at {problem.start}") from None


def located(text: str, path: str) -> str:
    """A msgspec message with its path as seen from the body: `$.to[0]` -> `$.payload.to[0]`."""
    if "`$" in text:
        return text.replace("`$", f"`{path}", 1)
    return f"{text} - at `{path}`"
