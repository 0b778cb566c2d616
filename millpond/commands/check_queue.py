"""The check of one queue: whether it can be reached, what is allowed, and whether its settings fit ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

from millpond.app.config import AllSettings, QueueSettings, RetrySettings
from millpond.app.redrive_advice import good_count, longest_policy, redrive_shortfall, set_count_command
from millpond.app.retry_policy import Span
from millpond.app.routing import Route
from millpond.commands.check_attributes import (
    aws_redrive,
    check_attributes,
    check_dead_attributes,
    forgotten_claims,
    two_dead_letter_queues,
)
from millpond.commands.check_rights import key_right, send_right
from millpond.commands.finding import Finding, Level
from millpond.errors import AccessDenied, QueueError
from millpond.observe.screen import counted
from millpond.process.drain import reserve_seconds
from millpond.sqs.codes import DENIED_CODES
from millpond.sqs.credentials_advice import mend_credentials, without_advice
from millpond.sqs.limits import MAX_RECEIVES
from millpond.sqs.queue import CALL_SECONDS, Failure
from millpond.sqs.redrive import Redrive, read_redrive
from millpond.sqs.sqs_queue import SqsQueue

#: No queue gave out this handle: deleting or extending by it does nothing, but SQS checks the right first.
MADE_UP_HANDLE = "made-up-by-millpond-check"


def check_queue(
    name: str, settings: AllSettings, routes: Mapping[str, Route], connect: Callable[[str], SqsQueue]
) -> Iterator[Finding]:
    """Yield every finding on one queue. `connect`: URL -> queue. Raises ConfigError where it cannot connect."""
    where, queue = f"queues.{name}", settings.queues[name]
    if queue.is_local:
        yield Finding("ok", where, "the local queue, in memory: it starts with the worker, nothing to reach")
        return
    yield _lease(where, queue, routes)
    yield from _hold(where, queue, routes)
    yield _drain(where, queue, settings.worker.drain_limit)
    if queue.is_fifo:
        yield from _fifo(where, longest_policy(routes, settings.retry))
    remote = connect(queue.url)
    attributes = yield from _reach(where, remote)
    if attributes is None:
        return
    yield Finding("note", where, "the right to receive is not tested: a receive would take messages")
    changes, handles = [(MADE_UP_HANDLE, queue.visibility_seconds)], [MADE_UP_HANDLE]
    yield _right(where, "sqs:ChangeMessageVisibility", lambda: remote.change_visibility(changes))
    yield _right(where, "sqs:DeleteMessage", lambda: remote.delete(handles))
    redrive = read_redrive(attributes)
    yield from two_dead_letter_queues(where, queue, redrive)
    yield from _circles_by_policy(name, settings, redrive)
    if attributes:
        yield from check_attributes(where, attributes, longest_policy(routes, settings.retry))
        if any(route.idempotent for route in routes.values()):
            yield from forgotten_claims(where, attributes, settings.idempotency.expires_seconds)
        yield _redrive(where, queue, redrive, longest_policy(routes, settings.retry))
    named = connect(queue.dead_letter_url) if queue.dead_letter_url else None
    yield from _dead_letters(where, attributes, remote, redrive, named)


def _circles_by_policy(name: str, settings: AllSettings, redrive: Redrive) -> Iterator[Finding]:
    """Yield a warning for each queue of this worker to which SQS redrives what fails in this one."""
    own = settings.queues[name]
    target = f"{own.url.rpartition('/')[0]}/{redrive.name}"  # SQS takes one of the same account and region only
    for other, its in settings.queues.items():
        if redrive.name and its.url == target != own.dead_letter_url:
            text = f"this is the dead-letter queue of queues.{name}, by its redrive policy"
            why = "its dead letters would be received and handled again at once"
            yield Finding("warning", f"queues.{other}", text, why=why, mend=f"take [queues.{other}] out")


def _fifo(where: str, policy: RetrySettings) -> Iterator[Finding]:
    text = "FIFO: messages of one group run one after another; where one fails, those behind it in hand go back"
    yield Finding("note", where, f"{text} too: message.attempt counts that")
    if (span := Span.of(policy)).most_seconds:
        text = f"FIFO: a message that always fails holds up its group until it is a dead letter, for {span}"
        yield Finding("note", where, f"{text}: where that is too long, set max_attempts or backoff of its handler")


def queue_at(url: str, queue: QueueSettings, settings: AllSettings) -> SqsQueue:
    """The queue that the settings name by this URL, reached as the worker reaches it. Raises ConfigError."""
    return settings.sqs.connect(url, queue.wait_seconds, polls=1, settles=1).queue(url)


def _lease(where: str, queue: QueueSettings, routes: Mapping[str, Route]) -> Finding:
    beat, visibility = queue.beat_seconds, queue.visibility_seconds
    if beat + CALL_SECONDS > visibility:
        text = f"visibility_seconds = {visibility} is short: a beat comes after {beat:.3g} s and its call may take"
        text += f" {CALL_SECONDS} s, and by then another worker may have the message; 60 is the default"
        return Finding("warning", where, text)
    longest = max((route.timeout_seconds for route in routes.values()), default=0.0)
    text = f"visibility_seconds = {visibility}: a beat each {beat:.3g} s keeps the message of a longer handler"
    return Finding("ok", where, f"{text} (longest time limit: {longest:g} s)")


def _hold(where: str, queue: QueueSettings, routes: Mapping[str, Route]) -> Iterator[Finding]:
    """Yield a warning for each handler that may run for longer than its message can be kept."""
    for event_type, route in sorted(routes.items()):
        if route.timeout_seconds > queue.max_hold_seconds:
            text = f"the time limit of {event_type} is {route.timeout_seconds:g} s, but a message is kept for"
            yield Finding("warning", where, f"{text} max_hold_seconds = {queue.max_hold_seconds} at most")


def _drain(where: str, queue: QueueSettings, drain_seconds: float) -> Finding:
    longest = drain_seconds - reserve_seconds(drain_seconds)  # infinite for "until done"
    if queue.wait_seconds <= longest:
        return Finding("ok", where, f"wait_seconds = {queue.wait_seconds}: open polls end within the drain")
    text = f"wait_seconds = {queue.wait_seconds}: an open poll can outlast the drain ({drain_seconds:g} s), and what it"
    text += f" brings then waits for its visibility time-out ({queue.visibility_seconds} s)"
    return Finding("warning", where, f"{text}: set wait_seconds = {max(1, int(longest))} or less")


def _reach(where: str, remote: SqsQueue) -> Generator[Finding, None, dict[str, str] | None]:
    """Returns the queue's attributes: {} where they may not be read, None where the queue cannot be reached."""
    try:
        attributes = remote.attributes()
    except QueueError as error:
        if isinstance(error, AccessDenied) and error.code.startswith("AccessDenied"):
            text = f"sqs:GetQueueAttributes is not allowed, so the redrive policy is not known ({error})"
            yield Finding("warning", where, text)
            return {}
        mend = mend_credentials(error.code, os.environ) if isinstance(error, AccessDenied) else ""
        yield Finding("error", where, f"cannot be reached: {without_advice(error, os.environ)}", mend=mend)
        return None
    waiting, in_flight = (attributes.get(f"ApproximateNumberOfMessages{end}", "?") for end in ("", "NotVisible"))
    wait, fly = "waits" if waiting == "1" else "wait", "is" if in_flight == "1" else "are"
    text = f"the queue is reachable; about {counted(waiting, 'message')} {wait}, {in_flight} {fly} in flight"
    yield Finding("ok", where, text)
    return attributes


