"""What the URL of a queue says: whether it names a queue, whether that is a FIFO queue, and where it is."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

from millpond.errors import ConfigError
from millpond.foreign.text import shown

#: What is wrong with a URL that names no queue.
NAMELESS = "the queue's name is missing at its end: https://sqs.<region>.amazonaws.com/<account>/<name>"
# More than a host, and more than the number of an account behind it.
_NAMED = re.compile(r"https?://[^\s/?#]+/+(?![0-9]{12}/*\Z)[^\s/?#]")
#: The ends of SQS's host names, one for each partition of AWS; and of those that answer over IPv6 too.
SUFFIXES = (
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
)
DUAL_STACK_SUFFIXES = (
    "api.aws",
    "api.amazonwebservices.com.cn",
    "api.amazonwebservices.eu",
    "api.aws.ic.gov",
    "api.aws.scloud",
    "api.cloud-aws.adc-e.uk",
    "api.aws.hci.ic.gov",
)

_REGION = r"(?P<region>[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2})"
#: Where a host or a path has a region: sqs.eu-west-1.amazonaws.com, vpce-0a1b-us-east-1a.sqs.us-east-1.vpce...; the
#: legacy eu-west-1.queue.amazonaws.com; eu-west-1.goaws.com; LocalStack has the first two, and /queue/eu-west-1/...
_REGIONAL = re.compile(rf"sqs\.{_REGION}\.(?:{'|'.join(map(re.escape, SUFFIXES))})")
_IN_HOST = (
    re.compile(rf"(?:.*\.)?sqs(?:-fips)?\.{_REGION}(?:\..*)?"),
    re.compile(rf"(?:.*\.)?{_REGION}\.queue\..*"),
    re.compile(rf"(?=(?:af|ap|ca|cn|eu|eusc|il|me|mx|sa|us)-){_REGION}\..*"),
)
#: At Amazon, in any label: a service can stand before SQS (abc.execute-api.eu-west-1.amazonaws.com).
_IN_AWS = re.compile(rf"(?:.*\.)?{_REGION}\..*")
_IN_PATH = re.compile(rf"/queue/{_REGION}/[0-9]+/[^/]+")
#: The oldest host, which names no region.
_OLDEST = {"queue.amazonaws.com": "us-east-1"}


class Place(msgspec.Struct, frozen=True):
    """Where a queue is, by its URL alone. `endpoint_url`: scheme, host and port as written, without a password.

    `region`: "" where the URL names none. `regional`: it is Amazon's own host for the region, for which the SDK's
    settings can choose another (FIPS, dual-stack).
    """

    endpoint_url: str
    region: str
    regional: bool = False
    aws: bool = False


def has_name(url: str) -> bool:
    """Whether something stands behind the host, and behind the number of an account."""
    return bool(_NAMED.match(url))


def is_fifo(url: str) -> bool:
    """Whether messages of one group come in order, by the name's suffix alone. (Elsewhere a group is a tenant.)"""
    return url.partition("?")[0].partition("#")[0].rstrip("/").endswith(".fifo")


def place_of(url: str) -> Place:
    """The place of a queue, or of an endpoint. Raises ConfigError where this is not the URL of one."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise ConfigError(f"{shown(url)}: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{shown(url)}: a URL is needed, https://...")
    aws = host.endswith(tuple(f".{suffix}" for suffix in SUFFIXES + DUAL_STACK_SUFFIXES))
    netloc = parts.netloc.rpartition("@")[2]
    regional = bool(_REGIONAL.fullmatch(netloc.lower()))
    return Place(f"{parts.scheme}://{netloc}", _region_in(host, parts.path, aws), regional, aws)


def _region_in(host: str, path: str, aws: bool) -> str:
    named = next(filter(None, (form.fullmatch(host) for form in _IN_HOST)), None)
    named = named or (_IN_AWS.fullmatch(host) if aws else _IN_PATH.fullmatch(path))
    return named["region"] if named else _OLDEST.get(host, "")


def is_loopback(url: str) -> bool:
    """Whether this URL leads to this machine, as LocalStack's public name does."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return (
        host == "::1" or host.startswith("127.") or f".{host}".endswith((".localhost", ".localhost.localstack.cloud"))
    )
