"""Batch calls: what is checked in all of them, and one result an entry."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from millpond.local.operations import BatchAnswer, BatchEntry, EntryDone, Failed, Sent
from millpond.local.sqs_error import SqsError

#: Entries in one batch call, and messages in one receive (SQS quotas).
MAX_BATCH = 10

_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")

Entry = TypeVar("Entry", bound=BatchEntry)


def check(entries: Sequence[Entry], operation: str) -> None:
    """Raises SqsError if SQS would refuse the batch as a whole."""
    if not entries:
        raise SqsError(
            "EmptyBatchRequest", f"There should be at least one {operation}BatchRequestEntry in the request."
        )
    if len(entries) > MAX_BATCH:
        text = f"Maximum number of entries per request are {MAX_BATCH}. You have sent {len(entries)}."
        raise SqsError("TooManyEntriesInBatchRequest", text)
    seen: set[str] = set()
    for entry in entries:
        if not _ENTRY_ID.fullmatch(entry.id):
            text = "A batch entry id can only contain alphanumeric characters, hyphens and underscores."
            raise SqsError("InvalidBatchEntryId", f"{text} It can be at most 80 letters long.")
        if entry.id in seen:
            raise SqsError("BatchEntryIdsNotDistinct", f"Id {entry.id} repeated.")
        seen.add(entry.id)


def each(entries: Sequence[Entry], act: Callable[[Entry], Sent | EntryDone]) -> BatchAnswer:
    """The results of `act` on each entry; what it raises is the failure of that entry alone."""
    answer = BatchAnswer()
    for entry in entries:
        try:
            answer.successful.append(act(entry))
        except SqsError as error:
            answer.failed.append(Failed(entry.id, error.entry_code, error.text, error.sender_fault))
    return answer
