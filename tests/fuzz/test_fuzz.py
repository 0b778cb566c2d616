"""12,000 bad inputs of all kinds; `make fuzz` tries as many as asked for."""

from __future__ import annotations

import pytest

from tests.fuzz.kind import Kind, kinds, run

pytestmark = pytest.mark.slow

CASES = 12_000
SEED = 20_261_125

KINDS = list(kinds().values())


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_bad_input_stops_nothing(kind: Kind) -> None:
    findings = list(run(kind, SEED, CASES // len(KINDS)))

    assert not findings, f"{len(findings)} findings; the first, case {findings[0].case}:\n{findings[0].text}"
