"""Takes secrets out of a text: those that this process knows, and what looks like credentials or a mail address."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from typing import NamedTuple

from millpond.foreign import secrets

HIDDEN = "***"

_VALUE = r"""[^\s"'\\,;&<>{}\[\]()]+"""
_QUOTE = r"""[\\"']{0,4}\s{0,4}"""
# Between a name and its value: in a header, which a setting's name in a sentence must not look like; in JSON or a URL.
_COLON, _JOIN = rf"{_QUOTE}[:=]\s{{0,4}}{_QUOTE}", rf"""(?:[\\"']{{1,4}}\s{{0,4}}:|\s{{0,4}}=)\s{{0,4}}{_QUOTE}"""
# What shows that something is a credential or an address: in an echo of a signed request, or a URL with a password.
# A pattern is looked for only where one of its words (in lower case) is.
_PATTERNS = tuple(
    (words, re.compile(pattern, re.IGNORECASE), instead)
    for words, pattern, instead in (
        (("authorization",), rf"\b(authorization{_COLON})(?:[a-z0-9-]+\s+)?{_VALUE}", rf"\1{HIDDEN}"),
        (("security-token",), rf"(security-token{_COLON}){_VALUE}", rf"\1{HIDDEN}"),
        (
            ("credential", "signature", "key", "token", "passw", "client_secret"),
            r"((?:x-amz-credential|\bcredential|signature|secret_?access_?key|(?:session|access|auth|api|account)_?(?:token|key)"
            rf"|passw(?:or)?d|client_secret){_JOIN}){_VALUE}",
            rf"\1{HIDDEN}",
        ),
        (
            ("?", "&"),
            rf"([?&][\w.-]{{0,40}}(?:token|key|secret|passw|sig|credential)[\w.-]{{0,40}}=){_VALUE}",
            rf"\1{HIDDEN}",
        ),
        (("://",), r"([a-z][a-z0-9+.-]{0,30}://)[^\s/@\"'<>]{1,2000}@", rf"\1{HIDDEN}@"),
        (
            ("@",),
            r"(?:\"[^\"@\n]{1,64}\"|[^\s@\"'`<>()\[\]{},;:=*/\\]{1,64})@(?:\[[^\]\s]{1,64}\]|[\w-][\w.-]{0,253})",
            HIDDEN,
        ),
    )
)


class _Hiding(NamedTuple):
    """Every form of the secrets that were known at one time (`state`)."""

    state: object
    words: tuple[str, ...]  # without white space, the shortest first
    phrases: tuple[str, ...]
    shortest: int
    longest: int


_hiding = _Hiding(secrets.state, (), (), sys.maxsize, 0)


def scrubbed(text: str, limit: int) -> str:
    """The beginning of a text, without secrets. Where it is cut, no half of a secret is left at the end."""
    hiding = _hiding if _hiding.state is secrets.state else _make_hiding()
    window = limit + 2 * hiding.longest + 1_000
    whole = len(text) <= window
    text = text[:window]
    if len(text) >= hiding.shortest:
        text = _hide(text, hiding)
    if ":" in text or "=" in text or "@" in text:  # each pattern has one of them, nearly no id has
        lower = text.lower()
        for words, pattern, instead in _PATTERNS:
            if any(word in lower for word in words):
                text = pattern.sub(instead, text)
    return text if whole else text[: max(0, len(text) - hiding.longest)]


def _make_hiding() -> _Hiding:
    """Make it when it is first needed: with 200 secrets this takes 1 ms."""
    global _hiding
    state = secrets.state  # another thread may learn a secret now: then this is made again
    forms = sorted(secrets.known_forms(), key=len)
    words = tuple(form for form in forms if form.split() == [form])
    phrases = tuple(form for form in forms if form.split() != [form])
    _hiding = _Hiding(state, words, phrases, len(forms[0]) if forms else sys.maxsize, len(forms[-1]) if forms else 0)
    return _hiding


def _hide(text: str, hiding: _Hiding) -> str:
    """Hide known secrets. Most words are shorter than any secret: only the longer ones are searched."""
    _, forms, phrases, shortest, _ = hiding
    found = [form for form in phrases if form in text] if phrases else []
    words = text.split()
    longest = max(map(len, words), default=0)
    if longest >= shortest:
        searched = " ".join([word for word in words if len(word) >= shortest]) if len(words) > 1 else text
        found += [form for form in forms[: bisect_right(forms, longest, key=len)] if form in searched]
    if found:
        for form in sorted(found, key=len, reverse=True):
            text = text.replace(form, HIDDEN)
    return text
