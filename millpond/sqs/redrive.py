"""The redrive policy of a queue: where SQS moves a message, and after how many receives."""

from __future__ import annotations

import re

import msgspec

from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.sqs.limits import MAX_RECEIVES

#: As JSON has it: its account and its name are the last two.
_ARN = re.compile(r'"(?:[^":]+:)+([^":]+):([^":]+)"')


class Redrive(msgspec.Struct, frozen=True):
    """A redrive policy: where SQS moves a message, after how many receives; "" and 0 where it does not say."""

    account: str = ""
    name: str = ""
    max_receive_count: int = 0


def read_redrive(policy: str) -> Redrive:
    """What a redrive policy says, whatever it is: SQS writes the count as a number or as a text, others write more."""
    try:
        fields = msgspec.json.decode(policy, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return Redrive()
    count = number_within(_raw_text(fields.get("maxReceiveCount")).strip('"'), 1, MAX_RECEIVES, 0)
    arn = _ARN.fullmatch(_raw_text(fields.get("deadLetterTargetArn")))
    return Redrive(arn[1], arn[2], count) if arn else Redrive(max_receive_count=count)


def _raw_text(value: msgspec.Raw | None) -> str:
    return bytes(value).decode() if value is not None else ""


def redrive_target(policy: str) -> tuple[str, str]:
    """Account and name of the dead-letter queue in a redrive policy. Raises ValueError where it names none."""
    redrive = read_redrive(policy)
    if not redrive.name:
        raise ValueError(f"the redrive policy {shown(policy)} names no queue")
    return redrive.account, redrive.name
