"""Foreign: texts, errors and numbers that others have written, made fit to be shown or used. Nothing here raises.

Whatever comes from outside (an endpoint's answer, a message, a handler's exception) passes here before it goes into a
log line, an error, a dead letter or onto a terminal: cut, escaped, and without any secret that this process knows.
"""

from __future__ import annotations

import re
import traceback
from json import dumps
from types import TracebackType
from typing import Any
from urllib.parse import quote

from millpond.errors import Interrupt

#: Characters of one foreign text in a log line or an error.
MAX_SHOWN = 500
#: Characters of a traceback, and of each of its lines: Heroku splits a log line after 10 kB.
MAX_TRACE, MAX_TRACE_LINE = 8_000, 500
#: What is shorter is no secret, but would blot out half of every text.
MIN_SECRET = 6
#: Digits that a number may have: any SQS timestamp has 13, and int() of thousands raises ValueError (CVE-2020-10735).
MAX_DIGITS = 18
HIDDEN = "***"

_NUMBER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}")
# What shows credentials whatever they are: an echo of a signed request, a URL with a user and a password in it.
_PATTERNS = (
    (re.compile(r"(?i)\b(Signature=)[0-9a-f]{16,}"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(?i)(x-amz-security-token|authorization|secret_?access_?key|session_?token)(\W{1,6})[^\s\"',;&<>]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"(?i)([a-z][a-z0-9+.-]{0,30}://)[^\s/@\"'<>]{1,512}@"), rf"\1{HIDDEN}@"),
)

_secrets: dict[str, None] = {}
_longest = 0


def conceal(secret: str) -> None:
    """From now on this is shown to nobody: as it is, as JSON escapes it, or as a URL does."""
    global _longest
    if len(secret) < MIN_SECRET:
        return
    for form in (secret, dumps(secret)[1:-1], quote(secret, safe="")):
        _secrets[form] = None
        _longest = max(_longest, len(form))


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """Any value as one line of at most `limit` printable characters, without secrets."""
    return _cut(_escaped(_scrubbed(text_of(value), limit)), limit)


def text_of(value: object) -> str:
    """Any value as text; its type's name where it does not turn into any."""
    try:
        return str(value)
    except Interrupt:  # the engine's own, which stops the handler that this is called from
        raise
    except BaseException:  # a user's __str__ may do anything, sys.exit() included
        return f"<{type_name(value)}>"


def type_name(value: object) -> str:
    """The name of its type, which no property of a user's can falsify."""
    return str(type.__getattribute__(type(value), "__name__"))


def describe(error: BaseException) -> str:
    """An exception in one line: its type, and what it says."""
    name, text = type_name(error), shown(error)
    return f"{name}: {text}" if text else name


def trace(error: BaseException) -> str:
    """Its traceback, the end of it where it is long; what cannot be formatted is told by frames alone."""
    try:
        text = "".join(traceback.format_exception(error))
    except Interrupt:
        raise
    except BaseException:  # SyntaxError with fields of wrong types, a __cause__ that raises
        text = "".join(traceback.format_tb(_traceback_of(error))) + describe(error)
    lines = [shown(line, MAX_TRACE_LINE) for line in text[-4 * MAX_TRACE :].splitlines()]
    return "\n".join(lines)[-MAX_TRACE:]


def _traceback_of(error: BaseException) -> TracebackType | None:
    slot: Any = BaseException.__dict__["__traceback__"]  # past any __getattribute__ of a user's
    return slot.__get__(error)  # type: ignore[no-any-return]


def number(value: object, least: int, most: int, otherwise: int) -> int:
    """A whole number within these bounds; `otherwise` for all else."""
    if type(value) is str and _NUMBER.fullmatch(value.strip()):
        value = int(value)
    return value if type(value) is int and least <= value <= most else otherwise


def _scrubbed(text: str, limit: int) -> str:
    """The beginning of it, without secrets. Where it is cut, no half of one is left at the end."""
    window = limit + 2 * _longest + 1_000
    whole = len(text) <= window
    text = text[:window]
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text if whole else text[: len(text) - _longest]


def _escaped(text: str) -> str:
    """Line breaks of every kind, control characters, those that turn the direction of a text, half characters."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
