"""The answers that the proxy makes up."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from chaos import http

#: Code and HTTP status of throttles and denials.
THROTTLES = (
    ("RequestThrottled", "403 Forbidden"),
    ("KMS.ThrottlingException", "400 Bad Request"),
    ("OverLimit", "403 Forbidden"),
    ("ThrottlingException", "400 Bad Request"),
)
DENIALS = (
    ("AccessDenied", "403 Forbidden"),
    ("InvalidClientTokenId", "403 Forbidden"),
    ("KMS.AccessDeniedException", "400 Bad Request"),
)
HTML = b"<html><head><title>Please log in</title></head><body>This network is a hotel's.</body></html>"


def refused(codes: Sequence[tuple[str, str]], chance: float) -> bytes:
    """One of these errors, as SQS tells it."""
    code, status = codes[int(chance * len(codes))]
    return _error(code, status, "Sender")


def broken(status: str) -> bytes:
    """A 5xx of SQS itself."""
    return _error("InternalFailure" if status.startswith("500") else "ServiceUnavailable", status, "Receiver")


def _error(code: str, status: str, fault: str) -> bytes:
    shape = code.rpartition(".")[2]
    body = msgspec.json.encode({"__type": f"com.amazonaws.sqs#{shape}", "message": "injected"})
    return http.answer(body, status, more=f"x-amzn-query-error: {code};{fault}\r\n")


def html() -> bytes:
    """A gateway's own page, with the status of a success."""
    return http.answer(HTML, kind="text/html")


def noise(chance: float) -> bytes:
    """No JSON at all, though it says so."""
    return http.answer(Random(chance).randbytes(1 + int(chance * 2_000)))


def failed(ids: Sequence[str], done: dict[str, Any]) -> bytes:
    """The answer of a batch, `done`, with these entries reported as failed."""
    successful = [entry for entry in done.get("Successful", []) if entry["Id"] not in ids]
    failures = [{"Id": one, "Code": "InternalError", "Message": "injected", "SenderFault": False} for one in ids]
    failures += [entry for entry in done.get("Failed", []) if entry["Id"] not in ids]
    return http.answer(msgspec.json.encode({"Successful": successful, "Failed": failures}))
