"""Bodies of messages as people may read them: without secrets and mail addresses, and a part of a long one only."""

from __future__ import annotations

import json
from typing import Any

from millpond.foreign.scrub import HIDDEN, scrubbed
from millpond.foreign.secrets import SECRET_NAME
from millpond.foreign.text import shown

#: Characters of a body that is read to be shown in one line: a body of a megabyte would hold up the hub.
MAX_READ = 16_384


def hidden_value(name: str, value: Any) -> Any:
    """A text without secrets and mail addresses; a value whose name says that it is a secret is hidden whole."""
    if SECRET_NAME.search(name):
        return HIDDEN
    return scrubbed(value, len(value)) if isinstance(value, str) else value


def without_secrets(name: str, value: Any) -> Any:
    """The same JSON where every text is scrubbed, and every value of a name that says so is hidden."""
    if name and SECRET_NAME.search(name) and value not in (None, True, False):
        return HIDDEN
    if isinstance(value, dict):
        return {hidden_value("", key): without_secrets(key, one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_secrets("", one) for one in value]
    return scrubbed(value, len(value)) if isinstance(value, str) else value


def body_line(body: str | bytes, limit: int) -> str:
    """A body as one line of at most `limit` characters, without secrets. Of a long one its length alone: only whole
    JSON shows which of its values are secrets by their names."""
    if len(body) > MAX_READ:
        return f"{len(body):,} {'characters' if isinstance(body, str) else 'bytes'}"
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    try:
        return shown(json.dumps(without_secrets("", json.loads(text)), ensure_ascii=False), limit)
    except (ValueError, RecursionError):
        return shown(text.strip().partition("\n")[0], limit)
