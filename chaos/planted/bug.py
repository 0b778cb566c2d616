"""What a planted bug is: a rule of the design, and wrong variants of what keeps it. @mutant enters it among MUTANTS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

Patch = tuple[Any, str, Callable[[Any], Any]]  # where, what, and the original -> the wrong one


class Mutant(NamedTuple):
    """A rule of the design, and an engine that does not keep it."""

    name: str
    rule: str
    patches: tuple[Patch, ...]
    is_of_claims: bool = False  # the schedules of chaos.claimed are to find it


MUTANTS: list[Mutant] = []


def mutant(rule: str, *places: tuple[Any, str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a mutant: the function makes, of each original, a wrong variant."""

    def enter(make: Callable[..., Any]) -> Callable[..., Any]:
        MUTANTS.append(Mutant(make.__name__, rule, tuple((where, what, make) for where, what in places)))
        return make

    return enter


def claims_mutant(rule: str, *places: tuple[Any, str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a mutant that only schedules of idempotent handlers can find."""

    def enter(make: Callable[..., Any]) -> Callable[..., Any]:
        patches = tuple((where, what, make) for where, what in places)
        MUTANTS.append(Mutant(make.__name__, rule, patches, is_of_claims=True))
        return make

    return enter


@contextmanager
def planted(bug: Mutant) -> Iterator[None]:
    """The engine, with this bug in it."""
    with ExitStack() as stack:
        for where, what, make in bug.patches:
            stack.enter_context(mock.patch.object(where, what, make(getattr(where, what))))
        yield
