"""What the attributes of a queue and of its dead-letter queue give away, without a call more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from millpond.app.config import QueueSettings, RetrySettings
from millpond.app.retry_policy import Span
from millpond.commands.finding import Finding
from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.sqs.redrive import Redrive

#: The longest MessageRetentionPeriod: 14 days.
MAX_RETENTION_SECONDS = 1_209_600
#: Messages in flight of one queue: SQS gives out no more (OverLimit, or empty answers). The warning comes before that.
MAX_NOT_VISIBLE, MANY_NOT_VISIBLE = 120_000, 100_000
#: The key of AWS's own, whose policy nobody can change.
AWS_KEY = "alias/aws/sqs"
_MOST_BYTES = 2**31


def number_of(attributes: Mapping[str, str], name: str, most: int = MAX_RETENTION_SECONDS) -> int:
    """An attribute that is a number; 0 where it is not known."""
    return number_within(attributes.get(name), 1, most, 0)


def check_attributes(where: str, attributes: Mapping[str, str], policy: RetrySettings) -> Iterator[Finding]:
    """Yield every finding on a queue's own attributes. `policy`: the longest of its handlers."""
    yield from _retention(where, attributes, policy)
    yield from _delay(where, attributes)
    yield from _not_visible(where, attributes)
    yield from _public(where, attributes)
    yield from _key(where, attributes)


def check_dead_attributes(
    where: str, own: Mapping[str, str], theirs: Mapping[str, str], redrive: Redrive
) -> Iterator[Finding]:
    """Yield every finding on the attributes of the dead-letter queue, `theirs`, beside the queue's `own`."""
    kept, kept_dead = (number_of(one, "MessageRetentionPeriod") for one in (own, theirs))
    if kept_dead and kept_dead < kept:
        text = f"the dead-letter queue keeps messages for {kept_dead} s, less than the queue itself ({kept} s)"
        yield Finding("warning", where, f"{text}: raise its MessageRetentionPeriod; 1209600 s (14 days) is the most")
    size, size_dead = (number_of(one, "MaximumMessageSize", _MOST_BYTES) for one in (own, theirs))
    if size_dead and size_dead < size:
        text = f"the dead-letter queue takes {size_dead} bytes a message, and the queue itself {size}"
        why = "a longer message that fails for good cannot be put there, and is retried until its retention ends"
        yield Finding("warning", where, text, why=why, mend=f"set its MaximumMessageSize to {size}")
    if theirs.get("RedrivePolicy"):
        text = "the dead-letter queue has a redrive policy of its own"
        why = "a letter that was looked at too often is moved on, where nobody looks for it"
        yield Finding("warning", where, text, why=why, mend="remove its RedrivePolicy")
    yield from _redrive_permission(where, own, theirs, redrive)


def two_dead_letter_queues(where: str, queue: QueueSettings, redrive: Redrive) -> Iterator[Finding]:
    """Yield a warning where the settings name another dead-letter queue than the redrive policy does."""
    name = queue.dead_letter_url.rstrip("/").rpartition("/")[2]
    if name and redrive.name and name != redrive.name:
        text = f"dead_letter_url is {shown(name)}, and the redrive policy names {shown(redrive.name)}"
        why = "what the worker gives up is in the one, and what crashed it is in the other"
        yield Finding("warning", where, text, why=why, mend="leave dead_letter_url empty, or change the redrive policy")


def forgotten_claims(where: str, attributes: Mapping[str, str], expires_seconds: float) -> Iterator[Finding]:
    """Yield a warning where what an idempotent handler has done is forgotten while its message can still come."""
    kept = number_of(attributes, "MessageRetentionPeriod")
    if kept > expires_seconds:
        text = f"the queue keeps messages for {kept} s, and what is done is remembered for {expires_seconds:g} s"
        why = "a copy that comes later is done again, though its handler is idempotent"
        yield Finding("warning", where, text, why=why, mend=f"set [idempotency] expires_seconds = {kept} or more")


