"""Invocations in this process: real SQS calls to a local queue, on the real clock, in tenths of a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from millpond.app.config import load
from millpond.app.routing import Route
from millpond.claims.memory import MemoryClaims
from millpond.engine.books import Books
from millpond.engine.claiming import Claiming
from millpond.engine.processor import Processor
from millpond.hub.clock import SystemClock
from millpond.invocations.event_source import EventSource
from millpond.invocations.invocation import Invocation
from millpond.local import LocalSqs
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.sqs.queue import Entry, Received

DEAD = "arn:aws:sqs:us-east-1:000000000000:{}"


class Batches:
    """One function: its queue, its handlers, and one invocation after another.

    `done` has the numbers of the messages that the last one has done; the payload of a message is its number.
    """

    def __init__(
        self,
        server: LocalSqs,
        folder: Path,
        handlers: dict[str, Callable[..., object]],
        *,
        fifo: bool = False,
        max_receive_count: int = 17,
        concurrency: int = 100,
        options: dict[str, Any] | None = None,
        idempotent: bool = False,
        takes_message: bool = False,
    ) -> None:
        self.clock = SystemClock()
        name = f"q{'.fifo' if fifo else ''}"
        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if fifo else {}
        dead = server.create_queue(f"dead-{name}", attributes)
        policy = {"deadLetterTargetArn": DEAD.format(f"dead-{name}"), "maxReceiveCount": max_receive_count}
        url = server.create_queue(name, {**attributes, "RedrivePolicy": json.dumps(policy)})
        config = folder / "config.toml"
        config.write_text(f'[queues.q]\nurl = "{url}"\nconcurrency = {concurrency}\n')
        self.settings = load(config, {"AWS_REGION": "us-east-1"})
        routes = {
            name: Route(
                name,
                f"tests.{name}",
                msgspec.json.decode,
                function,
                takes_message=takes_message,
                idempotent=idempotent,
                **(options or {}),
            )
            for name, function in handlers.items()
        }
        store = MemoryClaims(60) if idempotent else None
        claiming = Claiming(store, self.clock) if store is not None else None
        self.processor = Processor(routes, self.settings.retry, self.clock, 4, claiming, self.clock)
        self.books = Books("q", routes, Metrics(), log.Allowance(0), self.clock)
        self.source = EventSource("q", self.settings, self.books, self.clock)
        self.source.learn(max_receive_count, 1_048_576)
        self.dead = self.source.sqs.queue(dead)
        self.source.send_dead_letters_to(self.dead)
        self.queue = self.source.queue
        self.invocation: Invocation
        self.batch: list[Received] = []
        self.done: set[int] = set()

    def put(self, *types: str, groups: str = "") -> None:
        for n, event_type in enumerate(types):
            body = json.dumps({"event_type": event_type, "event_id": f"e{n}", "payload": n})
            group = {"group_id": groups[n], "dedup_id": f"{n}"} if groups else {}
            assert self.queue.send([Entry(body, **group)]) == [None]

    def receive(self) -> list[Received]:
        return self.queue.receive(10, 0, 60)

    def make(self, seconds: float) -> Invocation:
        """The next invocation, of what is visible now."""
        self.batch = self.receive()
        size = self.source.settings.concurrency
        self.invocation = Invocation(self.source, self.processor, self.batch, size, seconds)
        self.clock.on_error = self.invocation.crash
        return self.invocation

    def run(self, *types: str, groups: str = "", seconds: float = 20.0) -> set[int]:
        """One invocation with these messages, and whatever else is visible."""
        self.put(*types, groups=groups)
        done = self.make(seconds).run()
        self.done = {number_of(one) for one in self.batch if one.message_id in done}
        return self.done

    def visible(self) -> list[int]:
        """What is visible now, once Lambda has deleted what is done; it is received by this."""
        if handles := [one.receipt_handle for one in self.batch if number_of(one) in self.done]:
            assert self.queue.delete(handles) == [None] * len(handles)
        return sorted(number_of(one) for one in self.receive())

    def reasons(self) -> list[str]:
        """Of the dead letters."""
        letters = self.dead.receive(10, 0, 60)
        return sorted(json.loads(str(one.attributes["millpond"].value))["reason"] for one in letters)


def number_of(received: Received) -> int:
    return int(json.loads(received.body)["payload"])
