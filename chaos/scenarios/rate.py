"""rate: a handler with rate="14/s" over a deep queue; and another type on the same queue, which must not notice."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chaos.moment import now
from chaos.scenarios.backlog import Backlog
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report
from chaos.scenarios.stage import BY_DEFAULT, Stage, StagePlan, stage

LEAST, MOST = 13.5, 14.0
CPU_SHARE = 0.02
#: Far more than the rate lets begin: none of it is ever short.
DEEP = 3_000
#: Of the other type. Its speed beside the limited one is at least this share of its speed alone.
OTHER_SECONDS, OTHER_SHARE = 0.5, 0.9
HANDLERS = ("chaos.scenarios.jobs", "chaos.scenarios.limited_jobs")


class Seconds(NamedTuple):
    """`settle`: after the start, until measured."""

    settle: float
    measured: float
    other: float


FULL, QUICK = Seconds(5.0, 60.0, 30.0), Seconds(2.0, 10.0, 5.0)


class Limited(NamedTuple):
    """The limited type alone: its beginnings and the worker's CPU while measured."""

    per_second: float
    by_window: Sequence[float]
    cpu: float
    held: int


def run(folder: Path, quick: bool) -> Report:
    """The limited type alone, for its rate and the CPU; then the other one alone, and both."""
    seconds = QUICK if quick else FULL
    alone = _limited(folder / "limited", seconds)
    (folder / "other").mkdir()
    other_alone, other_beside, limited_beside, dead_letters = _both(folder / "other", seconds)
    figures: dict[str, object] = {
        "limited messages begun a second": f"{alone.per_second:.2f}",
        "in windows of ten seconds, the least and the most": f"{min(alone.by_window):.1f} {max(alone.by_window):.1f}",
        "CPU of the worker": f"{alone.cpu:.2%}",
        "messages in flight at the end": alone.held,
        "the other type, a second, alone": f"{other_alone:.1f}",
        "the other type, a second, beside the limited one": f"{other_beside:.1f}",
        "limited messages a second beside the other type": f"{limited_beside:.2f}",
    }
    claims = {
        f"between {LEAST:g} and {MOST:g} a second": LEAST <= alone.per_second <= MOST,
        "in no ten seconds more than that": max(alone.by_window) <= MOST + 0.1,
        f"under {CPU_SHARE:.0%} CPU": alone.cpu < CPU_SHARE,
        "the other type is undisturbed": other_beside >= OTHER_SHARE * other_alone,
        "it is no faster beside it": limited_beside <= MOST + 1 / seconds.other,
        "nothing dead-lettered": dead_letters == 0,
    }
    return Report(f'rate = "14/s", {DEEP:,} messages wait; {seconds.measured:g} s measured', figures, claims)


def _plan() -> StagePlan:
    return StagePlan(visibility_seconds=30, concurrency=100, handlers=HANDLERS, retry=BY_DEFAULT)


def _limited(folder: Path, seconds: Seconds) -> Limited:
    folder.mkdir()
    with stage(folder, _plan()) as scene:
        scene.send("limited", [Job(n, 0.01) for n in range(DEEP)])
        worker = scene.start_ready()
        scene.wait("the first has ended", 5, lambda: scene.number("ok") > 0)
        time.sleep(seconds.settle)
        begun, cpu = now(), _cpu_seconds(worker.pid)
        time.sleep(seconds.measured)
        ended, cpu = now(), _cpu_seconds(worker.pid) - cpu
        held = scene.counts()[1]
        starts = sorted(run.start for runs in scene.runs().values() for run in runs)
        scene.stop()
    inside = [start for start in starts if begun <= start < ended]
    tens = Counter(int((start - begun) // 10) for start in inside)
    windows = [tens[number] / 10 for number in range(int(seconds.measured // 10))]
    return Limited(len(inside) / (ended - begun), windows, cpu / (ended - begun), held)


def _both(folder: Path, seconds: Seconds) -> tuple[float, float, float, int]:
    """The other type's speed alone and beside the limited one, that one's speed, and dead letters."""
    with stage(folder, _plan()) as scene:
        scene.start_ready()
        backlog = Backlog(scene, "wait", OTHER_SECONDS)
        backlog.start()
        scene.wait("the other type runs", 5, lambda: scene.number("ok") >= 200)
        alone, _ = _speeds(scene, backlog, seconds.other)
        scene.send("limited", [Job(n, 0.01) for n in range(DEEP)])
        time.sleep(seconds.settle)
        beside, limited = _speeds(scene, backlog, seconds.other)
        backlog.stop()
        dead_letters = scene.dead_letters()
        scene.stop()
    return alone, beside, limited, dead_letters


def _speeds(scene: Stage, backlog: Backlog, seconds: float) -> tuple[float, float]:
    """Of the other type and the limited one, a second."""
    begun = now()
    time.sleep(seconds)
    ended, runs = now(), scene.runs()
    counts = Counter(backlog.has(n) for n, several in runs.items() for run in several if begun <= run.start < ended)
    return counts[True] / (ended - begun), counts[False] / (ended - begun)


def _cpu_seconds(pid: int) -> float:
    """That this process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
