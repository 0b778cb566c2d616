"""SqsError: a refusal, with all that its answer needs."""

from __future__ import annotations

# SQS kept the codes of its older protocol: the header x-amzn-query-error carries them, and SDKs show them as
# Error.Code (the shape's own name is their QueryErrorCode). The code of a shape that is not listed is its name.
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
    "ResourceNotFoundException": 404,
    "RequestEntityTooLarge": 413,
    "RequestTimeout": 408,
    "InternalFailure": 500,
    "ServiceUnavailable": 503,
}


class SqsError(Exception):
    """A call, or one entry of a batch, is refused. `shape` is the error's name in SQS's model.

    `code` is for a call, `entry_code` for an entry of a batch; few errors have two.
    """

    def __init__(self, shape: str, text: str, entry_code: str | None = None) -> None:
        # The text quotes the refused value, which can be a mebibyte; what is wrong with it comes at the end.
        text = text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT // 2]} ... {text[-_MAX_TEXT // 2 :]}"
        super().__init__(text)
        self.shape = shape
        self.text = text
        self.code = _CODES.get(shape, shape)
        self.entry_code = entry_code or self.code
        self.status = _STATUSES.get(shape, 400)

    @property
    def sender_fault(self) -> bool:
        """Whether the same call would fail again."""
        return self.status < 500


class Unreadable(SqsError):
    """A request cannot be read to its end, so nothing more can be read from its connection."""


def no_request(reason: str) -> Unreadable:
    """Bytes that are not an HTTP request."""
    return Unreadable("SerializationException", f"This is not an HTTP/1.1 request: {reason}.")


def invalid_parameter(text: str) -> SqsError:
    """SQS's error for most wrong values."""
    return SqsError("InvalidParameterValueException", text)


def invalid_value(name: str, value: object, reason: str) -> SqsError:
    """The same in SQS's words for one parameter."""
    return invalid_parameter(f"Value {value} for parameter {name} is invalid. Reason: {reason}")


def missing_parameter(name: str) -> SqsError:
    """A required parameter is absent or empty."""
    return SqsError("MissingRequiredParameterException", f"The request must contain the parameter {name}.")


def expired_handle(receipt_handle: str) -> SqsError:
    """A delete by a handle that has expired; in a batch it has another code (recorded in smaskalik/sqsmover#54)."""
    text = f"Value {receipt_handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
    return SqsError("InvalidParameterValueException", text, entry_code="ReceiptHandleIsInvalid")
