"""What must never be in a history, by subject. `check` gives every violation; rule.py says what a rule is."""

from chaos.simulation.lives import Tale
from chaos.simulation.rules import changes, drains, endings, gates, groups, interrupts, leases, permits, sizes, starts
from chaos.simulation.rules.rule import RULES, Violation

__all__ = ["RULES", "SUBJECTS", "Violation", "check"]

#: The modules whose rules are in RULES, by being imported.
SUBJECTS = (endings, changes, starts, interrupts, permits, sizes, leases, drains, groups, gates)


def check(tale: Tale) -> list[Violation]:
    """Every violation in a tale."""
    return [Violation(one.__name__, *found) for one in RULES for found in one(tale)]
