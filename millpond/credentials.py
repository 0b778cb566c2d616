"""The keys that requests are signed with, renewed before they expire, behind the backs of the calls."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from botocore.exceptions import ConnectionError as NoConnection
from botocore.exceptions import HTTPClientError

from millpond.errors import AccessDenied, QueueError, Unreachable
from millpond.foreign import conceal
from millpond.sigv4 import Keys

#: botocore's advisory window: keys that expire within it are renewed. (Its mandatory one is 10 min.)
ADVISORY_SECONDS = 15 * 60
#: A call looks at the expiry when the last look is so long ago; so far apart are attempts to renew, at least.
LOOK_SECONDS = 60
HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the task or pod a role"

# Anything else would be another header, or would not be what was signed.
_SAFE = re.compile(r"[!-~]*")


class Credentials:
    """Keys from one of the SDK's providers. `load` returns its credentials, None where there are none.

    While there are valid keys a call gets them at once; renewing goes on in a thread (a greenlet, where patched).
    Only where there are none does a call wait, and one at a time asks the provider.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._source: Any = None
        self._keys: Keys | None = None
        self._look_at = 0.0
        self._lock = threading.Lock()

    def keys(self) -> Keys:
        """Raises AccessDenied, in the provider's words, and Unreachable where the provider cannot be reached."""
        keys = self._keys
        if keys is not None and monotonic() < self._look_at:
            return keys
        return self._look()

    def renew(self, refused: Keys) -> Keys:
        """Keys loaded afresh, from the beginning of the provider chain, in the place of those that SQS refused."""
        with self._lock:
            if self._keys is refused:
                self._source, self._keys = self._obtain(None)
            return self._keys or refused

    def _look(self) -> Keys:
        keys = self._keys
        if keys is None or self._expires_within(0):
            with self._lock:  # a provider asks once, and answers those who waited here with what it has then
                self._source, self._keys = self._obtain(self._source)
                keys = self._keys
        elif self._expires_within(ADVISORY_SECONDS):
            threading.Thread(target=self._renew, name="credentials", daemon=True).start()
        self._look_at = monotonic() + LOOK_SECONDS
        return keys

    def _renew(self) -> None:
        if not self._lock.acquire(blocking=False):  # somebody else is at it
            return
        try:
            self._source, self._keys = self._obtain(self._source)
        except QueueError:
            pass  # the keys are still valid; told, once they are not
        finally:
            self._lock.release()

    def _expires_within(self, seconds: float) -> bool:
        needed = getattr(self._source, "refresh_needed", None)
        return needed is not None and bool(needed(seconds))

    def _obtain(self, source: Any) -> tuple[Any, Keys]:
        """Asks the provider, which may take as long as it likes."""
        try:
            source = source or self._load()
            frozen = source and source.get_frozen_credentials()
        except (HTTPClientError, NoConnection) as error:
            raise Unreachable(f"credentials: {error}", type(error).__name__) from error
        except Exception as error:  # each provider has its own, down to a JSONDecodeError
            raise AccessDenied(f"credentials: {error}: {HINT}", type(error).__name__) from error
        if frozen is None or not frozen.access_key:
            raise AccessDenied(f"no credentials: {HINT}", "NoCredentialsError")
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
        if not (_SAFE.fullmatch(keys.access_key) and _SAFE.fullmatch(keys.token)):
            raise AccessDenied("the access key or the session token has a space or a line break in it", "BadKeys")
        for secret in keys:
            conceal(secret)
        return source, keys
