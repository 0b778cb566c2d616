"""Packs a Lambda function: main.py, config.toml, handlers/, Millpond and what it needs, as one .zip.

    python deploy/lambda/package.py --output function.zip

Nothing is compiled: the wheels are those for Lambda's system, whatever this machine is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
#: Lambda takes a .zip of 50 MB by hand, and 250 MB unpacked.
MAX_ZIP_BYTES, MAX_BYTES = 50_000_000, 250_000_000
#: Lambda's names of a machine, and those of Python's wheels. Its Python 3.12 and later have glibc 2.34.
PLATFORMS = {
    "x86_64": ("manylinux2014_x86_64", "manylinux_2_28_x86_64"),
    "arm64": ("manylinux2014_aarch64", "manylinux_2_28_aarch64"),
}
#: Only `check` and other commands draw with it.
NOT_NEEDED = ("rich",)
#: A .zip cannot say an earlier year: with this one the same files give the same bytes.
YEAR = (1980, 1, 1, 0, 0, 0)


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder)
        if code := _install(content, options):
            return code
        _copy(content, options.app)
        unpacked = sum(path.stat().st_size for path in content.rglob("*") if path.is_file())
        write_zip(content, options.output)
    packed = options.output.stat().st_size
    print(f"{options.output}: {packed / 1e6:.1f} MB, {unpacked / 1e6:.1f} MB unpacked; its handler is main.handler")
    if packed > MAX_ZIP_BYTES or unpacked > MAX_BYTES:
        text = f"Lambda takes {MAX_ZIP_BYTES / 1e6:.0f} MB, {MAX_BYTES / 1e6:.0f} MB unpacked; an image may have 10 GB"
        print(f"{options.output} is too large: {text}", file=sys.stderr)
        return 1
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pack a Lambda function as one .zip.", allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("function.zip"), help="the file (default: function.zip)")
    help_text = "the folder of config.toml and handlers/ (default: this repository)"
    parser.add_argument("--app", type=Path, default=ROOT, help=help_text)
    parser.add_argument("--architecture", choices=PLATFORMS, default="x86_64", help="default: x86_64")
    parser.add_argument("--python", default="3.13", help="the function's runtime (default: 3.13)")
    help_text = "what the handlers need beside Millpond, in a file of requirements; can be repeated"
    parser.add_argument("--requirements", type=Path, action="append", default=[], help=help_text)
    options = parser.parse_args(argv)
    for name in ("config.toml", "handlers"):
        if not (options.app / name).exists():
            parser.error(f"{options.app} has no {name}: name the folder that has it, by --app")
    return options


def _install(content: Path, options: argparse.Namespace) -> int:
    """Put the wheels for Lambda's system there; pip's exit code."""
    needed = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    needed = [line for line in needed if line and not line.startswith(tuple(f"{name}==" for name in NOT_NEEDED))]
    files = [argument for path in options.requirements for argument in ("--requirement", str(path))]
    platforms = [argument for name in PLATFORMS[options.architecture] for argument in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(content), "--python-version", options.python, "--only-binary=:all:", *platforms]
    return subprocess.run([*command, *needed, *files], check=False).returncode  # noqa: S603  our own arguments


def _copy(content: Path, app: Path) -> None:
    """The application, and Millpond beside it."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "millpond", content / "millpond", ignore=ignore)
    shutil.copytree(app / "handlers", content / "handlers", ignore=ignore)
    shutil.copy(app / "config.toml", content)
    own = app / "main.py"
    shutil.copy(own if own.exists() else Path(__file__).with_name("main.py"), content)
    shutil.rmtree(content / "bin", ignore_errors=True)  # commands of the libraries


def write_zip(content: Path, output: Path) -> None:
    """All files of a folder; Lambda runs as another user, who must be able to read them."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(content.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(content).as_posix(), YEAR)
                entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                packed.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