def _right(where: str, right: str, call: Callable[[], Sequence[Failure | None]]) -> Finding:
    try:
        failure = call()[0]
    except QueueError as error:
        failure = Failure(error.code, str(error))
        if isinstance(error, AccessDenied):
            return Finding("error", where, f"{right} is not allowed: {error}")
    if failure is None or failure.lease_lost:
        return Finding("ok", where, f"{right} is allowed")
    level: Level = "error" if failure.code in DENIED_CODES else "warning"
    return Finding(level, where, f"{right}: {failure.code}: {failure.text}")


def _redrive(where: str, queue: QueueSettings, redrive: Redrive, policy: RetrySettings) -> Finding:
    count = redrive.max_receive_count
    if not count and redrive.name:
        text = (
            f"the redrive policy has no maxReceiveCount (1 to {MAX_RECEIVES}): it is unknown when SQS moves a message"
        )
        return Finding("warning", where, text)
    if not count:
        text = "there is no redrive policy: a message that crashes the worker comes back until its retention ends"
        why = "" if queue.dead_letter_url else "what fails for good stays in the queue and is retried"
        mend = "make a dead-letter queue, and set RedrivePolicy of this one"
        return Finding("warning", where, text, why=why, mend=mend)
    if shortfall := redrive_shortfall(count, policy):
        return Finding("warning", where, shortfall, set_count_command(queue.url, redrive, good_count(policy)))
    return Finding("ok", where, f"maxReceiveCount = {count}, well above max_attempts = {policy.max_attempts}")


def _dead_letters(
    where: str, attributes: Mapping[str, str], remote: SqsQueue, redrive: Redrive, named: SqsQueue | None
) -> Iterator[Finding]:
    """`named`: the dead-letter queue that the settings name."""
    try:
        dead = named or remote.dead_letters(redrive)
    except QueueError as error:
        yield Finding("error", where, f"the dead-letter queue of the redrive policy cannot be found: {error}")
        return
    if dead is None and attributes and not redrive.policy:
        return  # a queue without a redrive policy has its finding
    if dead is None:
        level: Level = "error" if redrive.policy else "warning"
        yield Finding(level, where, f"{redrive.nameless}: what fails for good stays in the queue and is retried")
        return
    theirs = yield from _reach_dead_letters(where, dead)
    yield from check_dead_attributes(where, attributes, theirs, redrive)
    yield send_right(where, dead)
    yield from key_right(where, dead, theirs)
    yield aws_redrive(where)


def _reach_dead_letters(where: str, dead: SqsQueue) -> Generator[Finding, None, Mapping[str, str]]:
    try:
        attributes = dead.attributes()
    except AccessDenied as error:
        yield Finding("warning", where, f"the dead-letter queue's attributes cannot be read: {error}")
    except QueueError as error:
        yield Finding("error", where, f"the dead-letter queue cannot be reached: {error}")
    else:
        waiting = attributes.get("ApproximateNumberOfMessages", "?")
        text = f"about {counted(waiting, 'message')} {'is' if waiting == '1' else 'are'} in it"
        yield Finding("ok", where, f"the dead-letter queue is reachable; {text}")
        return attributes
    return {}
