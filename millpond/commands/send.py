"""`worker.py send`: messages into a queue, from the command line."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import msgspec
from gevent.pool import Pool

from millpond.app.config import AllSettings, QueueSettings
from millpond.app.envelope import marks_of
from millpond.commands.send_note import note_on
from millpond.errors import FINISHED, LEFT, AccessDenied, ConfigError, QueueError, QueueMissing, Unreachable
from millpond.foreign.nearest import did_you_mean
from millpond.foreign.text import shown
from millpond.local.attributes import ACCOUNT_ID
from millpond.message import envelope_text
from millpond.observe import screen
from millpond.sqs.credentials_advice import with_advice
from millpond.sqs.entries import batches, results_of
from millpond.sqs.limits import MAX_ATTRIBUTES, MAX_BYTES, MAX_DELAY_SECONDS
from millpond.sqs.queue import Attribute, Entry, Failure, Queue, dedup_id_of
from millpond.sqs.sqs_queue import SqsQueue

#: Calls at once: 10,000 messages at 20 ms a call take 3 s instead of 20.
SENDERS = 8
#: A program that listens on this machine takes a connection at once.
LISTENER_SECONDS = 1.0
#: What SQS refuses in a body.
NOT_IN_A_BODY = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
#: Failed messages that are named one by one.
MAX_NAMED_FAILURES = 10


def run(settings: AllSettings, options: Namespace) -> int:
    """Send what the command line says; return the exit code. Raises ConfigError where nothing can be sent at all."""
    name = queue_name(settings, options.queue)
    ids = [uuid4().hex for _ in range(options.count)]
    entries = _entries(options, ids, settings.queues[name])
    results: dict[int, Failure | None] = {}
    why = ""
    try:
        with screen.progress(f"to {name}", len(entries)) as advance:
            for index, failure in _send(settings, name, entries):
                results[index] = failure
                advance(1)
    except KeyboardInterrupt:
        why = ": interrupted"
    except QueueError as error:
        why = f": {shown(error)}"
    names = [f"body {index + 1}" if options.raw else f"event_id {one}" for index, one in enumerate(ids)]
    code = _print_results(f"{options.type} sent to {name}", names, results, why)
    if not options.raw and (note := note_on(options.type, connect_queue(settings, name).url)):
        print(note, file=sys.stderr)
    return code


def _print_results(what: str, names: Sequence[str], results: Mapping[int, Failure | None], why: str) -> int:
    """Print what became of each message; return the exit code. `why`: what ended the sending before its end."""
    sent = sorted(index for index, failure in results.items() if failure is None)
    if sent:
        count = "" if len(names) == 1 else f"{screen.counted(len(sent), 'message')}, the first with "
        print(f"{shown(what)}: {count}{names[sent[0]]}", flush=True)
    failed = sorted((index, failure) for index, failure in results.items() if failure is not None)
    for index, failure in failed[:MAX_NAMED_FAILURES]:
        print(f"not sent: {names[index]}: {shown(f'{failure.code}: {failure.text}')}", file=sys.stderr)
    if left := len(names) - len(sent):
        print(f"{left} of {len(names)} {'was' if left == 1 else 'were'} not sent{why}", file=sys.stderr)
    return LEFT if left else FINISHED


def send_all(queue: Queue, entries: Sequence[Entry]) -> Iterator[tuple[int, Failure | None]]:
    """Send many entries, ten to a call, and yield what became of each, by its index; None: it was sent.

    Raises QueueError where the first call fails: none is sent then.
    """

    def send(indexes: Sequence[int]) -> list[tuple[int, Failure | None]]:
        batch = [entries[index] for index in indexes]
        return list(zip(indexes, results_of(queue.send, batch), strict=True))

    first, *rest = batches(entries)
    yield from zip(first, queue.send([entries[index] for index in first]), strict=True)
    for results in Pool(SENDERS).imap_unordered(send, rest):
        yield from results


def read_text(name: str, text: str) -> str:
    """The text itself, that of @file, or for - of standard input. Raises ConfigError, which names it so."""
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        elif text.startswith("@"):
            text = Path(text[1:]).read_bytes().decode("utf-8-sig")
        text.encode()
    except OSError as error:
        raise ConfigError(f"{name} {text}: cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise ConfigError(f"{name} is not UTF-8") from None
    return text


def read_payload(text: str) -> str:
    """PAYLOAD -> JSON, as it was written: the text itself, @file, or - for standard input. Raises ConfigError."""
    text = read_text("PAYLOAD", text)
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ConfigError("PAYLOAD is nested too deeply") from None
    except ValueError as error:
        hint = "" if text.startswith(("{", "[")) and '"' in text else """; in a shell: '{"number": "A-1"}'"""
        raise ConfigError(f"PAYLOAD is not valid JSON: {error}{hint}") from None
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _entries(options: Namespace, ids: Sequence[str], queue: QueueSettings) -> list[Entry]:
    fifo = queue.is_fifo
    if not options.type.strip():
        raise ConfigError("TYPE is empty: give the type of the message, such as email.send")
    if fifo and not options.group:
        raise ConfigError("a FIFO queue needs --group ID: messages of one group are handled one after another")
    if fifo and options.delay:
        raise ConfigError(f"--delay {options.delay}: a FIFO queue delays no single message")
    if not 0 <= options.delay <= MAX_DELAY_SECONDS:
        text = f"--delay {options.delay}: SQS delays a message by 0 to {MAX_DELAY_SECONDS} seconds"
        raise ConfigError(f"{text}; EventBridge Scheduler sends to a queue at any later time")
    attributes = {**_attributes(options.attribute), **({} if options.raw else marks_of(queue.envelope))}
    dedup_ids = [dedup_id_of(event_id) if fifo else "" for event_id in ids]
    bodies = _bodies(options, ids)
    entries = [
        Entry(body, options.delay, options.group, attributes=attributes, dedup_id=dedup_id)
        for body, dedup_id in zip(bodies, dedup_ids, strict=True)
    ]
    if entries[0].size > MAX_BYTES:
        raise ConfigError(f"the message has {entries[0].size:,} bytes, SQS takes {MAX_BYTES:,}: send where the data is")
    return entries


def _bodies(options: Namespace, ids: Sequence[str]) -> list[str]:
    if options.raw:
        return [_checked_body(read_text("PAYLOAD", options.payload))] * len(ids)
    payload = msgspec.Raw(read_payload(options.payload).encode())
    return [envelope_text(options.type, event_id, payload) for event_id in ids]


def _checked_body(text: str) -> str:
    if not text or NOT_IN_A_BODY.search(text):
        raise ConfigError("PAYLOAD: SQS takes no empty body, and no control characters but tab and line breaks")
    return text


def _attributes(pairs: Sequence[str]) -> dict[str, Attribute]:
    attributes = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"--attribute {pair}: write NAME=VALUE, neither of them empty")
        attributes[name] = Attribute("String", value)
    if len(attributes) > MAX_ATTRIBUTES:
        raise ConfigError(f"--attribute: {len(attributes)} of them, SQS takes {MAX_ATTRIBUTES}")
    return attributes


def queue_name(settings: AllSettings, name: str) -> str:
    """The queue that --queue names, or the only one. Raises ConfigError."""
    names = ", ".join(settings.queues)
    if not name and len(settings.queues) > 1:
        raise ConfigError(f"--queue is needed, since there are several queues: {names}")
    if name and name not in settings.queues:
        raise ConfigError(f"--queue {name}: no such queue; {did_you_mean(name, settings.queues)}")
    return name or names


def _send(settings: AllSettings, name: str, entries: Sequence[Entry]) -> Iterator[tuple[int, Failure | None]]:
    try:
        yield from send_all(connect_queue(settings, name), entries)
    except Unreachable as error:
        if not settings.queues[name].is_local:
            raise
        raise ConfigError(f"{_no_local_queue(settings.local.port)} ({error})") from None
    except (QueueMissing, AccessDenied) as error:
        raise ConfigError(f"[queues.{name}] url: {with_advice(error, os.environ)}") from None


def _no_local_queue(port: int) -> str:
    if is_listened_to(port):
        return f"something listens on port {port} but does not answer: is it a worker of Millpond?"
    return f"no worker runs the local queue on port {port}: start one first, python worker.py"


def is_listened_to(port: int) -> bool:
    """True where a program on this machine takes connections on this port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=LISTENER_SECONDS).close()
    except OSError:
        return False
    return True


def connect_queue(settings: AllSettings, name: str) -> SqsQueue:
    """A queue of the settings; the local one as the running worker has it. Raises ConfigError."""
    url, sqs = settings.queues[name].url, settings.sqs
    if settings.queues[name].is_local:
        if not settings.local.port:
            raise ConfigError("[local] port = 0: the worker took any free port; set one to send to it")
        url = f"http://127.0.0.1:{settings.local.port}/{ACCOUNT_ID}/{name}"
        sqs = msgspec.structs.replace(sqs, endpoint_url="")
    return sqs.connect(url, wait_seconds=0, polls=1, settles=SENDERS).queue(url)
