"""Names that were mistyped, and what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str], none: str = "none") -> str:
    """For a name that does not exist: "did you mean emails?", or else all that there are; `none`: where none is."""
    known = list(names)
    if near := nearest(name, known):
        return f"did you mean {near}?"
    return f"there are: {', '.join(known) or none}"


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant, whatever its capitals; empty where none is near."""
    folded = {one.casefold(): one for one in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else ""
