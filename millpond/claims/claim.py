"""A claim: the right to run one event once. What a store answers and promises, and what its records mean."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from enum import Enum
from typing import Literal, NamedTuple, Protocol

import msgspec

#: How far the clocks of two workers may be apart: only this long after its lease ended is a claim another worker's. NTP
#: keeps a clock within milliseconds, and one that nobody corrects drifts about 4 s a day. Each second here is one that
#: the messages of a worker that died wait longer. Clocks that are further apart let two workers run one event at the
#: same time, but never let the first one write what the second one's record says: that goes by the token alone.
CLOCK_MARGIN_SECONDS = 5.0
#: A longer key is hashed: a record of at most 1 KiB costs one write unit of DynamoDB, and the key is the longest part.
MAX_KEY_BYTES = 512
#: Characters of the type that stay readable in a key that is hashed.
SHOWN_TYPE = 64


class Claimed(msgspec.Struct, frozen=True):
    """The event is ours to run. `failures`: how often it has truly failed so far; a give-back is none."""

    failures: int


class Done(msgspec.Struct, frozen=True):
    """The event was completed, `at` (epoch seconds): this delivery is a duplicate."""

    at: float


class Busy(msgspec.Struct, frozen=True):
    """Another delivery has the claim. `until` (epoch seconds): then it ends, unless its owner renews it."""

    until: float


class Differs(msgspec.Struct, frozen=True):
    """The event id was used before, with another payload."""


Answer = Claimed | Done | Busy | Differs


class ClaimRecord(msgspec.Struct, frozen=True):
    """What a store keeps of one event. Times are epoch seconds; `lease_until` is 0 where the claim was released."""

    token: str
    digest: str
    lease_until: float
    expires: float
    failures: int = 0
    done_at: float | None = None


class ClaimState(Enum):
    """What a record means at one moment.

    | state    | what it is                                 | claim of the same payload | its token's renew, complete |
    |----------|--------------------------------------------|---------------------------|-----------------------------|
    | FREE     | there is no record, or it has expired      | Claimed(0)                | refused                     |
    | HELD     | in progress, under its owner's lease       | Busy                      | done                        |
    | LAPSED   | in progress, the lease over: the owner died| Claimed(failures)         | done, until another claims  |
    | RELEASED | failed or given back                       | Claimed(failures)         | refused                     |
    | DONE     | completed                                  | Done                      | refused (complete: done)    |
    """

    FREE = "free"
    HELD = "held"
    LAPSED = "lapsed"
    RELEASED = "released"
    DONE = "done"


class TableFinding(NamedTuple):
    """What a look at a store has found. With an `error` no idempotent handler can run; `may_pass`: for now."""

    level: Literal["ok", "note", "warning", "error"]
    text: str
    may_pass: bool = False


class ClaimStore(Protocol):
    """Where claims are kept. Each write is one step at the store, and happens as a whole or not at all.

    `token` names one owner; `now` and `lease_until` are epoch seconds. A write that returns False has written nothing:
    the record is no longer this token's. Every call raises ClaimStoreError where the store fails: the write may then
    have happened, and can be made again with the same token.
    """

    def claim(self, key: str, token: str, digest: str, lease_until: float, now: float) -> Answer:
        """Take the claim until `lease_until`, where nobody has it and the event is not done."""
        ...

    def renew(self, key: str, token: str, lease_until: float, now: float) -> bool:
        """Keep the claim until `lease_until`, at the least: a renewal that was late on its way makes none shorter."""
        ...

    def complete(self, key: str, token: str, now: float) -> bool:
        """Mark the event done, for as long as the store keeps records."""
        ...

    def release(self, key: str, token: str, failures: int | None, now: float) -> bool:
        """Give the claim up, and keep the number of failures for the next one; None: forget the event."""
        ...

    def read(self, key: str) -> ClaimRecord | None:
        """The record as it stands, expired or not."""
        ...

    def remove(self, key: str, token: str) -> bool:
        """Delete the record of this token, whatever its state: for people."""
        ...

    def check(self) -> Sequence[TableFinding]:
        """Look whether the store can do all this; nothing is written, and nothing raised."""
        ...


def new_token() -> str:
    """A token that nobody else has."""
    return os.urandom(16).hex()


def digest_of(payload: bytes | msgspec.Raw) -> str:
    """What tells one payload from another: its SHA-256."""
    return hashlib.sha256(payload).hexdigest()


def key_of(event_type: str, event_id: str) -> str:
    """The key of one event, "<type> <event_id>"; no two events have the same one.

    A space in the type is escaped, since the first one ends it. A long key is hashed.
    """
    kind = event_type.replace("%", "%25").replace(" ", "%20")
    key = f"{kind} {event_id}"
    # surrogatepass: an id from a JSON \ud800, which no store could hold as it is.
    encoded = key.encode("utf-8", "surrogatepass")
    if len(encoded) <= MAX_KEY_BYTES and key.isprintable():
        return key
    shown = "".join(character if character.isprintable() else "?" for character in kind[:SHOWN_TYPE])
    return f"{shown} sha256:{hashlib.sha256(encoded).hexdigest()}"


def expiry_of(lease_until: float, expires_seconds: float, now: float) -> float:
    """When a record expires that is written now: never before the lease in it is over, with the margin."""
    return max(now, lease_until) + max(expires_seconds, 2 * CLOCK_MARGIN_SECONDS)


def state_of(record: ClaimRecord | None, now: float) -> ClaimState:
    """What the record means now."""
    if record is None or record.expires <= now:
        return ClaimState.FREE
    if record.done_at is not None:
        return ClaimState.DONE
    if not record.lease_until:
        return ClaimState.RELEASED
    return ClaimState.LAPSED if record.lease_until + CLOCK_MARGIN_SECONDS < now else ClaimState.HELD


def standing(record: ClaimRecord | None, token: str, digest: str, now: float) -> Answer | None:
    """The answer to a claim for which this record stands in the way; None: nothing does, the claim is to be written.

    One's own token in progress is one's own write, whose answer was lost.
    """
    state = state_of(record, now)
    if record is None or state is ClaimState.FREE:
        return None
    if record.digest != digest:
        return Differs()
    if record.done_at is not None:
        return Done(record.done_at)
    if state is not ClaimState.HELD:
        return None
    if record.token == token:
        return Claimed(record.failures)
    return Busy(record.lease_until + CLOCK_MARGIN_SECONDS)


def may_renew(record: ClaimRecord | None, token: str, now: float) -> bool:
    """Whether this token's claim is in progress: its lease may be over, as long as nobody else has claimed it."""
    return _is_owner(record, token) and state_of(record, now) in (ClaimState.HELD, ClaimState.LAPSED)


def may_complete(record: ClaimRecord | None, token: str, now: float) -> bool:
    """Whether this token's claim can be marked done; again, where the answer to the first write was lost."""
    return may_renew(record, token, now) or (_is_owner(record, token) and state_of(record, now) is ClaimState.DONE)


def may_release(record: ClaimRecord | None, token: str, now: float) -> bool:
    """Whether this token's claim can be given up; again, where the answer to the first write was lost."""
    open_states = (ClaimState.HELD, ClaimState.LAPSED, ClaimState.RELEASED)
    return _is_owner(record, token) and state_of(record, now) in open_states


def is_given_up(record: ClaimRecord | None, token: str) -> bool:
    """Whether this token's claim was given up already: asked again where the answer to that write was lost."""
    return record is not None and record.token == token and not record.lease_until


def _is_owner(record: ClaimRecord | None, token: str) -> bool:
    return record is not None and record.token == token
