"""AccessGuard: who may ask the local queue. Programs may; a web page that a developer has open may not.

A page reaches a port of this machine in two ways. It asks by the address: then its browser says so (Origin,
Sec-Fetch-Site). Or it lets its own name lead here (DNS rebinding), and has one origin with the queue: then that name
is in the header Host. No SDK sends those headers, and none asks by a page's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from millpond.local.sqs_error import Unreadable, no_request

# The port may differ from ours: that of a container is mapped, and a tunnel has its own.
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?)(?::[0-9]{1,5})?")
# Nobody can own a name below these: RFC 6761, and ICANN for .internal (host.docker.internal).
_OWN_DOMAINS = (".localhost", ".test", ".internal")
# What a page can send without asking first, and no SDK sends; curl's own type (urlencoded) is let through.
_PAGE_TYPES = ("text/plain", "multipart/form-data")


class AccessGuard:
    """Checks the head of every request. `host`: what the server listens on."""

    def __init__(self, scheme: str, host: str) -> None:
        self._scheme = scheme
        self._host = host.lower()
        self._is_local = self._host == "localhost" or _is_loopback(self._host) is True
        self._is_known = lru_cache(maxsize=256)(self._knows)

    def check(self, headers: Mapping[str, str], proxied: str | None = None, *, host_is_needed: bool = True) -> None:
        """Raises Unreadable for a request without a Host, for another server's, and for one that a page made.

        `proxied`: the host in the request's first line. A client sends one if its user has set this server as a proxy:
        a name that leads here does not make a browser do it.
        """
        host = headers.get("host")
        if host is None:
            if host_is_needed:
                raise no_request("it has no Host")
        elif proxied is not None:
            if proxied.lower() != host.lower():
                raise no_request(f"its Host is {host[:100]!r}, and its first line has {proxied[:100]!r}")
        elif not self._is_known(host):
            raise _denied(
                f"The Host {host[:100]!r} is not this server: ask for localhost or its address. "
                "For another name of this machine, let it listen on that name (--host NAME)."
            )
        if "origin" in headers or "sec-fetch-site" in headers:
            self._check_page(headers)
        if headers.get("content-type", "").lower().startswith(_PAGE_TYPES):
            kind = headers["content-type"][:100]
            raise _denied(f"A body of the type {kind!r} is what web pages send; this server takes JSON from SDKs.")

    def _check_page(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        own = f"{self._scheme}://{headers.get('host')}"
        if origin is not None and origin.lower() != own.lower():
            raise _denied(f"The web page {origin[:100]!r} may not use this server, which answers programs only.")
        site = headers.get("sec-fetch-site", "none").lower()
        if site not in ("none", "same-origin"):
            text = f"A web page may not use this server, which answers programs only (Sec-Fetch-Site: {site[:100]})."
            raise _denied(text)

    def _knows(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        if not found:
            return False
        name = found[1].removesuffix(".")
        loopback = _is_loopback(name.strip("[]"))
        if loopback is not None:  # nobody owns a number as a name; where only this machine can ask, there is no other
            return loopback or not self._is_local or name == self._host
        # Nor does anybody own a name without a dot: /etc/hosts or a container's network (compose) gives it.
        return "." not in name or name.endswith(_OWN_DOMAINS) or name == self._host


def _is_loopback(text: str) -> bool | None:
    """Whether it is a loopback address; None if it is not an address."""
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return None


def _denied(text: str) -> Unreadable:
    return Unreadable("AccessDeniedException", text)
