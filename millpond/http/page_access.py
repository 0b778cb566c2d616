"""Who may see the worker's page and act by it: one pure function of a request and the rules.

A browser on this machine can be made to ask us by any page that it shows. Against that stand: the Host, which a page
that rebinds its own name to 127.0.0.1 cannot choose; the origin, which a browser adds by itself; and the token.
"""

from __future__ import annotations

import base64
import binascii
import re
from enum import Enum
from hmac import compare_digest
from http import HTTPStatus
from ipaddress import ip_address
from typing import NamedTuple

from millpond.http.page_request import PageRequest


class Purpose(Enum):
    """What a path is for."""

    LOOK = "look"  # it shows something of the worker
    CHANGE = "change"  # it changes something


class AccessRules(NamedTuple):
    """`hosts`: names by which this worker may be asked, beside those of this machine; without a port any port fits.

    `token`: without one nothing can be changed, and nothing is shown but to this machine.
    """

    hosts: frozenset[str] = frozenset()
    token: str = ""


# A name or an address, and perhaps a port: nothing else, so that no part of it can be taken for another.
_HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9_.-]{1,253}))(?::[0-9]{1,5})?")
_METHODS = {Purpose.LOOK: ("GET", "HEAD"), Purpose.CHANGE: ("POST",)}


def denial_of(request: PageRequest, purpose: Purpose, rules: AccessRules) -> HTTPStatus | None:
    """The status by which this request is refused, or None. What is wrong with it is not said to who asks."""
    if not _is_known_host(request.host, rules.hosts):
        return HTTPStatus.MISDIRECTED_REQUEST
    if request.method not in _METHODS[purpose] or (purpose is Purpose.CHANGE and not rules.token):
        return HTTPStatus.METHOD_NOT_ALLOWED
    if purpose is Purpose.CHANGE and not _is_same_origin(request):
        return HTTPStatus.FORBIDDEN
    if purpose is Purpose.CHANGE and not _is_json(request.content_type):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    if purpose is Purpose.LOOK and _is_from_here(request):
        return None
    if not rules.token:
        return HTTPStatus.FORBIDDEN
    return None if _has_token(request.authorization, rules.token) else HTTPStatus.UNAUTHORIZED


def _is_known_host(host: str, hosts: frozenset[str]) -> bool:
    name = _name_of(host)
    return bool(name) and (_is_loopback(name) or host.lower() in hosts or name in hosts)


def _is_from_here(request: PageRequest) -> bool:
    """Whether it comes from this machine, and by a name of it: a proxy on this machine passes on others' names."""
    return _is_loopback(request.peer) and _is_loopback(_name_of(request.host)) and not request.is_forwarded


def _is_same_origin(request: PageRequest) -> bool:
    """Browsers say it themselves: Sec-Fetch-Site, older ones Origin. What sends neither is no browser."""
    if request.fetch_site:
        return request.fetch_site in ("same-origin", "none")
    return not request.origin or request.origin.partition("://")[2].lower() == request.host.lower()


def _is_json(content_type: str) -> bool:
    """What a page of another origin cannot send without asking first, which nobody answers."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _has_token(authorization: str, token: str) -> bool:
    """`Bearer TOKEN`, or `Basic` with the token as its password, for which a browser asks by itself."""
    scheme, _, value = authorization.partition(" ")
    given = value.strip() if scheme.lower() == "bearer" else _password(value) if scheme.lower() == "basic" else ""
    return compare_digest(given.encode("utf-8", "surrogatepass"), token.encode("utf-8", "surrogatepass"))


def _password(value: str) -> str:
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _name_of(host: str) -> str:
    """A host without its port, and an IPv6 address without its brackets; "" where it is none."""
    found = _HOST.fullmatch(host.lower())
    return "" if found is None else found[1] or found[2]


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
