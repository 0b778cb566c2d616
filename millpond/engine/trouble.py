"""Trouble: a call that fails is logged at once, and each minute while it lasts; so is its end.

What comes and goes is logged once a minute too: an outage that begins sooner after the last line is logged when the
minute is over, if it lasts until then. Only an outage that was logged has its end logged.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from millpond.errors import AccessDenied, QueueError, QueueMissing
from millpond.foreign.text import shown
from millpond.hub.clock import Clock
from millpond.observe import log
from millpond.sqs.codes import DENIED_CODES, MISSING_CODES, THROTTLE_CODES
from millpond.sqs.queue import Failure

#: While a call goes on failing, it is logged this often.
LOG_SECONDS = 60.0
#: A queue that has not answered for this long is out: nothing waits for it any more.
OUT_SECONDS = 5.0
#: While it is out, one call looks this often whether it is back.
OUT_LOOK_SECONDS = 5.0
#: One refusal can pass: rights that were given just now have not reached every host of SQS. What is still refused after
#: this long, only a person can mend.
DENIED_OUT_SECONDS = 1.0

RIGHTS = frozenset({"AccessDenied", "AccessDeniedException", "KMS.AccessDeniedException"})
#: What helps against a refusal that is only too much of something.
REMEDIES = {
    "KMS.ThrottlingException": "raise the queue's KmsDataKeyReusePeriodSeconds",
    "OverLimit": "too many of its messages are in flight: more workers do not help, faster handlers do",
}
#: Receives in a row that came back empty long before their time: fewer can be SQS's own doing.
EARLY_IN_A_ROW = 5
EARLY = QueueError(
    f"{EARLY_IN_A_ROW} receives or more have come back empty at once, and none has waited for messages: something else "
    "may answer in the place of SQS, or too many messages of the queue are in flight",
    "EmptyAtOnce",
)


def is_denied(failure: Failure) -> bool:
    """Whether only a person can mend it: rights, credentials, a queue that is not there."""
    return failure.denied or failure.name in DENIED_CODES or failure.name in MISSING_CODES


class Trouble:
    """One kind of settling call to one queue: since when it fails (`since`, on the clock; 0.0: it works).

    `action` is SQS's own name of the right that it needs: sqs:DeleteMessage. `name` is the queue's in the settings.
    """

    events = "settle"  # the first part of its events' names

    def __init__(self, action: str, name: str, clock: Clock) -> None:
        self.since = 0.0
        self.last: Failure | None = None
        self.put_off = 0  # messages that went back to their queue for it
        self._action = action
        self._name = name
        self._clock = clock
        self._is_logged = False  # this outage
        self._logged_at = -math.inf
        self._next_look: float
        self._is_hurried = False

    def read(self, url: str, results: Sequence[Failure | None], started: float, waiting: int) -> None:
        """Take the results of a call that began at `started`. `waiting`: how many messages wait for these calls."""
        failures = [failure for failure in results if failure is not None and not failure.lease_lost]
        if failures:
            self.last = failures[0]
            if not self.since:
                self.since, self._next_look = started, self._clock.now() + OUT_LOOK_SECONDS
                self.put_off, self._is_logged = 0, False
            self.log(url, failures[0], waiting)
        elif None in results and self.since:
            self._log_end(url)
            self.since, self.last = 0.0, None

    @property
    def lasts(self) -> bool:
        """Whether it has failed for a while, or a person must mend it, or there is no time to wait."""
        if not self.since or self.last is None:
            return False
        patience = DENIED_OUT_SECONDS if is_denied(self.last) else OUT_SECONDS
        return self._is_hurried or self._clock.now() - self.since >= patience

    def is_out(self) -> bool:
        """Whether it is not worth a call now; False once in a while, for one that looks whether it is back."""
        now = self._clock.now()
        if not self.lasts or self._is_hurried or now < self._next_look:
            return self.lasts
        self._next_look = now + OUT_LOOK_SECONDS
        return False

    def hurry(self) -> None:
        """Look no more whether it is back: the drain has begun."""
        self._is_hurried = True

    def log(self, url: str, failure: Failure, waiting: int) -> None:
        """Log once a minute what was refused, and what helps."""
        now = self._clock.now()
        if now - self._logged_at < LOG_SECONDS:
            return
        self._is_logged, self._logged_at = True, now
        where = shown(url, 200)
        text = f"{self._action} on {where} fails: {failure.summary} ({self._numbers(waiting)}); {self._remedy(failure)}"
        fields = {"code": shown(failure.name, 100), **self._fields(where, waiting)}
        log.event(logging.WARNING, f"{self.events}.failed", text, queue=self._name, **fields)

    def _numbers(self, waiting: int) -> str:
        return f"waiting: {waiting}" + (f", put off: {self.put_off}" if self.put_off else "")

    def _fields(self, where: str, waiting: int) -> dict[str, object]:
        return {"call": self._action, "target": where, "waiting": waiting}

    def _remedy(self, failure: Failure) -> str:
        if failure.name in MISSING_CODES:
            return "there is no such queue: make it again, or correct its URL"
        if failure.name in RIGHTS:
            return f"allow {self._action} on that queue (and the use of its KMS key, where it has one)"
        if is_denied(failure):
            return "look at the credentials"
        if failure.name in REMEDIES:
            return REMEDIES[failure.name]
        if failure.name in THROTTLE_CODES:
            return "SQS takes fewer calls than it gets: this one is made less often until it is taken"
        if failure.sender_fault:
            return "the queue does not take the message: look at its MaximumMessageSize"
        return "the call is tried again"

    def _log_end(self, url: str) -> None:
        if self._is_logged:
            seconds = round(self._clock.now() - self.since, 1)
            text = f"{self._action} on {shown(url, 200)} works again, after {seconds:g} s"
            log.event(logging.INFO, f"{self.events}.resumed", text, queue=self._name, call=self._action)


class ReceiveTrouble(Trouble):
    """The receives of one queue."""

    events = "receive"

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__("sqs:ReceiveMessage", name, clock)

    def failed(self, url: str, error: QueueError, in_a_row: int) -> None:
        """Take the error of a receive; `in_a_row` have failed one after another."""
        failure = Failure(error.code, str(error), denied=isinstance(error, AccessDenied | QueueMissing))
        self.read(url, [failure], self._clock.now(), in_a_row)

    def works(self, url: str) -> None:
        """Take note of a receive that came back as it should."""
        self.read(url, [None], self._clock.now(), 0)

    def _numbers(self, waiting: int) -> str:
        return f"{waiting} in a row"

    def _fields(self, where: str, waiting: int) -> dict[str, object]:
        return {"call": self._action, "target": where, "in_a_row": waiting}

    def _remedy(self, failure: Failure) -> str:
        if failure.name in ("", EARLY.code):
            return "look at the network, and at what stands between the worker and SQS (a proxy, a host name)"
        return super()._remedy(failure)


def log_call(queue: str, what: str, failed: int, number: int, seconds: float) -> None:
    """A debug line for a call that settles messages, or keeps them."""
    text = f"a call has made {number - failed} of {number} entries ({what}) in {seconds:.3f} s"
    log.event(logging.DEBUG, "batch.done", text, queue=queue, what=what, number=number, failed=failed)
