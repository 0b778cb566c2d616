"""SqsError: an answer that is no success, with everything the wire wants to know of it."""

from __future__ import annotations

# SQS kept the codes of its older protocol: the header x-amzn-query-error carries them, and SDKs show them as
# Error.Code (the shape's own name is their QueryErrorCode). A shape that is not listed is its own code.
_CODES = {
    "BatchEntryIdsNotDistinct": "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
    "BatchRequestTooLong": "AWS.SimpleQueueService.BatchRequestTooLong",
    "EmptyBatchRequest": "AWS.SimpleQueueService.EmptyBatchRequest",
    "InvalidBatchEntryId": "AWS.SimpleQueueService.InvalidBatchEntryId",
    "InvalidParameterValueException": "InvalidParameterValue",
    "MissingRequiredParameterException": "MissingParameter",
    "PurgeQueueInProgress": "AWS.SimpleQueueService.PurgeQueueInProgress",
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "TooManyEntriesInBatchRequest": "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
    "UnknownOperationException": "InvalidAction",
    "UnsupportedOperation": "AWS.SimpleQueueService.UnsupportedOperation",
}

# Characters of an error's text.
_MAX_TEXT = 2000

# All others are 400.
_STATUSES = {
    "AccessDeniedException": 403,
    "OverLimit": 403,
    "PurgeQueueInProgress": 403,
    "ReceiptHandleIsInvalid": 404,
    "RequestEntityTooLarge": 413,
    "RequestTimeout": 408,
    "InternalFailure": 500,
    "ServiceUnavailable": 503,
}


class SqsError(Exception):
    """A call, or one entry of a batch, that is refused. `shape` is the error's name in SQS's model.

    `code` is that of a call, `entry_code` that of an entry; few errors have two.
    """

    def __init__(self, shape: str, text: str, entry_code: str | None = None) -> None:
        # A value that is refused is shown in it, and can be a mebibyte; what is wrong with it comes at the end.
        text = text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT // 2]} ... {text[-_MAX_TEXT // 2 :]}"
        super().__init__(text)
        self.shape = shape
        self.text = text
        self.code = _CODES.get(shape, shape)
        self.entry_code = entry_code or self.code
        self.status = _STATUSES.get(shape, 400)

    @property
    def sender_fault(self) -> bool:
        """True where the same call would fail again."""
        return self.status < 500


class Unreadable(SqsError):
    """A request that is none, or is not read to its end: nothing more can be read from its connection."""


def no_request(reason: str) -> Unreadable:
    """The error for bytes that are not HTTP."""
    return Unreadable("SerializationException", f"This is no HTTP/1.1 request: {reason}.")


def invalid_parameter(text: str) -> SqsError:
    """The error that SQS gives for most wrong values."""
    return SqsError("InvalidParameterValueException", text)


def invalid_value(name: str, value: object, reason: str) -> SqsError:
    """The same, in the words that SQS uses for one parameter."""
    return invalid_parameter(f"Value {value} for parameter {name} is invalid. Reason: {reason}")


def missing_parameter(name: str) -> SqsError:
    """A required parameter that is absent or empty."""
    return SqsError("MissingRequiredParameterException", f"The request must contain the parameter {name}.")


def expired_handle(receipt_handle: str) -> SqsError:
    """A delete by a handle whose time is over. In a batch it has another code (recorded in smaskalik/sqsmover#54)."""
    text = f"Value {receipt_handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
    return SqsError("InvalidParameterValueException", text, entry_code="ReceiptHandleIsInvalid")
