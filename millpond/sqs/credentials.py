"""The keys that requests are signed with, renewed before they expire, behind the backs of the calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from subprocess import TimeoutExpired
from time import monotonic
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

from millpond.errors import AccessDenied, Unreachable
from millpond.foreign.secrets import Renewed
from millpond.foreign.text import shown
from millpond.hub.home import Errand, home, system
from millpond.sqs.codes import error_kind
from millpond.sqs.sigv4 import Keys

#: botocore's advisory window: keys that expire within it are renewed. (Its mandatory one is 10 min.)
ADVISORY_SECONDS = 15 * 60
#: A call looks at the expiry when the last look is so long ago; so far apart are attempts to renew, at least.
LOOK_SECONDS = 60
#: A provider that has not answered by then (a metadata service, a credential_process) is given up, and asked anew.
PROVIDER_SECONDS = 30
#: Keys that SQS refuses are loaded afresh so often at most: while they stay wrong, not every call asks the provider.
RELOAD_SECONDS = 10
HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the task or pod a role"

# Anything else would be another header, or would not be what was signed.
_SAFE = re.compile(r"[!-~]*")


class Credentials:
    """Keys from one of the SDK's providers. `load` returns its credentials, None where there are none.

    While there are valid keys a call gets them at once; renewing goes on in a thread (a greenlet, where patched).
    Only where there are none does a call wait, no longer than it has time, and the provider is asked once for all.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._source: Any = None
        self._keys: Keys | None = None
        self._concealed = Renewed()
        self._look_at = 0.0
        self._reload_at = 0.0
        self._asking: Errand[None] | None = None
        self._asked = 0  # how often so far; and which answer is the one we have
        self._answered = 0
        # The system's own, and held for a few steps only: greenlets of several threads come here.
        self._lock = system("_thread", "RLock")()

    def keys(self, seconds: float = PROVIDER_SECONDS) -> Keys:
        """Waits so long at most. Raises AccessDenied, in the provider's words, and Unreachable where it cannot be
        reached, or has not answered in time.
        """
        keys = self._keys
        if keys is not None and monotonic() < self._look_at:
            return keys
        return self._look(seconds)

    def renew(self, refused: Keys, seconds: float = PROVIDER_SECONDS) -> Keys:
        """Keys loaded afresh, from the beginning of the provider chain, in the place of those that SQS refused.

        The same ones where there are no others, or where they were looked for a moment ago.
        """
        if self._keys is refused:
            now = monotonic()
            if now >= self._reload_at:
                self._reload_at = now + RELOAD_SECONDS
                self._wait(self._ask(afresh=True), seconds)
            elif self._asking is not None and not self._asking.done:
                self._wait(self._asking, seconds)
        return self._keys or refused

    def _look(self, seconds: float) -> Keys:
        if self._keys is None or self._expires_within(0):
            self._wait(self._ask(), seconds)
        elif self._expires_within(ADVISORY_SECONDS):
            self._ask()  # an error is told once the keys are no longer valid
        self._look_at = monotonic() + LOOK_SECONDS
        if self._keys is None:  # another answer than the one that was waited for
            raise Unreachable("credentials: none yet")
        return self._keys

    def _ask(self, afresh: bool = False) -> Errand[None]:
        """The provider is asked: the question that is under way, or a new one where that has taken too long."""
        with self._lock:
            asking = self._asking if self._asking is not None and not self._asking.done else None
            if asking is not None and asking.age < PROVIDER_SECONDS:
                return asking
            self._asked += 1
            # What hangs may hold the provider's own locks for ever: begin with another one.
            source = None if afresh or asking is not None else self._source
            number = self._asked
            self._asking = asking = Errand(lambda: self._answer(number, source), home())
            return asking

    def _answer(self, number: int, source: Any) -> None:
        """In a thread of its own. An answer that came after a later one is not used."""
        source, keys = self._obtain(source)
        with self._lock:
            if number > self._answered:
                self._answered, self._source, self._keys = number, source, keys

    def _wait(self, asking: Errand[None], seconds: float) -> None:
        try:
            asking.result(min(seconds, PROVIDER_SECONDS))
        except TimeoutError:
            raise Unreachable(f"credentials: their provider has not answered in {asking.age:.3g} s") from None

    def _expires_within(self, seconds: float) -> bool:
        needed = getattr(self._source, "refresh_needed", None)
        return needed is not None and bool(needed(seconds))

    def _obtain(self, source: Any) -> tuple[Any, Keys]:
        """Asks the provider, which may take as long as it likes."""
        try:
            source = source or self._load()
            frozen = source and source.get_frozen_credentials()
        except (HTTPClientError, NoConnection, TimeoutExpired) as error:
            raise Unreachable(f"credentials: {shown(error)}", type(error).__name__) from error
        except ClientError as error:  # STS, SSO
            code = shown(error.response.get("Error", {}).get("Code", ""), 100)
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise error_kind({code}, status)(f"credentials: {shown(error)}", code) from error
        except Exception as error:  # each provider has its own, down to a JSONDecodeError
            raise AccessDenied(f"credentials: {shown(error)}: {HINT}", type(error).__name__) from error
        if frozen is None or not frozen.access_key:
            raise AccessDenied(f"no credentials: {HINT}", "NoCredentialsError")
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
        if not (_SAFE.fullmatch(keys.access_key) and _SAFE.fullmatch(keys.token)):
            raise AccessDenied("the access key or the session token has a space or a line break in it", "BadKeys")
        self._concealed.conceal(keys)
        return source, keys
