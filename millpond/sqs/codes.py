"""What the error codes of SQS mean: which QueueError a refused call becomes."""

from __future__ import annotations

from collections.abc import Set

from millpond.errors import AccessDenied, QueueError, QueueMissing, Throttled, Unreachable

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
#: Fresh credentials may help: those that a file, a role or a secret store has by now may be others. AccessDenied too:
#: who changes from one user to another takes the old one's rights away, often before its keys.
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
#: The signature's time is not the server's; of InvalidSignatureException only those with one of SKEW_TEXTS.
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

#: Codes with which SQS refuses a whole batch of sends for what is in one entry of it. None of the batch was taken then.
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


def error_kind(codes: Set[str], status: int) -> type[QueueError]:
    """The class for an answer with this HTTP status. `codes`: all its names of the error; none: it is not from SQS."""
    if codes & MISSING_CODES:
        return QueueMissing
    if codes & THROTTLE_CODES or status == 429:
        return Throttled
    if codes & DENIED_CODES:
        return AccessDenied
    return QueueError if codes and status < 500 else Unreachable


def is_skew(codes: Set[str], text: str) -> bool:
    """Whether SQS refused the time of the signature."""
    if "InvalidSignatureException" in codes or "SignatureDoesNotMatch" in codes:
        return text.startswith(SKEW_TEXTS)
    return bool(codes & SKEW_CODES)
