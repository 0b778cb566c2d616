"""`--demo N`: sample e-mails for the local queue, and the table of what became of them."""

from __future__ import annotations

import logging
import time
from uuid import uuid4

import gevent

from millpond.app import discovery
from millpond.app.config import AllSettings
from millpond.commands import sample_mails
from millpond.commands.send import send_all
from millpond.engine.books import Books
from millpond.errors import ConfigError
from millpond.message import envelope_text
from millpond.observe import log, screen
from millpond.process.service import Service
from millpond.sqs.queue import Entry

EVENT_TYPE = "email.send"
#: Outcomes after which a message does not come back.
FINAL = ("succeeded", "discarded", "dead_lettered")
#: Put in this many, then look whether the worker is to stop.
BATCH_OF_ORDERS = 500


class Demo:
    """Puts sample e-mails into a worker's own queue. Raises ConfigError where they have no place there."""

    def __init__(self, settings: AllSettings, number: int) -> None:
        local = [name for name, queue in settings.queues.items() if queue.is_local]
        if not local:
            text = 'sample e-mails go into the local queue only: url = "local" (SQS_QUEUE_URL unset)'
            raise ConfigError(f"--demo {number}: {text}")
        handlers = discovery.handlers_of(settings)
        if EVENT_TYPE not in handlers.routes:
            raise ConfigError(f"--demo {number}: [worker] handlers has no handler for {EVENT_TYPE}")
        self._number = number
        self._queue = local[0]
        self._where = _where_mails_go(settings)
        self._started = self._ended = 0.0

    def put(self, service: Service) -> None:
        """Put the e-mails into the service's own queue, which is up, and not yet received from."""
        consumer = next((one for one in service.consumers if one.name == self._queue), None)
        if consumer is None:
            return  # a signal has ended the boot
        run, sent = uuid4().hex[:8], 0
        with screen.progress("sample e-mails", self._number) as advance:
            for first in range(0, self._number, BATCH_OF_ORDERS):
                if service.core.stopping:
                    break
                numbers = range(first, min(first + BATCH_OF_ORDERS, self._number))
                for _, failure in send_all(consumer.queue, [_entry(run, number) for number in numbers]):
                    sent += failure is None
                    advance(1)
        text = f"{screen.counted(sent, 'sample e-mail')} sent; they go to {self._where}"
        log.event(logging.INFO, "demo.sent", text, queue=self._queue)
        self._started = time.monotonic()
        gevent.spawn(self._watch, consumer.books)

    def print_table(self, service: Service) -> None:
        """Print what became of the e-mails."""
        seconds = (self._ended or time.monotonic()) - self._started
        for consumer in service.consumers:
            if consumer.name != self._queue or not self._started:
                continue
            done = _done(consumer.books)
            rows = [[name, f"{number:,}"] for name, number in consumer.books.outcomes.items()]
            rows += [["messages per second", f"{done / seconds:,.0f}"], ["mails", self._where]]
            screen.table(["e-mails", ""], rows)

    def _watch(self, books: Books) -> None:
        while _done(books) < self._number:
            gevent.sleep(0.005)
        self._ended = time.monotonic()


def _done(books: Books) -> int:
    return sum(books.outcomes[name] for name in FINAL)


def _entry(run: str, number: int) -> Entry:
    return Entry(envelope_text(EVENT_TYPE, f"demo-{run}-{number + 1}", sample_mails.payload(number)))


def _where_mails_go(settings: AllSettings) -> str:
    table = settings.handlers.get("email", {})
    host, transport = table.get("host", ""), table.get("transport", "auto")
    if transport == "smtp" or (transport == "auto" and host):
        return f"the mail server {host}"
    return f"the folder {table.get('outbox', 'outbox')}"
