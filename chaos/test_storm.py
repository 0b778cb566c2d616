"""A short storm on three real workers: whatever the network and the processes suffer, the audit passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.hits import BLOWS
from chaos.run import RunSettings, run

pytestmark = pytest.mark.slow

#: So few messages and faults end within half a minute; `seconds` is for a machine that is very busy.
STORM = RunSettings(
    seed=3,
    seconds=60.0,
    messages=3_000,
    blows=len(BLOWS),
    per_second=350.0,
    fifo=True,
    fifo_per_second=350.0,
    scale=3.0,
    hit_every_seconds=0.5,
)
#: Kinds of network fault that even a short storm has.
LEAST_KINDS = 10


def test_the_audit_of_a_short_storm_passes(tmp_path: Path) -> None:
    report = run(STORM, tmp_path)
    assert report.audit.passes, "\n".join(report.lines())
    assert report.audit.finished == 2 * STORM.messages
    assert report.blows.keys() == set(BLOWS)
    assert len(report.faults) >= LEAST_KINDS
