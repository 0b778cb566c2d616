"""The values of references to secrets: toml.py collects those of a file, and puts the values in their places."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from time import monotonic
from typing import Any

from millpond.app.secret_references import ALLOWED_REFERENCES, Fetched, SecretPlace, place_of_reference
from millpond.errors import ConfigError
from millpond.foreign.secrets import conceal
from millpond.foreign.text import shown
from millpond.hub.home import Errand, home

#: All references of a file are read within this time, one way or the other: platforms wait for a boot, but not long.
SECRETS_SECONDS = 20.0

#: The value of each reference, or why it has none. One that is left out stays as it is written.
Fetch = Callable[[Collection[str]], Mapping[str, str | ConfigError]]


def fetch_secrets(references: Collection[str]) -> dict[str, str | ConfigError]:
    """Read each secret once, all side by side, within SECRETS_SECONDS. What is a secret is concealed from now on."""
    found = {text: place_of_reference(text) for text in references}
    places = {place for place, _ in filter(None, found.values())}
    end = monotonic() + SECRETS_SECONDS
    reading = _read_side_by_side(places) if places else {}
    return {
        text: _value(text, reading[one[0]], one[1], end) if one else ConfigError(ALLOWED_REFERENCES)
        for text, one in found.items()
    }


def _read_side_by_side(places: Collection[SecretPlace]) -> dict[SecretPlace, Errand[Fetched]]:
    from millpond.app.secret_calls import SecretReader  # botocore: 0.1 s of each command

    reader = SecretReader(places)
    return {place: Errand(partial(reader.read, place), home()) for place in places}


def _value(text: str, reading: Errand[Fetched], key: str, end: float) -> str | ConfigError:
    try:
        found = reading.result(end - monotonic())
        value = _field(found.text, key) if key else found.text
    except TimeoutError:
        return ConfigError(f"{text} cannot be read: AWS has not answered in {SECRETS_SECONDS:g} s")
    except ConfigError as error:
        return ConfigError(f"{text} cannot be read: {error}")
    if found.hidden:
        conceal(value)
    return value


def _field(text: str, key: str) -> str:
    """A field of a JSON object as a text: a number as it is written. Raises ConfigError, and shows nothing of it."""
    try:
        content: Any = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ConfigError(f"what is kept there is no JSON object: leave #{shown(key)} out, or keep an object there")
    value = content.get(key)
    if isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, str):
        problem = "is no text and no number" if key in content else "is not there"
        raise ConfigError(f"its field {shown(key)} {problem}")
    return value
