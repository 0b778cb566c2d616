"""bench/results.json: every run of the last full series, section by section, and the machine it was taken on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from bench import environment

FILE = Path(__file__).parent / "results.json"

Row = dict[str, Any]


def load() -> dict[str, Any]:
    """{} before the first series."""
    return dict(json.loads(FILE.read_text())) if FILE.exists() else {}


def save(section: str, rows: list[Row]) -> None:
    """In place of what the section had."""
    everything = load()
    everything[section] = {"taken": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": machine(), "rows": rows}
    FILE.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")


def values(rows: Iterable[Row], key: str, **where: Any) -> list[float]:
    """One value a run, in the order of the runs, of the rows with these fields."""
    return [row[key] for row in rows if all(row[name] == value for name, value in where.items())]


def middle(rows: Iterable[Row], key: str, **where: Any) -> float | None:
    """The median; None where there is no such row, or none that has a value."""
    found = [value for value in values(rows, key, **where) if value is not None]
    return median(found) if found else None


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_version()} ({_build()})",
        **{name: found for name in ("gevent", "boto3", "msgspec") if (found := _version(name))},
        **_peers(),
    }


def _build() -> str:
    """Whether the interpreter was built as the official images are: one that was not takes half as long again.

    Debian builds its own with profiles and LTO, and keeps that out of what sysconfig says.
    """
    if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        return "built with optimizations"
    if Path("/etc/debian_version").exists() and Path(sys.executable).resolve().parent == Path("/usr/bin"):
        return "Debian's own, built with profiles and LTO"
    return "built without optimizations"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _peers() -> dict[str, str]:
    """What the peers' environments were told to hold, and their Python and Node."""
    found: dict[str, str] = {}
    if executable := environment.python():
        found["peers' python"] = _said([str(executable), "--version"]).removeprefix("Python ")
        for line in (environment.PEERS / "requirements.txt").read_text().splitlines():
            name, pinned, number = line.partition("==")
            if pinned:
                found[f"peers' {name.partition('[')[0]}"] = number
    if environment.node():
        found["node"] = _said(["node", "--version"])
        found |= json.loads((environment.PEERS / "package.json").read_text())["dependencies"]
    return found


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
