"""Whole numbers that others have written."""

from __future__ import annotations

import re

#: Digits that a number may have: any SQS timestamp has 13, and int() of thousands raises ValueError (CVE-2020-10735).
MAX_DIGITS = 18
_NUMBER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}")


def number_within(value: object, least: int, most: int, otherwise: int) -> int:
    """A whole number within these bounds; `otherwise` for all else."""
    if type(value) is str and _NUMBER.fullmatch(value.strip()):
        value = int(value)
    return value if type(value) is int and least <= value <= most else otherwise
