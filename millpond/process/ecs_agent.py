"""EcsAgent: the ECS agent beside this task, asked to protect it, over one connection that stays open."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from json import dumps
from socket import MSG_PEEK
from typing import Any
from urllib.parse import urlsplit

import gevent
import msgspec

from millpond.errors import MillpondError
from millpond.foreign.trace import describe

#: A call has this long: the agent asks ECS meanwhile.
AGENT_SECONDS = 5.0
#: An answer is read this far: it has a few hundred bytes.
_MAX_ANSWER_BYTES = 65_536


class ProtectionRefused(MillpondError):
    """The agent cannot be asked, or has not done what it was asked for; the text says why."""


class EcsAgent:
    """The endpoint `$ECS_AGENT_URI/task-protection/v1/state`. Raises ValueError for a URI that is none.

    Every call raises ProtectionRefused where it fails.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"ECS_AGENT_URI is no http:// URL: {uri}")
        self._path = f"{parts.path.rstrip('/')}/task-protection/v1/state"
        self._connection = HTTPConnection(parts.hostname, parts.port, timeout=AGENT_SECONDS)

    def protect(self, minutes: int) -> None:
        """Protect this task from scale-in and from deployments, for so long from now on."""
        self._put({"ProtectionEnabled": True, "ExpiresInMinutes": minutes})

    def give_up(self) -> None:
        """Let ECS stop this task as it likes."""
        self._put({"ProtectionEnabled": False})

    def keep_open(self) -> None:
        """Open the connection, where it is not open or the agent has closed it: the next call is sent at once."""
        if self._connection.sock is not None and _is_readable(self._connection.sock):
            self._connection.close()
        if self._connection.sock is None:
            self._safely(self._connection.connect)

    def _put(self, wish: dict[str, Any]) -> None:
        was_open = self._connection.sock is not None
        try:
            answer = self._safely(self._call, wish)
        except ProtectionRefused:
            if not was_open:
                raise
            answer = self._safely(self._call, wish)  # the agent may have closed it meanwhile: once more, by a new one
        _check(answer, wish["ProtectionEnabled"])

    def _call(self, wish: dict[str, Any]) -> bytes:
        self._connection.request("PUT", self._path, dumps(wish), {"Content-Type": "application/json"})
        with self._connection.getresponse() as response:
            answer = response.read(_MAX_ANSWER_BYTES)
            if response.length:
                raise HTTPException("its answer is too long, or not all of it has come")
            return answer

    def _safely(self, call: Any, *arguments: Any) -> Any:
        try:
            with gevent.Timeout(AGENT_SECONDS, TimeoutError(f"no answer within {AGENT_SECONDS:g} s")):
                return call(*arguments)
        except (OSError, HTTPException, ValueError) as error:
            self._connection.close()
            raise ProtectionRefused(f"cannot ask the ECS agent: {describe(error)}") from None


def _is_readable(sock: Any) -> bool:
    """Between two calls: the agent has closed the connection."""
    sock.settimeout(0.0)
    try:
        sock.recv(1, MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(AGENT_SECONDS)
    return True


def _check(answer: bytes, enabled: bool) -> None:
    """Raise ProtectionRefused where the answer does not say that it is so. A refusal comes with the status 200 too."""
    try:
        found = msgspec.json.decode(answer, type=dict[str, dict[str, Any] | str])
    except msgspec.DecodeError:
        raise ProtectionRefused("the answer of the ECS agent is not what it should be") from None
    protection = found.get("protection")
    if isinstance(protection, dict) and protection.get("ProtectionEnabled") is enabled:
        return
    said = found.get("failure") or found.get("error") or found
    texts = [
        str(said[key]) for key in ("Reason", "Code", "Detail", "Message") if isinstance(said, dict) and said.get(key)
    ]
    raise ProtectionRefused(f"ECS refuses: {': '.join(texts) or 'without a reason'}")
