"""The limits that SQS sets (its quotas page and API reference), and how long a lease surely lasts within them."""

from __future__ import annotations

#: Entries in one batch call, and messages in one receive (SQS quotas).
MAX_BATCH = 10
#: Bytes of one message, and of one batch call together: bodies and user attributes (SQS since 2025-08).
MAX_BYTES = 1_048_576
#: A receive can keep a message for 12 h at the longest, counted from the receive; extensions do not reset it.
MAX_HOLD_SECONDS = 43_200
#: The longest long poll.
MAX_WAIT_SECONDS = 20
#: An answer may have been on its way this long: a lease counts as shorter by it (a quarter of it at the most).
MARGIN_SECONDS = 1.0
#: Receives after which SQS moves a message: maxReceiveCount is 1 to 1000.
MAX_RECEIVES = 1_000
#: User attributes of one message.
MAX_ATTRIBUTES = 10
#: DelaySeconds of one message.
MAX_DELAY_SECONDS = 900


def lease_seconds(visibility_seconds: int) -> float:
    """How long a message that was received just now is surely ours: its visibility time-out, less the answer's way."""
    return visibility_seconds - min(MARGIN_SECONDS, visibility_seconds / 4)
