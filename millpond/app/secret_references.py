"""What a reference to a secret looks like: `secretsmanager:NAME#json_key`, `ssm:/path`."""

from __future__ import annotations

import re
from typing import NamedTuple

_PLACE = r"arn:[a-z-]+:{service}:(?P<{service}_region>[a-z0-9-]+):[0-9]*"
_SECRET = rf"(?:{_PLACE.format(service='secretsmanager')}:secret:)?[A-Za-z0-9/_+=.@-]+"
# A parameter has versions and labels, ssm:/path:3.
_PARAMETER = rf"(?:{_PLACE.format(service='ssm')}:parameter)?[A-Za-z0-9/_.-]+(?::[A-Za-z0-9_.-]+)?"
_FORM = re.compile(rf"(?:secretsmanager:(?P<secret>{_SECRET})|ssm:(?P<parameter>{_PARAMETER}))(?:#(?P<key>.+))?")
ALLOWED_REFERENCES = (
    "write secretsmanager:NAME or ssm:/NAME (an ARN can stand in the place of the name), "
    "and #key behind it for a field of JSON"
)

_STARTS = ("secretsmanager:", "ssm:")


class SecretPlace(NamedTuple):
    """One secret or parameter. `region`: "" where its name has none."""

    service: str
    name: str
    region: str


class Fetched(NamedTuple):
    """What is kept there. `hidden`: no log line may show it (a parameter of the type String is no secret)."""

    text: str
    hidden: bool


def is_reference(text: str) -> bool:
    """Whether this text stands for a value that is kept elsewhere."""
    return text.startswith(_STARTS)


def is_no_secret(text: str) -> bool:
    """Whether it may be shown: a reference, or one whose name is empty, as where a variable in it is not set."""
    return text in _STARTS or place_of_reference(text) is not None


def place_of_reference(text: str) -> tuple[SecretPlace, str] | None:
    """Where a reference leads to, and the field of JSON that it names ("": the whole); None where it is malformed."""
    form = _FORM.fullmatch(text)
    if form is None:
        return None
    key = form["key"] or ""
    if form["secret"]:
        return SecretPlace("secretsmanager", form["secret"], form["secretsmanager_region"] or ""), key
    return SecretPlace("ssm", form["parameter"], form["ssm_region"] or ""), key
