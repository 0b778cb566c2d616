"""What the error codes of SQS mean, and which QueueError a refused call becomes."""

from __future__ import annotations

from collections.abc import Set

from millpond.errors import AccessDenied, QueueError, QueueMissing, Throttled, Unanswered, Unreachable

#: Codes that say: this receipt handle is no longer yours. Final, never retried.
LEASE_LOST_CODES = frozenset(
    {
        "ReceiptHandleIsInvalid",
        "MessageNotInflight",
        "AWS.SimpleQueueService.MessageNotInflight",
        "InvalidParameterValue",
        "InvalidParameterValueException",
    }
)
MISSING_CODES = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress"})
#: A token that was valid once: fresh credentials may be there already.
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException"})
#: Fresh credentials may help: a file, a role or a secret store may have others by now. AccessDenied is one of these:
#: where one user replaces another, the old one often loses its rights before its keys.
KEY_CODES = EXPIRED_CODES | {
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSignatureException",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
}
#: The time of the signature is not the server's. InvalidSignatureException says so by one of SKEW_TEXTS.
SKEW_CODES = frozenset({"RequestExpired", "RequestTimeTooSkewed", "RequestInTheFuture"})
SKEW_TEXTS = ("Signature expired", "Signature not yet current")
DENIED_CODES = (
    KEY_CODES
    | SKEW_CODES
    | {
        "IncompleteSignature",
        "KMS.AccessDeniedException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "OptInRequired",
    }
)
THROTTLE_CODES = frozenset(
    {
        "KMS.ThrottlingException",
        "OverLimit",
        "RequestLimitExceeded",
        "RequestThrottled",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)

#: SQS refuses a whole batch of sends for what one entry has in it; it has taken none of the batch then.
CONTENT_CODES = frozenset(
    {
        "InvalidMessageContents",
        "InvalidAttributeValue",
        "InvalidParameterValue",
        "InvalidParameterValueException",
        "MissingParameter",
        "SerializationException",
        "BatchRequestTooLong",
        "AWS.SimpleQueueService.BatchRequestTooLong",
    }
)


#: SQS failed at it, or a proxy has not waited for SQS: the request may have been done.
MAYBE_DONE = (500, 502, 504)


def error_kind(codes: Set[str], status: int) -> type[QueueError]:
    """The class of error for an answer of this HTTP status. `codes`: its error codes; none: it is not from SQS."""
    if codes & MISSING_CODES:
        return QueueMissing
    if codes & THROTTLE_CODES or status == 429:
        return Throttled
    if codes & DENIED_CODES:
        return AccessDenied
    if status in MAYBE_DONE:
        return Unanswered
    return QueueError if codes and status < 500 else Unreachable


def is_skew(codes: Set[str], text: str) -> bool:
    """Whether SQS refused the signature for its time."""
    if "InvalidSignatureException" in codes or "SignatureDoesNotMatch" in codes:
        return text.startswith(SKEW_TEXTS)
    return bool(codes & SKEW_CODES)
