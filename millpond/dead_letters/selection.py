"""Selection: which letters are meant; Search: what one pass has found of them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from millpond.dead_letters.letter import Letter
from millpond.errors import ConfigError
from millpond.foreign.text import MAX_NAME, shown

_AGE = re.compile(r"([0-9]{1,9})\s*([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Letters by id, or by all of these filters together. An empty one is every letter.

    `types`: exact, or with `*`. `reason` and `text` are looked for without regard to case: in reason and error, and
    anywhere in the letter. `older` and `newer`: than this many seconds, by when it failed. `whole_ids`: the ids are
    whole ones of letters, and name no other by its beginning, by the original's id or by the event id.
    """

    ids: Sequence[str] = ()
    types: Sequence[str] = ()
    reason: str = ""
    text: str = ""
    older: float | None = None
    newer: float | None = None
    whole_ids: bool = False

    @property
    def is_all(self) -> bool:
        """Whether it takes every letter."""
        has_age = self.older is not None or self.newer is not None
        return not (self.ids or self.types or self.reason or self.text or has_age)

    def takes(self, letter: Letter, now: float) -> bool:
        """Whether this letter is meant, at `now` (since the epoch)."""
        age = now - letter.failed_at
        return (
            (not self.ids or any(self.names(letter, one) for one in self.ids))
            and (not self.types or any(is_type(letter.event_type, name) for name in self.types))
            and (not self.reason or self.reason.casefold() in _why(letter))
            and (not self.text or self._is_in(letter))
            and (self.older is None or age > self.older)
            and (self.newer is None or age <= self.newer)
        )

    def names(self, letter: Letter, wanted: str) -> bool:
        """Whether this id names this letter."""
        return letter.id == wanted if self.whole_ids else letter.matches_id(wanted)

    def _is_in(self, letter: Letter) -> bool:
        wanted, received = self.text.casefold(), letter.received
        if any(wanted in text.casefold() for text in (received.text, letter.event_id, letter.event_type, letter.id)):
            return True
        values = (one.value for one in received.attributes.values())
        return wanted in _why(letter) or any(isinstance(one, str) and wanted in one.casefold() for one in values)


class Search:
    """One pass that looks for a selection. `missing`: ids that have named no letter yet.

    `run`: the replay that this pass makes; a letter that it has sent, and that is here again, has failed since.
    """

    def __init__(self, selection: Selection, run: str = "") -> None:
        self.missing = list(dict.fromkeys(selection.ids))
        self._selection = selection
        self._run = run
        self._open = set(selection.ids)  # an event id can name several letters: their search ends with the queue

    @property
    def is_over(self) -> bool:
        """Whether each id has named the letter whose own id it is, or begins: there is no other one."""
        return bool(self._selection.ids) and not self._open

    def takes(self, letter: Letter) -> bool:
        """Whether this letter is meant, now."""
        if not self._selection.takes(letter, time.time()):
            return False
        if self._run and letter.mark is not None and letter.mark.run == self._run:
            return False
        self.missing = [one for one in self.missing if not self._selection.names(letter, one)]
        self._open = {one for one in self._open if not letter.id.startswith(one)}
        return True


def is_type(event_type: str, wanted: str) -> bool:
    """Whether this is the type, as it is or as it is shown. Only `*` stands for others: it may have [ or ? in it."""
    if "*" in wanted:
        return fnmatchcase(event_type, wanted.replace("[", "[[]").replace("?", "[?]"))
    return wanted in (event_type, shown(event_type, MAX_NAME))


def _why(letter: Letter) -> str:
    return f"{letter.reason.reason}\n{letter.reason.error}\n{letter.problem}".casefold()


def age_seconds(text: str) -> float:
    """Seconds of a written age: 90, 90s, 15m, 2h, 3d. Raises ConfigError."""
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        raise ConfigError(f"{text}: an age is a whole number and s, m, h or d: 90s, 15m, 2h, 3d")
    return float(int(found[1]) * _UNITS[found[2]])
