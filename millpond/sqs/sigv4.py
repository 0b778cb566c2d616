"""AWS Signature Version 4 for one kind of request: a POST to one path, without a query.

It signs every header that an SDK would sign: the server refuses a request whose Host, Content-Type or X-Amz headers are
not signed.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from time import gmtime, strftime
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


class Keys(NamedTuple):
    """What requests are signed with. `token` is "" for keys that do not expire."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:  # a traceback with its variables must not show these
        return f"<Keys {self.access_key}>"


class Keyring(Protocol):
    """Gives keys: the process's Credentials, or a native thread's FrozenKeys."""

    def keys(self, seconds: float = ...) -> Keys: ...

    def renew(self, refused: Keys, seconds: float = ...) -> Keys: ...


@lru_cache(maxsize=4)
def moment(seconds: int) -> str:
    """Seconds since the epoch as X-Amz-Date has them: 20261122T235959Z."""
    return strftime("%Y%m%dT%H%M%SZ", gmtime(seconds))


class Signer:
    """Signs requests that differ in their bodies alone. `headers`: names in lower case, in order.

    `authorization`: the value of that header, without the signature that ends it.
    """

    def __init__(self, keys: Keys, region: str, date: str, path: str, headers: Mapping[str, str], service: str) -> None:
        scope = f"{date[:8]}/{region}/{service}/aws4_request"
        names = ";".join(headers)
        fields = "".join(f"{name}:{value}\n" for name, value in headers.items())
        self.authorization = f"{ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature="
        twice = quote(path, safe="/~")  # what is sent as %20 is signed as %2520
        self._request = sha256(f"POST\n{twice}\n\n{fields}\n{names}\n".encode())
        self._text = f"{ALGORITHM}\n{date}\n{scope}\n".encode()
        self._inner, self._outer = _day_key(keys.secret_key, date[:8], region, service)

    def signature(self, body: bytes) -> bytes:
        """The signature of a body: 64 hexadecimal digits."""
        request, inner, outer = self._request.copy(), self._inner.copy(), self._outer.copy()
        request.update(sha256(body).hexdigest().encode())
        inner.update(self._text + request.hexdigest().encode())
        outer.update(inner.digest())
        signature: str = outer.hexdigest()
        return signature.encode()


@lru_cache(maxsize=16)
def _day_key(secret_key: str, day: str, region: str, service: str) -> tuple[Any, Any]:
    """Four HMACs that are the same for a day, and the half of the fifth that depends on its key alone (RFC 2104)."""
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    block = key.ljust(sha256().block_size, b"\0")
    return sha256(block.translate(_INNER)), sha256(block.translate(_OUTER))
