"""The dead letters that a command line of `worker.py dlq` names."""

from __future__ import annotations

from argparse import Namespace

from millpond.app.config import AllSettings
from millpond.app.opener import Opener
from millpond.commands.send import connect_queue
from millpond.dead_letters.dead_letter_queue import DeadLetterQueue, dead_letters_of
from millpond.dead_letters.sweep import Stop
from millpond.errors import ConfigError
from millpond.foreign.nearest import did_you_mean
from millpond.sqs.sqs_queue import SqsQueue


class DlqCommand:
    """One queue's dead letters, and what the command line says beside that."""

    def __init__(self, settings: AllSettings, options: Namespace, name: str, stop: Stop) -> None:
        self.name = name
        self.settings, self.options, self.stop = settings, options, stop
        own = settings.queues[name]
        queue = connect_queue(settings, name)
        url = own.dead_letter_url
        dead = self._queue_at(url) if url else dead_letters_of(queue)
        self.opener = Opener(own.event_type, own.envelope)
        sources = {name: queue} | {one: connect_queue(settings, one) for one in settings.queues if one != name}
        self.letters = DeadLetterQueue(dead, sources, self.opener, force=options.force, stop=stop)

    def _queue_at(self, url: str) -> SqsQueue:
        return self.settings.sqs.connect(url, wait_seconds=1, polls=1, settles=1).queue(url)

    def destination(self) -> SqsQueue | None:
        """The queue of --to; None where it is not given. Raises ConfigError."""
        if not (to := self.options.to):
            return None
        if to in self.settings.queues:
            return connect_queue(self.settings, to)
        if "://" not in to:
            text = f"--to {to}: no such queue, and no URL of one; {did_you_mean(to, self.settings.queues)}"
            raise ConfigError(text)
        return self._queue_at(to)
