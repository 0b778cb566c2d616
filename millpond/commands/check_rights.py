"""Rights that `check` tries without leaving a trace: to send a dead letter, and to use the key that encrypts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from millpond.commands.finding import Finding
from millpond.errors import AccessDenied, QueueError
from millpond.foreign.text import shown
from millpond.hub.home import within
from millpond.sqs.codes import DENIED_CODES
from millpond.sqs.credentials import SdkKeys
from millpond.sqs.limits import MAX_DELAY_SECONDS
from millpond.sqs.queue import Entry, Failure
from millpond.sqs.queue_url import is_fifo, place_of
from millpond.sqs.sqs_queue import SqsQueue

#: SQS takes no message with this delay, but it looks at the right first.
IMPOSSIBLE_DELAY_SECONDS = MAX_DELAY_SECONDS + 1
KMS_SECONDS = 5.0
#: What KMS answers to a call with DryRun that would have been done.
_WOULD_DO = "DryRunOperationException"


def send_right(where: str, dead: SqsQueue) -> Finding:
    """Whether dead letters may be sent: SQS is asked to take one that it must refuse for its delay."""
    text, right = "the dead-letter queue: sqs:SendMessage", "sqs:SendMessage on the dead-letter queue"
    probe = Entry("made up by millpond check", delay_seconds=IMPOSSIBLE_DELAY_SECONDS)
    if is_fifo(dead.url):
        probe = Entry(probe.body, probe.delay_seconds, group_id="millpond-check", dedup_id="millpond-check")
    try:
        failure = dead.send([probe])[0]
    except QueueError as error:
        failure = Failure("AccessDenied" if isinstance(error, AccessDenied) else error.code, str(error))
    if failure is None:
        return Finding("warning", where, f"{text} took a message that no SQS takes", mend="look for it there")
    if failure.code in DENIED_CODES:
        why = "what fails for good stays in the queue and is retried"
        return Finding("error", where, f"{text} is not allowed: {failure.text}", why=why, mend=f"allow {right}")
    if failure.code.startswith(("InvalidParameterValue", "InvalidAttribute")):
        return Finding("ok", where, f"{text} is allowed (asked with a delay that SQS refuses)")
    return Finding("warning", where, f"{text}: {failure.code}: {failure.text}")


def key_right(where: str, dead: SqsQueue, attributes: Mapping[str, str]) -> Iterator[Finding]:
    """Yield whether the key of the dead-letter queue may be used to send to it: KMS is asked with DryRun."""
    key = attributes.get("KmsMasterKeyId", "")
    if not key or key.endswith("alias/aws/sqs"):
        return
    try:
        code, said = within(KMS_SECONDS, lambda: _asked(dead, key))
    except (BotoCoreError, QueueError, ValueError, TimeoutError) as error:
        code, said = type(error).__name__, shown(error)
    text = f"the dead-letter queue's KMS key {shown(key)}: kms:GenerateDataKey"
    if code == _WOULD_DO:
        yield Finding("ok", where, f"{text} is allowed")
        return
    refused = "is not allowed" if code.startswith("AccessDenied") else f"is refused ({code})"
    why = f"a dead letter cannot be sent ({said})"
    mend = "allow kms:GenerateDataKey and kms:Decrypt on it; where the key allows only SQS itself (kms:ViaService), this test says nothing"  # noqa: E501
    yield Finding("warning", where, f"{text} {refused}", why=why, mend=mend)


def _asked(dead: SqsQueue, key: str) -> tuple[str, str]:
    core: Any = botocore.session.get_session()
    core.register_component("credential_provider", SdkKeys(dead.sqs.credentials))  # type: ignore[arg-type]
    config = Config(connect_timeout=2, read_timeout=KMS_SECONDS, retries={"total_max_attempts": 1})
    region = place_of(dead.url).region or core.get_config_variable("region") or "us-east-1"
    client = core.create_client("kms", region_name=region, config=config)
    try:
        client.generate_data_key(KeyId=key, KeySpec="AES_256", DryRun=True)
    except ClientError as error:
        said = error.response.get("Error", {})
        return str(shown(said.get("Code", ""), 100)), str(shown(said.get("Message", "")))
    return _WOULD_DO, ""
