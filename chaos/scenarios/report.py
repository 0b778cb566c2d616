"""Report: what a scenario did, its figures, and what had to hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from chaos.ledger import Run

#: Of what is said, in characters.
WIDTH = 84


class Report(msgspec.Struct):
    """`claims`: what had to hold, and whether it did."""

    did: str
    figures: Mapping[str, object]
    claims: Mapping[str, bool]

    @property
    def holds(self) -> bool:
        return all(self.claims.values())

    def lines(self, name: str) -> Iterator[str]:
        """The table and the verdict, for people."""
        yield from (f"  {what:<{WIDTH}} {value!s:>12}" for what, value in self.figures.items())
        yield from (f"  {what:<{WIDTH}} {'holds' if held else 'BROKEN':>12}" for what, held in self.claims.items())
        yield f"{name} holds" if self.holds else f"{name} DOES NOT HOLD"


def finals(runs: Sequence[Run]) -> list[Run]:
    """Those of a message's runs after which it must not run again."""
    return [run for run in runs if run.is_final]


def all_done_once(runs: Mapping[int, Sequence[Run]], count: int) -> bool:
    """Messages 0 to count - 1 have each come to a good end, and to one only."""
    return runs.keys() == set(range(count)) and all(len(finals(several)) == 1 for several in runs.values())


def repeated(runs: Mapping[int, Sequence[Run]]) -> dict[int, Sequence[Run]]:
    """Messages whose handler ran more than once."""
    return {n: several for n, several in runs.items() if len(several) > 1}
