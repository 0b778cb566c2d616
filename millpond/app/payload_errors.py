"""Payload errors: why a payload does not fit its handler, in paths and types. Logs and dead letters show no value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from millpond.app.envelope import located
from millpond.errors import Interrupt
from millpond.foreign.text import shown, type_name
from millpond.foreign.trace import describe, raised_at

#: Findings of one payload that are named.
MAX_NAMED = 5
# What a text may quote of a payload's values: a word or a part of one, and what stands in quotes.
_WORD = re.compile(r"\w{4,}")
_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_INVALID = re.compile(r"^(Invalid (?:enum )?value) .*?( - at .*)?\Z", re.DOTALL)
_UNKNOWN = re.compile(r"^(Object contains unknown field) `(.*)`( - at .*)?\Z", re.DOTALL)


def payload_error(error: BaseException, payload: msgspec.Raw, path: str) -> str:
    """Why the payload does not fit. `error` is what decoding it raised, `path` its place in the body."""
    if type(error) in (msgspec.ValidationError, msgspec.DecodeError):
        return _of_msgspec(error, payload, path)
    return _of_pydantic(error, path) or f"the payload does not fit: {_described(error, payload)}"


def _of_msgspec(error: BaseException, payload: msgspec.Raw, path: str) -> str:
    """The error's own words without the value or the name that they quote; those of a `__post_init__` too."""
    text = shown(error)
    if error.__cause__ is not None and _quotes(text, payload):
        at = text.rfind(" - at `$")
        text = _place(error.__cause__) + (text[at:] if at >= 0 else "")
    text = _INVALID.sub(r"\1\2", text)
    unknown = _UNKNOWN.fullmatch(text)
    if unknown and not _NAME.fullmatch(unknown[2]):
        text = unknown[1] + (unknown[3] or "")
    return located(text, path)


def _of_pydantic(error: Any, path: str) -> str:
    """The type and place of each finding of an error that has them as Pydantic's do; "" for any other error."""
    try:
        findings = error.errors(include_url=False, include_context=False, include_input=False)
        found = [f"{_type(one)} - at `{path}{''.join(map(_step, one['loc']))}`" for one in findings[:MAX_NAMED]]
        more = [f"and {len(findings) - MAX_NAMED} more"] if len(findings) > MAX_NAMED else []
        return shown("; ".join([*found, *more]))
    except Interrupt:
        raise
    except BaseException:  # it has no findings, or other ones
        return ""


def _type(finding: Any) -> str:
    return name if _NAME.fullmatch(name := finding["type"]) else "invalid"


def _step(step: object) -> str:
    """A part of a path; the key of a mapping can be any text of the body."""
    if type(step) is int:
        return f"[{step}]"
    return f".{step}" if type(step) is str and _NAME.fullmatch(step) else "[...]"


def _described(error: BaseException, payload: msgspec.Raw) -> str:
    """The author's words where they quote nothing of the payload; else the type of the error and its place."""
    text = describe(error)
    return _place(error) if _quotes(text, payload) else text


def _place(error: BaseException) -> str:
    file, line = raised_at(error)
    name = type_name(error)
    return f"{name} ({shown(file.rpartition('/')[2])}:{line})" if file else name


def _quotes(text: str, payload: msgspec.Raw) -> bool:
    values = set(_values(payload))
    if any(one in values for pair in _QUOTED.findall(text) for one in pair if one):
        return True
    whole = "\0".join(values)
    return any(word in whole for word in _WORD.findall(text))


def _values(payload: msgspec.Raw) -> Iterator[str]:
    """All values in it: texts, numbers, and keys that are data; the whole of it where it is not JSON."""
    raw = bytes(payload).decode("utf-8", "replace")
    try:
        rest = [msgspec.json.decode(raw)]
    except (ValueError, RecursionError):
        rest = [raw]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            yield from (name for name in value if not _NAME.fullmatch(name))
            rest += value.values()
        elif isinstance(value, list):
            rest += value
        elif not isinstance(value, bool | None):
            yield str(value)
