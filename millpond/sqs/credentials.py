"""The keys that requests are signed with: where they come from, and how they are renewed while calls go on."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import botocore.session
from botocore.credentials import Credentials as StaticCredentials
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError, HTTPClientError, UnknownCredentialError
from botocore.exceptions import ConnectionError as NoConnection

from millpond.errors import AccessDenied, Unreachable
from millpond.foreign.secrets import Renewed
from millpond.foreign.text import shown
from millpond.hub.home import Errand, home, system
from millpond.sqs.codes import error_kind
from millpond.sqs.credentials_advice import mend_credentials
from millpond.sqs.endpoint import Endpoint
from millpond.sqs.queue_url import is_loopback
from millpond.sqs.sigv4 import Keys

#: Keys that expire within this time are renewed: botocore's advisory window. (Its mandatory one is 10 min.)
ADVISORY_SECONDS = 15 * 60
#: The least time between two looks at the expiry, and between two attempts to renew.
EXPIRY_LOOK_SECONDS = 60
#: A provider (a metadata service, a credential_process) that has not answered by then is given up, and asked again.
PROVIDER_SECONDS = 30
#: The least time between two loads of keys that SQS refuses: while they are wrong, not every call asks the provider.
RELOAD_SECONDS = 10
#: A credential_process that has not answered by then is ended.
PROCESS_SECONDS = 30.0

# Any other character would begin another header, or change what was signed.
_SAFE = re.compile(r"[!-~]*")


class Credentials:
    """Keys from one of the SDK's providers. `load` returns its credentials; None where there are none.

    A call gets valid keys at once; they are renewed in a thread (a greenlet, where patched). Only where there are none
    a call waits, for as long as it has time, and the provider is asked once for all calls.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._source: Any = None
        self._keys: Keys | None = None
        self._concealed = Renewed()
        self._look_at = 0.0
        self._reload_at = 0.0
        self._asking: Errand[None] | None = None
        self._asked = 0  # the number of the last question, and below of the one whose answer we have
        self._answered = 0
        # The system's own, and held for a few steps: greenlets of several threads meet here.
        self._lock = system("_thread", "RLock")()

    def keys(self, seconds: float = PROVIDER_SECONDS) -> Keys:
        """The keys; waits this long at most. Raises AccessDenied, in the provider's words, and Unreachable where the
        provider cannot be reached or has not answered in time.
        """
        keys = self._keys
        if keys is not None and monotonic() < self._look_at:
            return keys
        return self._look(seconds)

    def renew(self, refused: Keys, seconds: float = PROVIDER_SECONDS) -> Keys:
        """Keys loaded again, from the first provider on, instead of those that SQS refused.

        The same ones where there are no others, or where they were loaded a moment ago.
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
            self._ask()  # its error is raised once the keys are no longer valid
        self._look_at = monotonic() + EXPIRY_LOOK_SECONDS
        if self._keys is None:  # the answer that came was to another question
            raise Unreachable("credentials: there are none yet")
        return self._keys

    def _ask(self, afresh: bool = False) -> Errand[None]:
        """Ask the provider: the question that is under way, or a new one where that has taken too long."""
        with self._lock:
            asking = self._asking if self._asking is not None and not self._asking.done else None
            if asking is not None and asking.age < PROVIDER_SECONDS:
                return asking
            self._asked += 1
            # The provider that hangs may hold its own locks without end: begin with a new one.
            source = None if afresh or asking is not None else self._source
            number = self._asked
            self._asking = asking = Errand(lambda: self._answer(number, source), home())
            return asking

    def _answer(self, number: int, source: Any) -> None:
        """Take an answer, in a thread of its own, unless a later question was answered first."""
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
        """Ask the provider, which may take any time."""
        try:
            source = source or self._load()
            frozen = source and source.get_frozen_credentials()
        except (HTTPClientError, NoConnection, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"credentials: {shown(error)}", type(error).__name__) from error
        except ClientError as error:  # STS, SSO
            code = shown(error.response.get("Error", {}).get("Code", ""), 100)
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise error_kind({code}, status)(f"credentials: {shown(error)}", code) from error
        except Exception as error:  # each provider has its own, down to a JSONDecodeError
            code = type(error).__name__
            advice = mend_credentials(code, os.environ)
            raise AccessDenied(f"credentials: {shown(error)}: {advice}", code) from error
        if frozen is None or not frozen.access_key:
            code = "NoCredentialsError"
            raise AccessDenied(f"no credentials: {mend_credentials(code, os.environ)}", code)
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
        if not (_SAFE.fullmatch(keys.access_key) and _SAFE.fullmatch(keys.token)):
            raise AccessDenied("the access key or the session token has a space or a line break in it", "BadKeys")
        self._concealed.conceal(keys)
        return source, keys


def needs_no_credentials(endpoint_url: str) -> bool:
    """An emulator on this machine checks none: made-up ones save a search that takes seconds."""
    return is_loopback(endpoint_url) and not os.environ.get("AWS_ACCESS_KEY_ID")


def credentials_loader(endpoint: Endpoint) -> Callable[[], Any]:
    """A search along botocore's chain of providers, from its beginning each time; None where none has any."""

    def load() -> Any:
        if needs_no_credentials(endpoint.url):
            return StaticCredentials("local", "local")
        session = botocore.session.get_session()
        session.set_config_variable("region", endpoint.region)  # for STS, where a provider asks it
        resolver = session.get_component("credential_provider")
        with suppress(UnknownCredentialError):
            resolver.get_provider("custom-process")._popen = _Process
        return session.get_credentials()

    return load


class SdkKeys(StaticCredentials):  # type: ignore[misc]
    """What a client of the SDK signs with: the keys of our own Credentials, which no call waits for without end.

    It is a session's component "credential_provider", and what that provides.
    """

    def __init__(self, credentials: Credentials) -> None:
        super().__init__("", "", method="millpond")
        self._credentials = credentials

    def load_credentials(self) -> SdkKeys:
        return self

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return ReadOnlyCredentials(*self._credentials.keys())


class _Process(subprocess.Popen[bytes]):
    """A credential_process, ended where it does not answer: botocore would wait for it without end."""

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:  # noqa: A002
        try:
            return super().communicate(input, timeout or PROCESS_SECONDS)
        except BaseException:
            self.kill()
            self.wait()
            with self:  # closes the pipes, which a child of its own may hold open
                raise
