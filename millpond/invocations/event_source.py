"""EventSource: one queue of the settings, whose messages an event source mapping brings."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from millpond.app.config import AllSettings
from millpond.engine.books import Books
from millpond.engine.in_hand import Seen
from millpond.hub.clock import Clock
from millpond.process.attribute_lookup import Learner
from millpond.process.wiring import connect_queue, named_dead_letters
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.queue_url import place_of
from millpond.sqs.sqs_queue import SqsQueue


class EventSource(Learner):
    """What is known of the queue for as long as the function lives, and what each invocation begins with."""

    def __init__(self, name: str, settings: AllSettings, books: Books, clock: Clock) -> None:
        self.name = name
        self.settings = settings.queues[name]
        self.url = self.settings.url
        self.max_bytes_in_flight = settings.worker.max_bytes_in_flight
        self.sqs = connect_queue(settings, name, self.url)
        self.books = books
        self.clock = clock
        self.seen: dict[str, Seen] = {}  # how earlier receives ended: see InHand
        self.max_receive_count = 0
        self.max_bytes = MAX_BYTES
        self._dead_letters = named_dead_letters(settings, name)

    def is_named_by(self, arn: str) -> bool:
        """Whether this is the queue of an ARN: its region counts where the URL has one."""
        parts = arn.split(":")
        if len(parts) != 6:
            return False
        _, _, _, region, account, name = parts
        where = place_of(self.url).region
        path = [part for part in urlsplit(self.url).path.split("/") if part]
        return path[-2:] == [account, name] and where in ("", region)

    @property
    def queue(self) -> SqsQueue:
        """The queue itself, anew: a limit of its calls is one invocation's."""
        return self.sqs.queue(self.url)

    @property
    def dead_letters(self) -> SqsQueue | None:
        """The same of the dead-letter queue."""
        letters = self._dead_letters
        return letters.sqs.queue(letters.url) if letters is not None else None

    # What SQS says of the queue

    @property
    def has_dead_letters(self) -> bool:
        return self._dead_letters is not None

    def learn(self, max_receive_count: int, max_bytes: int) -> None:
        self.max_receive_count, self.max_bytes = max_receive_count, max_bytes

    def send_dead_letters_to(self, dead_letters: SqsQueue) -> None:
        self._dead_letters = dead_letters


def named_by(arn: str, sources: Mapping[str, EventSource]) -> EventSource | None:
    """The source of an ARN; where there is no ARN, the only one. None: there is none."""
    if not arn:
        return next(iter(sources.values())) if len(sources) == 1 else None
    return next((source for source in sources.values() if source.is_named_by(arn)), None)
