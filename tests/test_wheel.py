"""The wheel in an environment of its own: it has the e-mail handler, and the settings on its page send e-mails.

It needs the package index, as `make dev` does, and takes a quarter of a minute.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "millpond", "handlers")
PAGE = ROOT / "docs/reference/email.md"


def run(*command: object, folder: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a fresh environment that has the wheel, and what that asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:  # a copy: setuptools would leave its build/ beside ours, and take old files from there
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", folder, source, folder=folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    # What is not imported need not be compiled: of gevent alone that is 300 files of its tests.
    run(sys.executable, *pip, "--python", python, "install", "--no-compile", *folder.glob("*.whl"), folder=folder)
    return python


def test_the_settings_on_the_page_of_e_mail_send_e_mails(installed: Path, tmp_path: Path) -> None:
    _, _, rest = PAGE.read_text().partition("```toml\n")
    (tmp_path / "config.toml").write_text("local = { port = 0 }\n" + rest.partition("```")[0])
    run(installed, "-m", "millpond", "-c", "config.toml", "--demo", "25", "--until-empty", folder=tmp_path)
    assert len(list((tmp_path / "outbox").glob("*.eml"))) == 25


def test_the_wheel_has_every_file_of_the_library(installed: Path) -> None:
    (package,) = installed.parent.parent.glob("lib/python*/site-packages/millpond")
    ours = {path.relative_to(ROOT / "millpond") for path in (ROOT / "millpond").rglob("*.py")}
    assert {path.relative_to(package) for path in package.rglob("*.py")} == ours
    assert (package / "mail" / "handler.py").read_text() == (ROOT / "handlers" / "email.py").read_text()
    assert (package / "py.typed").exists()
    page = {path.name for path in (ROOT / "millpond/http").iterdir() if path.suffix in (".html", ".css", ".js")}
    assert page <= {path.name for path in (package / "http").iterdir()}
