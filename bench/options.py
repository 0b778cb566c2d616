"""What the command line asks of a section."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """`only`: names of consumers, all of them where it is empty. A quick series is not written down."""

    runs: int = 5
    quick: bool = False
    only: list[str] = field(default_factory=list)
