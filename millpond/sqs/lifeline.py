"""Lifeline: a way to SQS for a native thread while the hub stands still. Nothing in it is gevent's, no lock shared."""

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
    """The keys that the hub has handed over last: to ask a provider takes locks and sockets that are the hub's."""

    def __init__(self, credentials: Keyring) -> None:
        self._credentials = credentials
        self._keys: Keys | None = None
        self._refused: Keys | None = None

    def hand_over(self) -> None:
        """In a greenlet: the keys as they are now. Where there are none, those of last time stay."""
        with suppress(QueueError):
            keys, refused = self._credentials.keys(), self._refused
            self._refused = None
            self._keys = keys if keys != refused else self._credentials.renew(keys)

    def keys(self, seconds: float = 0) -> Keys:
        """Raises AccessDenied where the hub never had any."""
        if self._keys is None:
            raise AccessDenied("no credentials yet")
        return self._keys

    def renew(self, refused: Keys, seconds: float = 0) -> Keys:
        """The same ones: fresh ones come with the next hand-over."""
        self._refused = refused
        return refused


class Rescue(NamedTuple):
    """How a native thread extends leases of one queue; `hand_over` is called in a greenlet, now and then."""

    extend: Callable[[Sequence[tuple[str, int]]], list[Failure | None]]
    hand_over: Callable[[], object]


def rescue(sqs: Sqs, queue_url: str, region: str, endpoint_url: str) -> Rescue | None:
    """For a queue of `sqs`; None where it is reached by a proxy, to which no thread here can speak."""
    wire = sqs if isinstance(sqs, WireSqs) else wire_sqs(queue_url, region, endpoint_url, connections=1)
    if wire is None:
        return None
    keys = FrozenKeys(sqs.credentials)
    own = WireSqs(wire.endpoint_url, wire.region, keys, wire.connections.for_thread())
    return Rescue(own.queue(queue_url).extend, keys.hand_over)
