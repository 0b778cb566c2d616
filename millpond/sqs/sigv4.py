"""AWS Signature Version 4 for one kind of request: a POST to one path, without a query.

Signed is all that is sent and that an SDK would sign: the server refuses a request whose Host, Content-Type or any
X-Amz header is not.
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
SERVICE = "sqs"
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


class Keys(NamedTuple):
    """What requests are signed with. `token` is "" for keys that do not expire."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:  # whoever shows a traceback's variables must not show these
        return f"<Keys {self.access_key}>"


class Keyring(Protocol):
    """Gives keys: the process's Credentials, or those that a native thread was handed over."""

    def keys(self, seconds: float = ...) -> Keys: ...

    def renew(self, refused: Keys, seconds: float = ...) -> Keys: ...


@lru_cache(maxsize=4)
def moment(seconds: int) -> str:
    """Seconds since the epoch as X-Amz-Date has them: 20261122T235959Z."""
    return strftime("%Y%m%dT%H%M%SZ", gmtime(seconds))


class Signer:
    """Signs requests that differ in nothing but their bodies. `headers`: in the order of their names, in lower case.

    `authorization`: the value of the header, up to the signature that is its end.
    """

    def __init__(self, keys: Keys, region: str, date: str, path: str, headers: Mapping[str, str]) -> None:
        scope = f"{date[:8]}/{region}/{SERVICE}/aws4_request"
        names = ";".join(headers)
        fields = "".join(f"{name}:{value}\n" for name, value in headers.items())
        self.authorization = f"{ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature="
        twice = quote(path, safe="/~")  # what is %20 on its way is signed as %2520
        self._request = sha256(f"POST\n{twice}\n\n{fields}\n{names}\n".encode())
        self._text = f"{ALGORITHM}\n{date}\n{scope}\n".encode()
        self._inner, self._outer = _day_key(keys.secret_key, date[:8], region)

    def signature(self, body: bytes) -> bytes:
        """64 hexadecimal digits."""
        request, inner, outer = self._request.copy(), self._inner.copy(), self._outer.copy()
        request.update(sha256(body).hexdigest().encode())
        inner.update(self._text + request.hexdigest().encode())
        outer.update(inner.digest())
        signature: str = outer.hexdigest()
        return signature.encode()


@lru_cache(maxsize=16)
def _day_key(secret_key: str, day: str, region: str) -> tuple[Any, Any]:
    """Four HMACs that stay the same for a day; of the fifth, what its key alone decides (RFC 2104): half its time."""
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, SERVICE, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    block = key.ljust(sha256().block_size, b"\0")
    return sha256(block.translate(_INNER)), sha256(block.translate(_OUTER))
