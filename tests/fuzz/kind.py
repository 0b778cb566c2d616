"""Kind: one kind of bad input; and how many cases of it are tried."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import NamedTuple

import gevent

#: A case that takes longer than this hangs.
CASE_SECONDS = 20.0

TryOne = Callable[[Random], None]


class Kind(NamedTuple):
    """`open()` yields what makes one bad input by chance, sends it through the real path, and raises where the result
    is not right."""

    name: str
    open: Callable[[], AbstractContextManager[TryOne]]


class Finding(NamedTuple):
    """A case that went wrong; `--seed` and `--first` make it again."""

    kind: str
    seed: int
    case: int
    text: str


def kinds() -> dict[str, Kind]:
    """Every kind by its name: the modules of this folder that have one."""
    names = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith(("_", "test_")))
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    found = [module.KIND for module in modules if hasattr(module, "KIND")]
    return {kind.name: kind for kind in found}


def run(kind: Kind, seed: int, cases: int, first: int = 0) -> Iterator[Finding]:
    """Try so many cases; each is made by its own number alone, so that one can be made again."""
    with kind.open() as try_one:
        for case in range(first, first + cases):
            if text := _try(try_one, Random(f"{seed}:{kind.name}:{case}")):
                yield Finding(kind.name, seed, case, text)


def _try(try_one: TryOne, chance: Random) -> str:
    try:
        with gevent.Timeout(CASE_SECONDS):
            try_one(chance)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever escapes is what is looked for
        return traceback.format_exc()
    return ""
