"""The secrets that this process knows, and how a setting or a variable is recognised as one."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from json import dumps
from typing import Any
from urllib.parse import quote, unquote, urlsplit

#: Shorter values are not taken for secrets: they would blot out half of every text.
MIN_SECRET = 6
#: How many secrets of the settings are remembered, and how many keys. Of keys that are renewed every hour: those in use
#: and those before them, of which an answer or an error may still speak.
MAX_SECRETS, GENERATIONS = 200, 2
#: A value of this length with digits in it is a key, whatever its name says.
MIN_KEY = 16

#: Names of settings and variables whose values are secrets, and (below) that only say where one is.
#: ("PWD" alone is the working directory; "compass" and "bypass" are no passwords.)
SECRET_NAME = re.compile(
    r"(?i)pass_?(?:w|phrase|code)|secret|token|credential|dsn|api_?key|[._-]pwd$"
    r"|(?:^|[._-])(?:db|smtp|mysql|pg|redis|user)?pass(?:[._-]?[0-9]+)?$|(?:^|[._-])key(?:[._-]?[0-9]+)?$"
    r"|(?:^|[._-])(?:auth|authorization|bearer|cookie|jwt|pat|salt|signature)$|webhook|connection_?string"
)
_PLACE_NAME = re.compile(r"(?i)(file|path|dir|folder|arn|name|version|expiration|ttl|seconds)$")

_Forms = frozenset[str]
_secrets: dict[str, _Forms] = {}  # the last one learnt is the last here
_keys: dict[str, _Forms] = {}  # keys that are renewed: they take no secret's place in the table above
#: Another object after each change, whichever thread has made it.
state = object()


def conceal(secret: str) -> None:
    """Show this to nobody from now on: as it is, as JSON escapes it, as a URL does, or within base64."""
    _learn(_secrets, secret)


class Renewed:
    """The keys of one owner, which replace one another. Two generations are hidden; older ones have expired.

    (Each known secret costs time at every log line.)
    """

    def __init__(self) -> None:
        self._generations: list[frozenset[str]] = []

    def conceal(self, secrets: Iterable[str]) -> None:
        """Hide these, which are in use from now on."""
        latest = frozenset(secrets)
        if latest not in self._generations:
            self._generations.append(latest)
        for secret in latest:
            _learn(_keys, secret)
        while len(self._generations) > GENERATIONS:
            for secret in self._generations.pop(0).difference(*self._generations):
                _forget(_keys, secret)


def _learn(known: dict[str, _Forms], secret: str) -> None:
    if len(secret) < MIN_SECRET:
        return
    forms = known.pop(secret, None)
    known[secret] = forms or frozenset(_forms(secret))
    if forms is None:
        for old in list(known)[:-MAX_SECRETS]:
            _forget(known, old)
        _change()


def _forget(known: dict[str, _Forms], secret: str) -> None:
    known.pop(secret, None)
    _change()


def _change() -> None:
    global state
    state = object()


def conceal_value(name: str, value: str) -> None:
    """Hide the value of a setting or a variable of this name, where either says that it is a secret."""
    if SECRET_NAME.search(name) and not _PLACE_NAME.search(name):
        conceal(value)
    elif "prefix" in name.lower():  # some StatsD services take their API key there; "millpond" is none
        for part in value.split("."):
            if len(part) >= MIN_KEY and re.search("[0-9]", part):
                conceal(part)
    if "://" in value:
        _conceal_in_url(value)


def conceal_environment(environ: Mapping[str, str]) -> None:
    """Hide the secrets in the environment."""
    for name, value in environ.items():
        conceal_value(name, value)


def _conceal_in_url(url: str) -> None:
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return
    conceal(password)
    conceal(unquote(password))


def _forms(secret: str) -> Iterator[str]:
    yield from {
        secret,
        dumps(secret)[1:-1],
        dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        repr(secret)[1:-1],
    }
    data = secret.encode("utf-8", "surrogatepass")
    for shift in range(3):  # base64 of something that has it at any place, as AUTH PLAIN and Basic have a password
        whole = b64encode(bytes(shift) + data).decode().rstrip("=")
        yield whole[-(-8 * shift // 6) : 8 * (shift + len(data)) // 6]


def known_forms() -> set[str]:
    """Every form of every secret that is known now."""
    return {form for known in (_secrets, _keys) for forms in list(known.values()) for form in forms}


class Unshown:
    """A base beside msgspec.Struct: repr() shows no field. Some hold bodies or passwords, and a service such as Sentry
    gets the repr() of every local variable with an error."""

    __slots__ = ()
    __rich_repr__: Any = lambda self: iter(())  # rich would draw the fields

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