def aws_redrive(where: str) -> Finding:
    """What AWS's own way back out of a dead-letter queue does not take."""
    text = "AWS's redrive (StartMessageMoveTask) takes back only the dead letters that SQS moved itself"
    why = "it leaves those that the worker sent, with their reasons"
    return Finding("note", where, text, why=why, mend="`worker.py dlq replay` takes back all of them")


def _retention(where: str, attributes: Mapping[str, str], policy: RetrySettings) -> Iterator[Finding]:
    kept, span = number_of(attributes, "MessageRetentionPeriod"), Span.of(policy)
    if kept and span.most_seconds >= kept:
        text = f"the queue keeps messages for {kept} s, and all {policy.max_attempts} attempts take up to {span}"
        why = "SQS deletes what still fails, and it is no dead letter"
        mend = "raise its MessageRetentionPeriod, or lower max_attempts or the back-off"
        yield Finding("warning", where, text, why=why, mend=mend)


def _delay(where: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    if seconds := number_of(attributes, "DelaySeconds"):
        text = f"the queue delays each message that is sent by {seconds} s (DelaySeconds)"
        yield Finding("note", where, text, why="latency cannot be shorter, and follow-ups wait too")


def _not_visible(where: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    number = number_of(attributes, "ApproximateNumberOfMessagesNotVisible")
    if number >= MANY_NOT_VISIBLE:
        text = f"{number} messages are in flight, and SQS gives out no more than {MAX_NOT_VISIBLE} of one queue"
        why = "at the limit receives bring nothing, however many messages wait"
        mend = "run fewer workers, lower prefetch, or divide the work among several queues"
        yield Finding("warning", where, text, why=why, mend=mend)


def _public(where: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    statements = _json_object(attributes.get("Policy", "")).get("Statement")
    for one in statements if isinstance(statements, list) else [statements]:
        if isinstance(one, dict) and one.get("Effect") == "Allow" and not one.get("Condition") and _is_anyone(one):
            text = f"the queue's policy allows everybody {shown(one.get('Action', 'what it names'), 100)}"
            why = "anybody who knows its URL can use it"
            mend = "name the Principal, or add a Condition such as aws:SourceArn"
            yield Finding("warning", where, text, why=why, mend=mend)
            return


def _is_anyone(statement: Mapping[str, Any]) -> bool:
    principal = statement.get("Principal")
    named = principal.get("AWS") if isinstance(principal, dict) else principal
    return named == "*" or (isinstance(named, list) and "*" in named)


def _key(where: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    key = shown(attributes.get("KmsMasterKeyId", ""))
    if key.endswith(AWS_KEY):
        text = f"the queue is encrypted with {AWS_KEY}, whose policy nobody can change"
        mend = "use SqsManagedSseEnabled, or a key of your own, where one of these is to send"
        yield Finding("note", where, text, why="S3, SNS and EventBridge cannot send to it", mend=mend)
    elif key:
        text = f"the queue is encrypted with the KMS key {key}"
        why = "a receive needs kms:Decrypt, which is not tested: a receive would take messages"
        yield Finding("note", where, text, why=why)


def _redrive_permission(
    where: str, own: Mapping[str, str], theirs: Mapping[str, str], redrive: Redrive
) -> Iterator[Finding]:
    allowed = _json_object(theirs.get("RedriveAllowPolicy", ""))
    kind, sources, arn = allowed.get("redrivePermission"), allowed.get("sourceQueueArns"), own.get("QueueArn", "")
    is_other = kind == "byQueue" and isinstance(sources, list) and arn and arn not in sources
    if redrive.name and (kind == "denyAll" or is_other):
        text = f"the dead-letter queue's RedriveAllowPolicy ({kind}) does not name this queue"
        why = "SQS does not move what was received too often, and it comes back until its retention ends"
        yield Finding("error", where, text, why=why, mend="set redrivePermission to allowAll, or add this queue's ARN")


def _json_object(text: str) -> Mapping[str, Any]:
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {}
