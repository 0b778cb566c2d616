"""The redrive policy of a queue: where SQS moves a message, and after how many receives."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.sqs.limits import MAX_RECEIVES

# In JSON: the account and the name are its last two parts.
_ARN = re.compile(r'"(?:[^":]+:)+([^":]+):([^":]+)"')


class Redrive(msgspec.Struct, frozen=True):
    """A redrive policy: where SQS moves a message, after how many receives; "" and 0 where it does not say.

    `policy`: as it is written; "" where the queue has none.
    """

    policy: str = ""
    account: str = ""
    name: str = ""
    max_receive_count: int = 0

    @property
    def nameless(self) -> str:
        """Why it leads to no dead-letter queue; "" where it does."""
        if self.name:
            return ""
        policy = shown(self.policy)
        return f"the redrive policy {policy} names no queue" if policy else "this queue has no dead-letter queue"


def read_redrive(attributes: Mapping[str, str]) -> Redrive:
    """The redrive policy among a queue's attributes, whatever it is.

    SQS writes the count as a number or as a text, others write more.
    """
    policy = attributes.get("RedrivePolicy", "")
    try:
        fields = msgspec.json.decode(policy, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return Redrive(policy)
    count = number_within(_raw_text(fields.get("maxReceiveCount")).strip('"'), 1, MAX_RECEIVES, 0)
    arn = _ARN.fullmatch(_raw_text(fields.get("deadLetterTargetArn")))
    return Redrive(policy, arn[1] if arn else "", arn[2] if arn else "", count)


def _raw_text(value: msgspec.Raw | None) -> str:
    return bytes(value).decode() if value is not None else ""
