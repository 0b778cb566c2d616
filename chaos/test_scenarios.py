"""Two of the scenarios, short: what a dead worker had in hand, and the order of groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.ledger import Run
from chaos.scenarios import fifo, kill
from chaos.scenarios.report import Report

pytestmark = pytest.mark.slow

OK = Run(1, "a", 10.0, 11.0, "ok")
FAILED = Run(1, "a", 10.0, 11.0, "fail")


def test_what_a_killed_worker_had_in_hand_is_done_by_another(tmp_path: Path) -> None:
    _holds(kill.run(tmp_path, quick=True))


def test_groups_keep_their_order_through_failures_and_a_restart(tmp_path: Path) -> None:
    _holds(fifo.run(tmp_path, quick=True))


@pytest.mark.parametrize(
    "ahead",
    [
        [],  # it never ran
        [FAILED],
        [Run(1, "a", 10.0)],  # it has not ended
        [FAILED, Run(2, "b", 11.5, 12.5, "ok")],
        [OK, Run(2, "b", 13.0, 14.0, "ok")],  # it ran again, beside the next one or after it
    ],
)
def test_a_message_that_overtakes_its_group_is_seen(ahead: list[Run]) -> None:
    assert fifo.overtaking({0: ahead, fifo.GROUPS: [Run(1, "b", 12.0, 12.1, "ok")]}) == [fifo.GROUPS]


def test_a_message_that_waits_for_its_group_overtakes_nobody() -> None:
    ahead = [FAILED, Run(2, "b", 11.2, 11.9, "ok")]
    assert not fifo.overtaking({0: ahead, fifo.GROUPS: [Run(1, "b", 12.0, 12.1, "ok")]})


def _holds(report: Report) -> None:
    assert report.holds, "\n".join(report.lines(report.did))
