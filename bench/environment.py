"""The other consumers' homes: a virtual environment and a folder of node modules under .bench/, made when missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "bench" / "peers"
HOME = ROOT / ".bench"

#: Oldest versions that every peer runs on (fanferro: Python 3.12; sqs-consumer 14: Node 20).
PYTHON, NODE = (3, 12), 20


@cache
def python() -> Path | None:
    """The Python of the peers' environment; None where this machine has none new enough, or no packages for it."""
    base = next((name for name in (sys.executable, "python3.14", "python3.13", "python3.12") if _is_new(name)), None)
    folder, wanted = HOME / "venv", PEERS / "requirements.txt"
    executable = folder / "bin" / "python"
    if base is None:
        return None
    if not _is_built(folder, wanted):
        _make_home()
        install = [str(executable), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)]
        if not (_done([base, "-m", "venv", str(folder)]) and _done(install)):
            return None
        shutil.copy(wanted, folder)
    return executable


@cache
def node() -> Path | None:
    """The folder with node_modules and the peers' scripts; None where there is no node, one too old, or no packages."""
    folder, wanted = HOME / "node", PEERS / "package.json"
    if not shutil.which("npm") or _node_version() < NODE:
        return None
    if not _is_built(folder, wanted):
        _make_home()
        folder.mkdir(exist_ok=True)
        shutil.copy(wanted, folder)
        if not _done(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"], folder):
            (folder / wanted.name).unlink()
            return None
    for script in PEERS.glob("*.mjs"):
        shutil.copy(script, folder)  # a script finds its modules in its own folder
    return folder


def node_command(script: str) -> list[str]:
    """Run this script of the peers'."""
    folder = node()
    assert folder is not None
    return ["node", str(folder / script)]


def _make_home() -> None:
    HOME.mkdir(exist_ok=True)
    (HOME / ".gitignore").write_text("*\n")


def _is_new(name: str) -> bool:
    code = f"import sys; sys.exit(sys.version_info < {PYTHON})"
    try:  # a launcher can stand there for a version that is not installed
        return subprocess.run([name, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _node_version() -> int:
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.strip().removeprefix("v").partition(".")[0])


def _is_built(folder: Path, wanted: Path) -> bool:
    built = folder / wanted.name
    return built.exists() and built.read_bytes() == wanted.read_bytes()


def _done(command: list[str], folder: Path = ROOT) -> bool:
    """Whether it went well; what it says is shown."""
    print(f"$ {' '.join(command)}", flush=True)
    return subprocess.run(command, cwd=folder, check=False).returncode == 0
