"""The entries of batch calls: how many go in one call, and what became of each, also where the whole call failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from millpond.errors import AccessDenied, QueueError, QueueMissing, Throttled, Unreachable
from millpond.sqs.codes import CONTENT_CODES
from millpond.sqs.limits import MAX_BATCH, MAX_BYTES
from millpond.sqs.queue import Entry, Failure
from millpond.sqs.requests import unwritable

Each = TypeVar("Each")


def batches(entries: Sequence[Entry]) -> Iterator[list[int]]:
    """The indexes of these entries, in order, as many to a call as SQS takes: 10, and 1 MiB together."""
    batch: list[int] = []
    room = MAX_BYTES
    for index, size in enumerate(entry.size for entry in entries):
        if len(batch) == MAX_BATCH or size > room:
            yield batch
            batch, room = [], MAX_BYTES
        batch.append(index)
        room -= size
    if batch:
        yield batch


def results_of(call: Callable[[list[Each]], list[Failure | None]], entries: list[Each]) -> list[Failure | None]:
    """The results of a batch call, also where it fails as a whole: then no entry has failed for good.

    Where SQS refuses the call itself it is made again for each entry, so that a bad one does not fail the nine others.
    """
    try:
        return call(entries)
    except (Throttled, Unreachable) as error:
        return [Failure(f"call:{error.code}", str(error))] * len(entries)
    except (AccessDenied, QueueMissing) as error:
        return [Failure(f"call:{error.code}", str(error), denied=True)] * len(entries)
    except QueueError as error:
        if len(entries) > 1:
            return [results_of(call, [entry])[0] for entry in entries]
        return [Failure(f"call:{error.code}", str(error), sender_fault=True)]


def send_apart(
    entries: Sequence[Entry], send: Callable[[Sequence[Entry]], list[Failure | None]]
) -> list[Failure | None]:
    """The results of a batch of sends, in which a bad entry fails alone.

    What no JSON can hold is not sent. Where SQS refuses the batch for what one entry has in it, each goes alone.
    """
    try:
        return send(entries)
    except (ValueError, TypeError, OverflowError):
        failures = [unwritable(entry) for entry in entries]
        if not any(failures):
            raise
    except QueueError as error:
        if error.code not in CONTENT_CODES:
            raise
        if len(entries) == 1:
            return [Failure(error.code, str(error), sender_fault=True)]
        # Results, not errors: the entries before one that fails are sent.
        return [results_of(lambda alone: send_apart(alone, send), [entry])[0] for entry in entries]
    good = [entry for entry, failure in zip(entries, failures, strict=True) if failure is None]
    others = iter(send_apart(good, send)) if good else iter(())
    return [failure or next(others) for failure in failures]
