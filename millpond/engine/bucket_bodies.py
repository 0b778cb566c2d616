"""BucketBodies: bodies in S3 are fetched for messages that have only a pointer to them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from millpond.app.config import RetrySettings
from millpond.app.envelope import Pointer
from millpond.app.large_body_settings import LargeBodySettings
from millpond.app.routing import Route
from millpond.engine.delivery import Delivery
from millpond.engine.desk import Desk
from millpond.engine.gate import Gate
from millpond.engine.large_body import unlisted
from millpond.engine.outcomes import LEASE_LOST, RELEASED, unavailable, undecodable
from millpond.errors import MillpondError
from millpond.foreign.text import shown
from millpond.hub.clock import Clock
from millpond.hub.countdown import Countdown, Time
from millpond.large_bodies.body_store import BodyDenied, BodyGone, BodyStore, BodyStoreError, BodyUnreadable
from millpond.message import Outcome

#: A body waits this long in its slot until there is memory for it, and is looked for again after another while.
ROOM_SECONDS, ROOM_LOOK_SECONDS = 5.0, 0.05
NO_ROOM = Outcome("retried", "waiting", "the messages in hand leave no memory for its body yet", delay_seconds=2)
#: A body that is refused this often, while others of its bucket are read in between, is refused for its own sake.
MAX_DENIALS = 3
#: Messages of which the refusals are remembered.
MAX_DENIED = 1_000


class BucketBodies:
    """Fulfils LargeBodies for the buckets on the list.

    1. Each bucket has a gate, as a message type has one: where it cannot be read, its messages wait in hand, and one of
       them is the probe. So an outage, or a right that is missing, uses up neither attempts nor receives.
    2. Bodies in hand count in max_bytes_in_flight: one that does not fit waits until others are done.
    3. Gone, archived, too large, or in another bucket: it never fits, and its message is a dead letter.
    """

    def __init__(self, settings: LargeBodySettings, store: BodyStore, time: Time, clock: Clock) -> None:
        self._max_bytes = settings.max_bytes
        self._store = store
        self._clock = clock
        self._buckets = {name: _Bucket(_desk(name, time, clock)) for name in settings.names}
        self._denied: dict[str, _Denials] = {}  # by message id

    def fetch(self, delivery: Delivery, pointer: Pointer) -> bytes | Outcome:
        bucket = self._buckets.get(pointer.bucket)
        if bucket is None:
            return unlisted(pointer)
        if not _is_key(pointer.key):
            return undecodable(f"the body is in S3, and {shown(pointer.key)!r} is no key that can be asked for")
        delivery.desk, gate = bucket.desk, bucket.desk.gate
        if gate.watches and (outcome := gate.admit(delivery)) is not None:
            return outcome
        room = _Room(delivery, self._max_bytes, self._clock)
        delivery.is_asking = True
        found = self._get(bucket, delivery, pointer, room)
        if not delivery.stop_asking():
            found = RELEASED
        elif delivery.lease.is_lost(self._clock.now()):
            found = LEASE_LOST
        if isinstance(found, Outcome):
            room.leave()
        else:
            room.keep()
            delivery.bodies = (*delivery.bodies, pointer)
        return found

    def _get(self, bucket: _Bucket, delivery: Delivery, pointer: Pointer, room: _Room) -> bytes | Outcome:
        where = f"{pointer.bucket}/{shown(pointer.key)}"
        try:
            found: bytes | Outcome = self._store.get(pointer.bucket, pointer.key, room.take)
        except BodyGone:
            found = undecodable(f"the body is not in S3 any more: {where}")
        except BodyUnreadable as error:
            found = undecodable(f"{error}: {where}")
        except _TooLarge as error:
            allowed = f"[large_bodies] max_bytes = {self._max_bytes:,}"
            found = undecodable(f"the body in S3 is too large, {error.size:,} bytes ({allowed}): {where}")
        except _NoRoom:
            return NO_ROOM
        except BodyStoreError as error:
            if not (isinstance(error, BodyDenied) and self._is_denied_alone(bucket, delivery)):
                return unavailable(str(error))
            text = "S3 refuses it, while it gives others of its bucket: it may be gone (S3 says so only with the right"
            found = undecodable(f"{text} s3:ListBucket), or have rights of its own: {where}")
        else:
            bucket.read += 1
        self._denied.pop(delivery.received.message_id, None)
        bucket.desk.gate.succeeded(delivery)  # S3 has answered
        return found

    def _is_denied_alone(self, bucket: _Bucket, delivery: Delivery) -> bool:
        key = delivery.received.message_id
        before = self._denied.pop(key, NEVER_DENIED)
        times = before.times + (bucket.read > before.read)
        if times >= MAX_DENIALS:
            return True
        while len(self._denied) >= MAX_DENIED:
            del self._denied[next(iter(self._denied))]
        self._denied[key] = _Denials(times, bucket.read)
        return False


class _Denials(NamedTuple):
    """How often a body was refused, each time after others were read; and how many had been read by the last one."""

    times: int
    read: int


NEVER_DENIED = _Denials(0, 0)


class _Bucket:
    """`read`: how many bodies came from it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.read = 0


class _TooLarge(MillpondError):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class _NoRoom(MillpondError):
    pass


class _Room:
    """The memory of one body: taken before it is read, and given back where it does not come, or with its message."""

    def __init__(self, delivery: Delivery, max_bytes: int, clock: Clock) -> None:
        self._delivery = delivery
        self._max_bytes = max_bytes
        self._clock = clock
        self._size = 0

    def take(self, size: int) -> None:
        if size > self._max_bytes:
            raise _TooLarge(size)
        until = self._clock.now() + ROOM_SECONDS
        while not self._delivery.owner.take_bytes(size):
            if self._clock.now() >= until:
                raise _NoRoom
            self._clock.sleep(ROOM_LOOK_SECONDS)
        self._size = size

    def leave(self) -> None:
        if self._size:
            self._delivery.owner.leave_bytes(self._size)

    def keep(self) -> None:
        """From now on it counts as a part of its message."""
        received = self._delivery.received
        self._delivery.received = msgspec.structs.replace(received, size=received.size + self._size)


def _desk(bucket: str, time: Time, clock: Clock) -> Desk:
    """Where the messages wait that have their bodies in this bucket. No handler stands behind it."""
    route = Route(f"bodies in {bucket}", "", bytes, print)
    limit = Countdown(route.timeout_seconds, Delivery.exceed_limit, time)
    return Desk(route, limit, RetrySettings(), Gate(route, clock))


def _is_key(key: str) -> bool:
    """Whether a URL can have it: dots for a name would lead out of the bucket on the way, in a client or a proxy."""
    return bool(key) and not {".", ".."} & {*key.split("/")}
