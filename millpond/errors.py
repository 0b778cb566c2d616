"""Every error of Millpond, and what its catcher should do.

MillpondError
├── ConfigError          settings or handlers are wrong: show the findings, exit 3
├── QueueError           a call to a queue failed: back off and go on
│   ├── QueueMissing         there is no such queue
│   ├── AccessDenied         credentials or rights are wrong
│   ├── Throttled            SQS asks for fewer calls
│   └── Unreachable          network, 5xx, or an answer that is not from SQS
│       └── Unanswered           the request was sent and no answer of SQS came, or a 500: it may have been done
├── SendError            Producer: some messages were not taken
├── ClaimStoreError      the store of claims failed: nothing was decided, the message waits
└── Verdict              what a handler raises to say how its message ends
    ├── Retry                visible again later; counts toward max_attempts
    ├── Reject               permanent: to the dead-letter queue, with the reason
    ├── Discard              deleted and counted
    ├── Unavailable          this type cannot work now: the message waits, no failure
    ├── TooFast              the other side asks for fewer at a time: the message waits, no failure
    └── Wait                 this message alone cannot begin yet, no failure
Interrupt (BaseException)    the engine stops a handler; never catch it without raising it again
├── TimeLimitExceeded    the handler ran past its time limit
├── Stopped              the worker shuts down
└── LeaseLost            SQS may have given the message to another worker
"""

from __future__ import annotations

from collections.abc import Sequence

#: Exit codes of a worker: stopped in order, some messages are left, a crash, bad configuration.
FINISHED, LEFT, CRASHED, MISCONFIGURED = 0, 1, 2, 3
#: How long a message waits after Unavailable where that names no time and nothing else decides.
UNAVAILABLE_SECONDS = 60


class MillpondError(Exception):
    """The root of every error that is an Exception."""


class ConfigError(MillpondError):
    """Settings or handlers with which the worker cannot start. `findings` has one line for each."""

    def __init__(self, *findings: str) -> None:
        super().__init__("\n".join(findings))
        self.findings = findings


class QueueError(MillpondError):
    """A call to a queue failed as a whole. `code` is the service's own name for it, "" for network trouble."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class QueueMissing(QueueError):
    """There is no such queue, or not for these credentials."""


class AccessDenied(QueueError):
    """The credentials are missing, wrong or expired, or lack a right."""


class Throttled(QueueError):
    """The service asks for fewer calls."""


class Unreachable(QueueError):
    """No answer, a 5xx, or an answer that is not from SQS: it may pass."""


class Unanswered(Unreachable):
    """The request was sent, and no answer of SQS came whole, or one that says nothing of it: it may have been done."""


class SendError(MillpondError):
    """Some messages were not taken. `failed` pairs the index of each with the reason; all others were sent."""

    def __init__(self, failed: Sequence[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"message {index}: {reason}" for index, reason in failed))
        self.failed = list(failed)


class ClaimStoreError(MillpondError):
    """A call to the store of claims failed. `code` is the service's own name for it, "" for network trouble."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class Verdict(MillpondError):
    """How a handler says that its message does not end with a plain success. It needs no reason: `raise Discard`."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Verdict):
    """Try again, `after` seconds from now, 43200 at most (None: by the back-off). Counts toward max_attempts."""

    def __init__(self, reason: str = "", after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Reject(Verdict):
    """This message can never succeed: to the dead-letter queue now, with the reason."""


class Discard(Verdict):
    """This message needs no work: delete and count it."""


class Unavailable(Verdict):
    """What this type of message needs is down: all of the type wait, and one of them is tried now and then.

    `after`: none of them before these seconds are over. None: by the schedule of the type's breaker.
    """

    def __init__(self, reason: str = "", after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class TooFast(Verdict):
    """The other side asks for fewer at a time (HTTP 429, "sending rate exceeded"): no failure.

    The message runs again by the rate of its type, which is halved; nothing of the type before `after` seconds, which
    is the other side's Retry-After.
    """

    def __init__(self, reason: str = "", after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Wait(Verdict):
    """This message alone cannot begin for `after` seconds, as where its mail domain is busy: no failure."""

    def __init__(self, reason: str = "", after: float = 1.0) -> None:
        super().__init__(reason)
        self.after = after


class Interrupt(BaseException):
    """The engine stops a handler. Not an Exception, so that `except Exception` cannot eat it."""


class TimeLimitExceeded(Interrupt):
    """The handler ran past its time limit."""


class Stopped(Interrupt):
    """The worker shuts down and gives the message back."""


class LeaseLost(Interrupt):
    """The message is no longer this worker's: SQS may have given it to another."""
