"""Lifeline: a way to SQS for a native thread while the hub is blocked, without a socket or a lock of gevent's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from millpond.errors import AccessDenied, QueueError
from millpond.sqs.clients import wire_sqs
from millpond.sqs.queue import Failure
from millpond.sqs.sigv4 import Keyring, Keys
from millpond.sqs.sqs_queue import Sqs
from millpond.sqs.wire import WireSqs


class FrozenKeys:
    """The keys that a greenlet handed over last: asking a provider takes locks and sockets that are the hub's."""

    def __init__(self, credentials: Keyring) -> None:
        self._credentials = credentials
        self._keys: Keys | None = None
        self._refused: Keys | None = None

    def hand_over(self) -> None:
        """Keep the keys as they are now; called in a greenlet. Where there are none, the last ones stay."""
        with suppress(QueueError):
            keys, refused = self._credentials.keys(), self._refused
            self._refused = None
            self._keys = keys if keys != refused else self._credentials.renew(keys)

    def keys(self, seconds: float = 0) -> Keys:
        """The keys of the last hand-over. Raises AccessDenied where there were none."""
        if self._keys is None:
            raise AccessDenied("no credentials yet")
        return self._keys

    def renew(self, refused: Keys, seconds: float = 0) -> Keys:
        """The same keys: the next hand-over brings others."""
        self._refused = refused
        return refused


class Rescue(NamedTuple):
    """How a native thread extends leases of one queue. `hand_over` is called in a greenlet, now and then."""

    change_visibility: Callable[[Sequence[tuple[str, int]]], list[Failure | None]]
    hand_over: Callable[[], object]


def rescue(sqs: Sqs, queue_url: str, region: str, endpoint_url: str) -> Rescue | None:
    """The rescue for one queue; None where a proxy is in the way, which needs boto3, and the hub."""
    wire = sqs if isinstance(sqs, WireSqs) else wire_sqs(queue_url, region, endpoint_url, connections=1)
    if wire is None:
        return None
    keys = FrozenKeys(sqs.credentials)
    own = WireSqs(wire.endpoint_url, wire.region, keys, wire.connections.for_thread())
    return Rescue(own.queue(queue_url).change_visibility, keys.hand_over)
