"""The receive of a dead-letter queue: as a worker's, but with all that SQS knows, which the engine does not need."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import msgspec

from millpond.app.opener import Opener
from millpond.dead_letters.letter import Letter, letter_of
from millpond.dead_letters.turns import PAUSE_SECONDS, taking_turns
from millpond.sqs import answers, requests
from millpond.sqs.queue import POLL_GRACE_SECONDS
from millpond.sqs.sqs_queue import SqsQueue


class KnownMessage(msgspec.Struct, rename="pascal"):
    """What SQS knows of a message, as it comes: of any type where another server than SQS has written it."""

    message_id: Any = ""
    attributes: Any = None


class KnownMessages(msgspec.Struct, rename="pascal"):
    messages: list[KnownMessage] | None = None


def receive_letters(
    queue: SqsQueue, most: int, wait_seconds: int, visibility_seconds: int, opener: Opener
) -> list[Letter]:
    """At most this many letters, up to ten. Raises QueueError."""
    request = requests.receive(queue.url, most, wait_seconds, visibility_seconds, "")
    request = request | {"MessageSystemAttributeNames": ["All"], "AttributeNames": ["All"]}
    seconds = wait_seconds + POLL_GRACE_SECONDS
    return queue.sqs.call("ReceiveMessage", request, seconds, partial(_read, opener))


def _read(opener: Opener, body: bytes | bytearray) -> list[Letter]:
    known = _known(body)
    if len(body) > answers.LONG_BYTES:  # it takes 20 ms, and what follows takes 50
        time.sleep(PAUSE_SECONDS)
    return [letter_of(one, known.get(one.message_id, {}), opener) for one in taking_turns(answers.read_messages(body))]


def _known(body: bytes | bytearray) -> dict[str, dict[str, Any]]:
    try:
        messages = msgspec.json.decode(body, type=KnownMessages).messages or ()
    except (ValueError, RecursionError):
        return {}
    return {
        one.message_id: one.attributes
        for one in messages
        if isinstance(one.message_id, str) and isinstance(one.attributes, dict)
    }
