"""deploy/systemd/millpond.service: it fits the worker's own times and exit codes, and systemd itself takes it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from millpond.app.platform import END_SECONDS
from millpond.app.worker_settings import WorkerSettings
from millpond.errors import MISCONFIGURED
from tests.worker_process import ROOT

UNIT = (ROOT / "deploy/systemd/millpond.service").read_text()
PROCFILE = (ROOT / "Procfile").read_text()


def values(unit: str) -> dict[str, str]:
    """The settings of all sections; each stands there once."""
    found = re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE)
    assert len(dict(found)) == len(found)
    return dict(found)


def faults(unit: str) -> Iterator[str]:
    """What in a unit does not fit the worker."""
    found, worker = values(unit), WorkerSettings()
    if (found["Type"], found["NotifyAccess"]) != ("notify", "main"):
        yield "systemd does not hear that the worker is ready"
    if float(found["WatchdogSec"]) <= worker.max_block_seconds:
        yield "systemd's watchdog comes before max_block_seconds"
    if float(found["TimeoutStopSec"]) < worker.drain_limit + END_SECONDS:
        yield "the drain does not fit into TimeoutStopSec"
    if found["KillMode"] != "mixed":
        yield "SIGTERM goes to what handlers have started, too"
    if (found["Restart"], found["RestartPreventExitStatus"]) != ("on-failure", str(MISCONFIGURED)):
        yield "it is started again and again with a bad configuration, or not after a crash"
    folder, command = found["WorkingDirectory"], PROCFILE.strip().rpartition(": ")[2]
    if found["ExecStart"] != f"{folder}/.venv/bin/{command}":
        yield "its command is not the Procfile's"
    if found["DynamicUser"] != "yes" or found["CapabilityBoundingSet"]:
        yield "it has more rights than it needs"


def test_the_unit_fits_the_worker():
    assert list(faults(UNIT)) == []


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("Type=notify", "Type=simple"),
        ("WatchdogSec=180", "WatchdogSec=60"),
        ("TimeoutStopSec=60", "TimeoutStopSec=25"),
        ("KillMode=mixed", "KillMode=control-group"),
        ("RestartPreventExitStatus=3", "RestartPreventExitStatus=2"),
        ("worker.py -c config.toml", "worker.py"),
        ("DynamicUser=yes", "DynamicUser=no"),
    ],
)
def test_a_mistake_in_the_unit_is_found(line, other):
    assert UNIT.count(line) == 1
    assert len(list(faults(UNIT.replace(line, other)))) == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="the Debian package systemd is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    here = UNIT.replace("/opt/millpond/.venv/bin/python", shutil.which("true") or "/bin/true")
    assert _verify(tmp_path, here.replace("/opt/millpond", str(tmp_path))) == ""
    assert "Typ" in _verify(tmp_path, here.replace("Type=notify", "Typ=notify"))


def _verify(folder: Path, unit: str) -> str:
    """What systemd says of this unit; it says its mind of others on this machine too, each line with its path."""
    (folder / "millpond.service").write_text(unit)
    command = ["systemd-analyze", "verify", "--man=no", str(folder / "millpond.service")]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=30).stderr.splitlines()
    return "\n".join(line for line in lines if line.startswith(str(folder)) or not line.startswith("/"))
