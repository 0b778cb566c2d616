"""Opener: a body -> its envelope. Our own is looked for first; only what is none goes on to those of others."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from functools import partial

import msgspec

from millpond.app.envelope import OWN_ATTRIBUTE, Envelope, EnvelopeKind, Pointer, Undecodable, Unwrapped
from millpond.app.vendors import OPENERS, UNREADABLE_JSON, Parcel, fields_of, kind_of, pointer_in
from millpond.sqs.queue import Received

#: A body is opened this often at most: base64, SNS, a pointer into S3, SNS in that, and one more.
MAX_LAYERS = 5
_BYTE_ORDER_MARK = "\ufeff"
_MARKS = re.compile(b"(?:\xef\xbb\xbf)+")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")

_decode = msgspec.json.Decoder(Envelope).decode


class Opener:
    """Opens the bodies of one queue.

    1. A body `{"event_type", "event_id", "payload"}` speaks for itself.
    2. A pointer of the extended client is followed, to a body in S3.
    3. Where the message attribute `event_type`, or else `default_type`, names a type, any other body is its payload.
    4. SNS, EventBridge, S3 and CloudEvents are known by their marks; then what base64 hides is looked at.

    `kind` pins the envelope: no other is looked for then, and what does not fit is Undecodable. With "none" every body
    is the payload, but for what OWN_ATTRIBUTE marks.

    `follows`: some bucket may be read. Else a pointer is as any other body: where its type is named its handler follows
    it, as it did before we could.
    """

    def __init__(self, default_type: str = "", kind: EnvelopeKind = "auto", follows: bool = True) -> None:
        self._default_type = default_type
        self._kind = kind
        self._follows = follows
        #: The envelope of a message. Raises Undecodable.
        self.open: Callable[[Received], Envelope] = self._open_bare if kind == "none" else self._open

    def _open(self, received: Received) -> Envelope:
        try:
            envelope = _decode(received.body)
        except UNREADABLE_JSON as error:
            return self._open_foreign(self._parcel(received), error)
        event_id = envelope.event_id
        if not isinstance(event_id, str) or not event_id:
            envelope.event_id = received.message_id if event_id in (None, "") else str(event_id)
        return envelope

    def _open_bare(self, received: Received) -> Envelope:
        if OWN_ATTRIBUTE in received.attributes:
            return self._open(received)
        return self._open_text(self._parcel(received))

    def _parcel(self, received: Received) -> Parcel:
        return Parcel(received.body, received.message_id, received.attributes, self._kind)

    def _open_text(self, parcel: Parcel) -> Envelope:
        """The same for what stood in an envelope."""
        if parcel.layers > MAX_LAYERS:
            raise Undecodable(f"more than {MAX_LAYERS} envelopes stand around each other")
        if parcel.kind == "none":
            return self._pointer(parcel) or self._bare(parcel, None)
        try:
            own = _decode(parcel.text)
        except UNREADABLE_JSON as error:
            return self._open_foreign(parcel, error)
        event_id = parcel.event_id if own.event_id in (None, "") else str(own.event_id)
        place = f"{parcel.place}.payload"
        return Unwrapped(own.event_type, own.payload, event_id, own.not_before, place, parcel.attributes)

    def _open_foreign(self, parcel: Parcel, error: Exception) -> Envelope:
        """A body that is no envelope of our own: `error` says why."""
        if parcel.kind == "none":
            return self._pointer(parcel) or self._bare(parcel, error)
        if (text := _without_mark(parcel.text)) != parcel.text:
            return self._open_text(msgspec.structs.replace(parcel, text=text))
        if (pointer := self._pointer(parcel)) is not None:
            return pointer
        if parcel.kind == "auto" and self._type_named(parcel):
            return self._bare(parcel, error)
        fields = fields_of(parcel.text)
        kind = kind_of(fields) if parcel.kind == "auto" else parcel.kind
        if fields is not None and kind in OPENERS:
            found = OPENERS[kind](parcel, fields)
            return self._open_text(found) if isinstance(found, Parcel) else found
        if (hidden := _from_base64(parcel.text)) is not None:
            return self._open_text(parcel.within(hidden))
        if parcel.kind != "auto":
            raise Undecodable(
                f"the body is no envelope of {parcel.kind}, as its queue's `envelope` says: {_why(error)}"
            )
        if fields is not None and "event_type" in fields:
            raise Undecodable(f"the body is no complete envelope with event_type and payload: {error}")
        return self._bare(parcel, error)

    def _pointer(self, parcel: Parcel) -> Pointer | None:
        if not self._follows and parcel.kind in ("auto", "none") and self._type_named(parcel):
            return None
        found = pointer_in(parcel)
        if found is not None:
            found.opened = partial(self._open_fetched, parcel)
        return found

    def _open_fetched(self, parcel: Parcel, text: str | bytes) -> Envelope:
        return self._open_text(parcel.within(text))

    def _type_named(self, parcel: Parcel) -> str:
        named = parcel.attributes.get("event_type")
        return str(named.value) if named is not None else self._default_type

    def _bare(self, parcel: Parcel, error: Exception | None) -> Unwrapped:
        event_type = self._type_named(parcel)
        if not event_type:
            why = "" if error is None else f": its body is not JSON with event_type and payload ({_why(error)})"
            raise Undecodable(
                f"the message names no type{why}, nor is it from SNS, EventBridge, S3 or CloudEvents; "
                "correct its sender, or set the message attribute event_type, or the queue's event_type"
            )
        try:
            payload = parcel.raw
        except UnicodeEncodeError as problem:  # lone surrogates: JSON can name them, UTF-8 cannot hold them
            raise Undecodable(f"the body is not Unicode text: {problem.reason} at {problem.start}") from None
        return Unwrapped(event_type, payload, parcel.event_id, place=parcel.place, attributes=parcel.attributes)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _without_mark(text: str | bytes) -> str | bytes:
    if isinstance(text, str):
        return text.lstrip(_BYTE_ORDER_MARK)
    return text[found.end() :] if (found := _MARKS.match(text)) else text


def _from_base64(text: str | bytes) -> bytes | None:
    """What base64 in either alphabet hides, where it can be an envelope: JSON of an object or an array."""
    try:
        plain = text.encode("ascii") if isinstance(text, str) else text
        squeezed = plain.translate(_URL_SAFE, b" \t\r\n")
        found = base64.b64decode(squeezed + b"=" * (-len(squeezed) % 4), validate=True)
    except ValueError:
        return None
    return found if found.removeprefix(_BYTE_ORDER_MARK.encode()).lstrip()[:1] in (b"{", b"[") else None
