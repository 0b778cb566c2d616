"""SQS by its wire protocol: awsJson1.0 over kept connections, without an SDK in the way of a call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import monotonic, time
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from millpond.errors import QueueError, Unreachable
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.sqs import answers, sigv4
from millpond.sqs.codes import KEY_CODES, is_skew
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.http_connection import TOO_LARGE, HttpAnswer
from millpond.sqs.requests import Request, as_json
from millpond.sqs.shapes import MAX_TOLD
from millpond.sqs.sigv4 import Keyring, Keys
from millpond.sqs.sqs_queue import Sqs

CONTENT_TYPE = "application/x-amz-json-1.0"
#: The latest time that a server's clock is believed: the year 2100.
LATEST_TIME = 4_102_444_800
Read = TypeVar("Read")


class Site(NamedTuple):
    """Where requests go, as they are addressed and signed."""

    host: str
    path: str
    region: str


class WireSqs(Sqs):
    """SQS at one endpoint: signs and sends calls. Its queues share credentials, connections and the server's clock."""

    client = "wire"

    def __init__(self, endpoint_url: str, region: str, credentials: Keyring, connections: ConnectionPool) -> None:
        self.endpoint_url = endpoint_url
        self.region = region
        self.credentials = credentials
        self.connections = connections
        self._site = site_of(endpoint_url, region)
        self._skew_seconds = 0.0

    def call(self, name: str, request: Request, seconds: float, read: Callable[[bytes | bytearray], Read]) -> Read:
        body = as_json(request)
        try:
            answer = self._answer(name, body, seconds)
            if answer.status != 200:
                raise answers.error_of(answer.status, answer.header("x-amzn-query-error"), answer.body)
            if b"json" not in answer.head:
                raise ValueError(f"it is {answer.header('content-type') or 'of no content type'}, not JSON")
            return read(answer.body)
        except QueueError as error:
            raise type(error)(f"{name}: {shown(error, MAX_TOLD)}", error.code) from error
        except MemoryError as error:
            raise Unreachable(f"{name}: no memory for the answer", TOO_LARGE) from error
        except Exception as error:  # nested 10,000 deep, numbers of 5,000 digits: each reader has its own errors
            raise Unreachable(f"{name}: the answer is not from SQS: {describe(error)}") from error

    def _answer(self, name: str, body: bytes, seconds: float) -> HttpAnswer:
        """The answer to a call, sent once; twice only where SQS refuses the signature and there is a better one."""
        end = monotonic() + seconds
        keys, skew = self.credentials.keys(seconds), self._skew_seconds
        answer = self.connections.exchange(self._signed(name, body, keys, skew), end - monotonic())
        if answer.status == 200:
            return answer
        better = self._better(answer, keys, skew, end)
        if better is None:
            return answer
        answer = self.connections.exchange(self._signed(name, body, *better), end - monotonic())
        if answer.status == 200:
            self._skew_seconds = better[1]  # only now: the wrong time of one answer would spoil every later call
        return answer

    def _better(self, answer: HttpAnswer, keys: Keys, skew: float, end: float) -> tuple[Keys, float] | None:
        """The keys, and the seconds to add to our time, for a second try; None where it could not help."""
        codes, text = answers.error_names(answer.header("x-amzn-query-error"), answer.body)
        if is_skew(frozenset(codes), text):
            server_time = _time_of(answer)
            return (keys, server_time - time()) if server_time is not None else None
        if KEY_CODES.intersection(codes):
            renewed = self.credentials.renew(keys, end - monotonic())
            return (renewed, skew) if renewed != keys else None
        return None

    def _signed(self, name: str, body: bytes, keys: Keys, skew: float) -> bytes:
        date = sigv4.moment(int(time() + skew))
        request = repeated_request if name == "ReceiveMessage" else signed_request
        return request(self._site, name, body, keys, date)


def signed_request(site: Site, name: str, body: bytes, keys: Keys, date: str) -> bytes:
    """The whole request of a call. `date`: X-Amz-Date; the signature is good for 15 min from then."""
    head, signer = _frame(site, name, keys, date)
    return b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (head, signer.signature(body), len(body), body)


@lru_cache(maxsize=32)
def _frame(site: Site, name: str, keys: Keys, date: str) -> tuple[bytes, sigv4.Signer]:
    """What all calls of one name have in common within a second: the head up to the signature, and the signer."""
    # All of these are signed: by the rule of SigV4 in lower case and in alphabetical order.
    headers = {
        "content-type": CONTENT_TYPE,
        "host": site.host,
        "x-amz-date": date,
        **({"x-amz-security-token": keys.token} if keys.token else {}),
        "x-amz-target": f"AmazonSQS.{name}",
        "x-amzn-query-mode": "true",
    }
    signer = sigv4.Signer(keys, site.region, date, site.path, headers)
    lines = [f"{field}: {value}" for field, value in headers.items()]
    lines = [f"POST {site.path} HTTP/1.1", *lines, "user-agent: millpond", f"authorization: {signer.authorization}"]
    return "\r\n".join(lines).encode(), signer


#: A receive is the same until the date changes, a second later: it is signed once for all pollers.
repeated_request = lru_cache(maxsize=32)(signed_request)


def _time_of(answer: HttpAnswer) -> float | None:
    """The Date of an answer, in seconds since the epoch; None where there is none between 1970 and 2100."""
    try:
        date = parsedate_to_datetime(answer.header("date"))
        seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except Exception:  # the parser is made for e-mails: a zone of 20 digits is an OverflowError
        return None
    return seconds if 0 <= seconds <= LATEST_TIME else None


def site_of(endpoint_url: str, region: str) -> Site:
    """The site of an endpoint: the host without the scheme's own port, the path with a slash at its end."""
    parts = urlsplit(endpoint_url)
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    own = 443 if parts.scheme == "https" else 80  # the Host that is signed leaves it out
    port = "" if parts.port in (None, own) else f":{parts.port}"
    return Site(f"{host}{port}", f"{quote(parts.path.rstrip('/'), safe='/%~')}/", region)
