"""Planted bugs by subject, each of one rule of the design: `python -m chaos.mutants` hunts them all."""

from chaos.planted import claiming, gates, groups, interrupts, leases, permits, polls, redeliveries, settling, sizes
from chaos.planted.bug import MUTANTS, Mutant, planted

__all__ = ["MUTANTS", "SUBJECTS", "Mutant", "planted"]

#: The modules whose bugs are in MUTANTS, by being imported.
SUBJECTS = (permits, leases, redeliveries, interrupts, settling, polls, groups, claiming, sizes, gates)
