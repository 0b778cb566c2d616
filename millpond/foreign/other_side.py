"""Signs in an exception that not the message is at fault, but the other side: a server, the network between.

An exception counts by its class, by the HTTP status or AWS code that it carries, and by what led to it: libraries wrap
the socket's own error in several of theirs. Whatever cannot be read shows nothing.
"""

from __future__ import annotations

import errno
import re
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import BadStatusLine, IncompleteRead
from itertools import islice
from socket import gaierror, herror
from typing import Any, NamedTuple, TypeVar

from millpond.errors import Interrupt, Throttled, Unreachable
from millpond.foreign.trace import links, members

#: Errors that led to one another, and errors in a group, that are looked at.
MAX_ERRORS = 20
THEIR_KINDS = (
    *(ConnectionError, TimeoutError, gaierror, herror, ssl.SSLError, IncompleteRead, BadStatusLine),
    *(Unreachable, Throttled),  # of a Producer in the handler
)
#: Of an OSError that has no class of its own.
THEIR_NUMBERS = frozenset({errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET})
#: Classes of libraries, which need not be there, and all that derive from them. Left out: what says that a call was
#: wrong, such as requests' MissingSchema, and redis' ResponseError.
THEIR_NAMES = frozenset(
    {
        "aiohttp.ClientConnectionError",
        "botocore.ConnectionError",
        "botocore.HTTPClientError",
        "gevent.Timeout",
        "httpcore.NetworkError",
        "httpcore.RemoteProtocolError",
        "httpcore.TimeoutException",
        "httpx.NetworkError",
        "httpx.ProxyError",
        "httpx.RemoteProtocolError",
        "httpx.TimeoutException",
        "pika.AMQPConnectionError",
        "pymongo.ConnectionFailure",
        "redis.ConnectionError",
        "redis.TimeoutError",
        "requests.ChunkedEncodingError",
        "requests.ConnectionError",
        "requests.Timeout",
        "smtplib.SMTPConnectError",
        "smtplib.SMTPServerDisconnected",
        "urllib3.MaxRetryError",
        "urllib3.NewConnectionError",
        "urllib3.ProtocolError",
        "urllib3.ProxyError",
        "urllib3.SSLError",
        "urllib3.TimeoutError",
    }
)
#: PostgreSQL's OperationalError is a lost connection, but a deadlock and a lock that is not free as well, and these are
#: the message's own. The server names them by a code; without one the error is the client library's: no connection.
DATABASES = frozenset({"psycopg.OperationalError", "psycopg2.OperationalError"})
#: Codes that begin so are the server's: the connection (08), too many of them (53), a shutdown (57P).
SERVER_STATES = ("08", "53", "57P")
TOO_MANY, UNAVAILABLE, GATEWAYS = 429, 503, (502, 504)
TOO_FAST_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
#: As SES says it, with other codes too.
SENDING_RATE = "Maximum sending rate exceeded"
#: Where an exception, or the answer that it has as `response`, keeps the HTTP status.
STATUS_NAMES = ("status_code", "status", "http_status", "code")
T = TypeVar("T")
_SECONDS = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*", re.ASCII)
_NAME: Any = type.__dict__["__name__"]
_MRO: Any = type.__dict__["__mro__"]
_OWN: Any = type.__dict__["__dict__"]


class Signs(NamedTuple):
    """`too_fast`: the other side asks for fewer at a time, `after` seconds from now. Both mean that it is at fault."""

    other_side: bool = False
    too_fast: bool = False
    after: float | None = None


NO_SIGNS, AT_FAULT = Signs(), Signs(other_side=True)


def signs_of(error: BaseException) -> Signs:
    """What an exception, and those that led to it, show of the other side. Raises nothing but an interrupt."""
    found = NO_SIGNS
    for one in islice(_errors(error), MAX_ERRORS):
        signs = _signs_of_one(one)
        if signs.too_fast:
            return signs
        found = found if found.other_side else signs
    return found


def _errors(error: BaseException) -> Iterator[BaseException]:
    for link, _ in islice(links(error), MAX_ERRORS):
        yield link
        for member in members(link):
            yield from _errors(member)


def _signs_of_one(error: BaseException) -> Signs:
    status, headers = _readable(lambda: _status(error), (0, None))
    after = _readable(lambda: _retry_after(headers), None)
    if status == TOO_MANY or (status == UNAVAILABLE and after is not None) or _is_throttle(error):
        return Signs(True, True, after)
    return AT_FAULT if status in (UNAVAILABLE, *GATEWAYS) or _is_theirs(error) else NO_SIGNS


def _is_theirs(error: BaseException) -> bool:
    kind = type(error)
    if issubclass(kind, THEIR_KINDS):
        return True
    if issubclass(kind, OSError) and type(number := _attribute(error, "errno")) is int and number in THEIR_NUMBERS:
        return True
    names = {*_names(kind)}
    if names & DATABASES:
        state = _attribute(error, "sqlstate") or _attribute(error, "pgcode")
        return state is None or (type(state) is str and state.startswith(SERVER_STATES))
    return bool(names & THEIR_NAMES)


def _names(kind: type) -> Iterator[str]:
    """Of a class and all that it derives from: the library and the class, "requests.Timeout"."""
    for base in _MRO.__get__(kind):
        module = _OWN.__get__(base).get("__module__")
        if type(module) is str:
            yield f"{module.partition('.')[0]}.{_NAME.__get__(base)}"


def _is_throttle(error: BaseException) -> bool:
    return issubclass(type(error), Throttled) or _readable(lambda: _is_throttle_code(error), False)


def _status(error: BaseException) -> tuple[int, Any]:
    """The HTTP status that it carries, or 0; and the headers that came with it."""
    response = _attribute(error, "response")
    if type(response) is dict:  # of botocore
        metadata = response.get("ResponseMetadata", {})
        return _refusal_code(metadata.get("HTTPStatusCode")), metadata.get("HTTPHeaders")
    for holder in (error, response):
        for name in STATUS_NAMES:
            if status := _refusal_code(_attribute(holder, name)):
                headers = _attribute(response, "headers")
                return status, headers if headers is not None else _attribute(error, "headers")
    return 0, None


def _refusal_code(value: object) -> int:
    """An HTTP status from 400 on; 0 for all else."""
    code = int.__int__(value) if issubclass(type(value), int) else 0  # type: ignore[arg-type]
    return code if 400 <= code < 600 else 0


def _is_throttle_code(error: BaseException) -> bool:
    response = _attribute(error, "response")
    if type(response) is not dict:
        return False
    answer = response.get("Error", {})
    code, text = answer.get("Code"), answer.get("Message")
    return (type(code) is str and code in TOO_FAST_CODES) or (type(text) is str and SENDING_RATE in text)


def _retry_after(headers: Any) -> float | None:
    """The seconds that the header Retry-After names, by a number or by a date; None where there is none."""
    if headers is None:
        return None
    text = headers.get("Retry-After") or headers.get("retry-after")
    if type(text) is not str:
        return None
    if found := _SECONDS.fullmatch(text):
        return float(found[1])
    date = parsedate_to_datetime(text)  # of asctime, as HTTP permits, without a zone: it is UTC
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())


def _attribute(holder: object, name: str) -> Any:
    """An attribute; None where there is none, or where a property of the user's own raises."""
    return _readable(lambda: getattr(holder, name, None), None)


def _readable(read: Callable[[], T], otherwise: T) -> T:
    """What is read; `otherwise` where it cannot be. It is the user's own: whatever is asked of it can raise."""
    try:
        return read()
    except Interrupt:
        raise
    except BaseException:
        return otherwise
