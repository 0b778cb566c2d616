"""The scenario of memory, short."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chaos.scenarios import memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_largest_messages_with_the_worst_texts_take_no_more_memory_than_is_said(tmp_path: Path) -> None:
    report = memory.run(tmp_path, quick=True)
    assert report.holds, "\n".join(report.lines(report.did))
