"""Signed calls to one service by its wire protocol: awsJson1.0 over kept connections, without an SDK in the way."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import monotonic, time
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from millpond.sqs import answers, sigv4
from millpond.sqs.codes import KEY_CODES, is_skew
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.http_connection import HttpAnswer
from millpond.sqs.sigv4 import Keyring, Keys

CONTENT_TYPE = "application/x-amz-json-1.0"
#: The latest time that a server's clock is believed: the year 2100.
LATEST_TIME = 4_102_444_800


class AwsService(NamedTuple):
    """A service: its name in a signature, what X-Amz-Target begins with, and headers of its own, after that one."""

    name: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()


SQS = AwsService("sqs", "AmazonSQS", (("x-amzn-query-mode", "true"),))


class Site(NamedTuple):
    """Where requests go, as they are addressed and signed."""

    host: str
    path: str
    region: str
    service: AwsService = SQS


class SignedCalls:
    """Signs and sends the calls to one endpoint. They share credentials, connections and the server's clock."""

    def __init__(
        self,
        endpoint_url: str,
        region: str,
        credentials: Keyring,
        connections: ConnectionPool,
        service: AwsService = SQS,
    ) -> None:
        self.endpoint_url = endpoint_url
        self.region = region
        self.credentials = credentials
        self.connections = connections
        self._site = site_of(endpoint_url, region, service)
        self._skew_seconds = 0.0

    def answer(self, name: str, body: bytes, seconds: float) -> HttpAnswer:
        """The answer to a call, sent once; twice only where its signature is refused and there is a better one."""
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
            server_time = moment_of(answer.header("date"))
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
        "x-amz-target": f"{site.service.target}.{name}",
        **dict(site.service.headers),
    }
    signer = sigv4.Signer(keys, site.region, date, site.path, headers, site.service.name)
    lines = [f"{field}: {value}" for field, value in headers.items()]
    lines = [f"POST {site.path} HTTP/1.1", *lines, "user-agent: millpond", f"authorization: {signer.authorization}"]
    return "\r\n".join(lines).encode(), signer


#: A receive is the same until the date changes, a second later: it is signed once for all pollers.
repeated_request = lru_cache(maxsize=32)(signed_request)


def moment_of(text: str) -> float | None:
    """The Date of an answer, in seconds since the epoch; None where it is none between 1970 and 2100."""
    try:
        date = parsedate_to_datetime(text)
        seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except Exception:  # the parser is made for e-mails: a zone of 20 digits is an OverflowError
        return None
    return seconds if 0 <= seconds <= LATEST_TIME else None


def site_of(endpoint_url: str, region: str, service: AwsService = SQS) -> Site:
    """The site of an endpoint: the host without the scheme's own port, the path with a slash at its end."""
    parts = urlsplit(endpoint_url)
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    own = 443 if parts.scheme == "https" else 80  # the Host that is signed leaves it out
    port = "" if parts.port in (None, own) else f":{parts.port}"
    return Site(f"{host}{port}", f"{quote(parts.path.rstrip('/'), safe='/%~')}/", region, service)
