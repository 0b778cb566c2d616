"""Message (one delivery, as its handler sees it) and Outcome (how that delivery ended): values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

import msgspec

from millpond.foreign.secrets import Unshown
from millpond.foreign.spans import created
from millpond.foreign.text import shown
from millpond.foreign.trace_context import NO_TRACE, TraceContext
from millpond.sqs.limits import MAX_BYTES, MAX_DELAY_SECONDS

#: What `not_before` adds to a body at the most.
NOT_BEFORE_BYTES = len('"not_before":1234567890123,')

OutcomeName = Literal["succeeded", "retried", "dead_lettered", "discarded", "released", "lease_lost"]
Cause = Literal[
    "",
    "failed",
    "timed_out",
    "rejected",
    "undecodable",
    "unavailable",
    "too_fast",
    "waiting",
    "no_room",
    "no_thread",
    "claimed",
    "duplicate",
    "claim_lost",
    "test_event",
]


class FollowUp(Unshown, msgspec.Struct, frozen=True):
    """A new message that a handler leaves behind; it is sent before its original is deleted."""

    event_id: str
    body: str
    after_seconds: int = 0
    reject: str | None = None  # the reason, where it goes to the dead-letter queue
    trace: TraceContext = NO_TRACE

    def dedup_id(self, message_id: str) -> str:
        """For a FIFO queue: the same only where the same message leaves the same follow-up again.

        Its event_id is no such id: other messages may have it too, and another run may leave another follow-up.
        """
        return sha256(f"{message_id}\0{self.event_id}\0{self.body}".encode("utf-8", "surrogatepass")).hexdigest()


class Outcome(msgspec.Struct, frozen=True):
    """How one delivery ended. `delay_seconds` is the time until it is visible again (retried, released).

    `other_side`: it failed by what the handler needs (a server, the network), as far as can be seen.
    `asked_seconds`: the `after=` of Unavailable, TooFast or Wait, or a server's Retry-After.
    """

    name: OutcomeName
    cause: Cause = ""
    reason: str = ""
    error: str = ""
    delay_seconds: int = 0
    follow_ups: tuple[FollowUp, ...] = ()
    traceback: str = ""
    other_side: bool = False
    asked_seconds: float | None = None


class Message(Unshown, msgspec.Struct, eq=False):
    """One delivery of a message, as its handler sees it.

    `attempt` is ApproximateReceiveCount: it counts give-backs too, also where max_attempts goes by the true failures
    that claims count. `attributes` has the user attributes (str, or bytes for binary ones). `body` is the text as it
    came. `max_bytes` is what its queue takes of one message.
    """

    id: str
    event_id: str
    event_type: str
    queue: str
    body: str
    attempt: int = 1
    _sent_ms: int = 0
    _received_time: float = 0.0
    group_id: str = ""
    attributes: Mapping[str, str | bytes] = {}
    _left: Callable[[], float] = float
    max_bytes: int = MAX_BYTES
    _follow_ups: list[FollowUp] = []

    def __repr__(self) -> str:
        return shown(f"<Message {self.event_type} {self.event_id}, attempt {self.attempt} on {self.queue}>")

    @property
    def sent_at(self) -> datetime:
        """When the producer sent it (UTC)."""
        return datetime.fromtimestamp(self._sent_ms / 1000, UTC)

    @property
    def received_at(self) -> datetime:
        """When this worker received it (UTC)."""
        return datetime.fromtimestamp(self._received_time, UTC)

    @property
    def seconds_left(self) -> float:
        """Seconds until the handler's time limit; never negative."""
        return max(0.0, self._left())

    def follow_up(self, payload: Any, after: int = 0, reject: str | None = None) -> str:
        """Leave a new message of the same type behind, sent before this one is deleted. Returns its event_id.

        `after`: seconds until it is handled, 0 to 900; whole ones, rounded up. With `reject` it goes to the dead-letter
        queue with that reason. Raises ValueError for a longer delay and for a body of more than `max_bytes`, TypeError
        for a payload that is not JSON. Where the message is retried or given back, its follow-ups are forgotten: the
        next attempt makes them again. One that cannot be sent becomes a dead letter; this handler does not run again
        for it.
        """
        if not 0 <= after <= MAX_DELAY_SECONDS:
            raise ValueError(f"after={after}: SQS delays a message by 0 to {MAX_DELAY_SECONDS} seconds")
        event_id = f"{self.event_id}/{len(self._follow_ups) + 1}"
        body = envelope_text(self.event_type, event_id, payload)
        size = len(body.encode()) + (NOT_BEFORE_BYTES if after and self.group_id else 0)
        if size > self.max_bytes:
            raise ValueError(f"a follow-up of {size:,} bytes: its queue takes {self.max_bytes:,} (MaximumMessageSize)")
        # An exception is a natural reason to give; whatever it is, from here on it is a text of ours.
        reason = None if reject is None else shown(reject)
        trace = created(self.event_type, event_id)
        self._follow_ups.append(FollowUp(event_id, body, math.ceil(after), reason, trace))
        return event_id

    @property
    def follow_ups(self) -> tuple[FollowUp, ...]:
        """The follow-ups left behind so far."""
        return tuple(self._follow_ups)


#: What a message was made with as its body.
_content: Callable[[Message], Any] = vars(Message)["body"].__get__


class LargeMessage(Message):
    """A message whose body stays UTF-8, and is made a text each time that its handler asks for it."""

    @property  # type: ignore[misc]  # in the place of an attribute, which nobody writes
    def body(self) -> str:  # type: ignore[override]
        """The text as it came."""
        content: bytes = _content(self)
        return content.decode()


def envelope_text(event_type: str, event_id: str, payload: Any) -> str:
    """The body of a message as Millpond writes it. Raises TypeError for a payload that is not JSON."""
    text = msgspec.json.encode({"event_type": event_type, "event_id": event_id, "payload": payload}).decode()
    # The two characters that JSON leaves as they are and SQS does not take (InvalidMessageContents).
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def delayed(body: str, not_before_ms: int) -> str:
    """An envelope that is not to be handled before this moment (ms since the epoch): FIFO queues delay no message."""
    return f'{{"not_before":{not_before_ms},{body[1:]}'
