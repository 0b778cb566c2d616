"""The relay of a scenario, and what its log says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from chaos.ordered import Ordered, ordered


class Handed(NamedTuple):
    """One mail that the relay was asked to take. `what`: taken, or the phase at which it refused; -1: not known yet."""

    n: int
    what: str
    moment: float


class RelayProcess:
    """A relay that runs."""

    def __init__(self, process: Ordered, log: Path) -> None:
        self.port = int(process.where)
        self.order = process.order
        self._log = log

    def handed(self) -> list[Handed]:
        """All so far."""
        return read_handed(self._log)

    def taken(self) -> list[Handed]:
        """Mails that it said 250 to."""
        return [one for one in self.handed() if one.what == "taken"]

    def number_taken(self) -> int:
        """The same, fast."""
        return self._log.read_text().count(" taken ")


def read_handed(log: Path) -> list[Handed]:
    """What has been written whole."""
    lines = log.read_text().split("\n")[:-1]
    return [Handed(int(n), what, float(moment)) for n, what, moment in map(str.split, lines)]


@contextmanager
def relay(folder: Path) -> Iterator[RelayProcess]:
    """One that takes everything."""
    log = folder / "relay.log"
    log.touch()
    with ordered("chaos.relay", str(log)) as process:
        yield RelayProcess(process, log)


def doubled(taken: list[Handed]) -> list[int]:
    """Mails that it took more than once."""
    return [n for n, times in Counter(one.n for one in taken).items() if times > 1]
