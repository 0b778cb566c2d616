"""Errors with what differs from case to case taken out, so that the same failure is known again, and counted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from millpond.dead_letters.letter import Letter

#: Characters of an error that tell it from others.
MAX_COMPARED = 300
# In this order: what one pattern takes, the later ones do not see.
_DIFFERS = (
    (re.compile(r"'[^'\n]{1,200}'|\"[^\"\n]{1,200}\"|`[^`\n]{1,200}`"), "<text>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s,;)>]+"), "<url>"),
    (re.compile(r"[^\s@<>,;:=]{1,64}@[\w.-]{1,253}"), "<address>"),
    (re.compile(r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"(?i)\b(?:0x[0-9a-f]+|(?=[a-f]*[0-9])[0-9a-f]{8,})\b"), "<id>"),
    (re.compile(r"[0-9]+(?:[.,:][0-9]+)*"), "<n>"),
)


class ErrorGroup(msgspec.Struct):
    """Letters of one type that failed the same way. `first` and `last`: seconds since the epoch; `sample`: an id.

    `text`: the error as it was, where all have the very same; else `error`.
    """

    event_type: str
    error: str
    count: int
    first: float
    last: float
    sample: str
    text: str


def normalised(error: str) -> str:
    """The error's first line without ids, numbers, addresses and what stands in quotes."""
    text = _first_line(error)
    for pattern, instead in _DIFFERS:
        text = pattern.sub(instead, text)
    return text[:MAX_COMPARED]


def _first_line(error: str) -> str:
    return error.strip().partition("\n")[0][: 2 * MAX_COMPARED]


def failure_name(letter: Letter) -> str:
    """A short name of the way in which it failed: the same one for the same failure."""
    text = f"{letter.event_type}\0{letter.origin.value}\0{normalised(letter.problem)}"
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def groups_of(letters: Iterable[Letter]) -> list[ErrorGroup]:
    """The letters counted by type and normalised error, the largest group first."""
    groups: dict[tuple[str, str], ErrorGroup] = {}
    for letter in letters:
        key = letter.event_type, normalised(letter.problem)
        when, text = letter.failed_at, _first_line(letter.problem)
        group = groups.setdefault(key, ErrorGroup(*key, 0, when, when, letter.id, text))
        group.count += 1
        group.text = text if group.text == text else group.error
        group.first, group.last = min(group.first, when), max(group.last, when)
    return sorted(groups.values(), key=lambda group: (-group.count, -group.last))
