"""Builds the image by buildah, in a store of its own, on a base that debootstrap makes in the place of python:slim."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
#: What is kept from one run to the next: the base above all, which takes half a minute.
KEPT = ROOT / ".image"
#: Debian's packages that this needs, by a program of each.
PACKAGES = {"buildah": "buildah", "bwrap": "bubblewrap", "debootstrap": "debootstrap", "ip": "iproute2"}
#: The release that python:3.13-slim-trixie stands on; its Python is 3.13 too.
SUITE = "trixie"
#: What a slim image leaves out.
LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
BASE = "localhost/millpond-base"
UV = "localhost/millpond-uv"
IMAGE = "localhost/millpond"
#: The certificates that this machine trusts; a build trusts them too, and the image does not.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Image(NamedTuple):
    """What was built: its files, its settings as Docker knows them, and the bytes of each of its layers, base first."""

    files: Path
    config: dict[str, Any]
    layers: tuple[int, ...]


def install_packages() -> None:
    """Install what is missing of PACKAGES. Raises SystemExit where that cannot be."""
    if os.geteuid() != 0:
        raise SystemExit("make image: it needs root: sudo make image")
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing and shutil.which("apt-get") is None:
        raise SystemExit(
            f"make image: it needs {', '.join(missing)}, and knows how to install them on Debian or Ubuntu only"
        )
    if missing:
        _run("apt-get", "update", "-q")
        _run("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing)


def build(dockerfile: Path, into: Path) -> Image:
    """Build this Dockerfile with the repository around it; the files of the image are laid out in `into`."""
    _make_base()
    _make_uv(dockerfile)
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "uv.toml"
        settings.write_text(_uv_settings(_pip_settings()))
        volumes = ["--volume", f"{settings}:/etc/uv/uv.toml:ro"]
        if CERTIFICATES.exists():
            volumes += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        arguments = ["--build-arg", f"BASE={BASE}", "--build-arg", f"UV={UV}"]
        # Only the format of Docker knows a health check; chroot needs no rights beyond root's in this container.
        options = ["--quiet", "--format", "docker", "--isolation", "chroot", "--file", dockerfile, "--tag", IMAGE]
        _buildah("bud", *options, *volumes, *arguments, ROOT)
        _buildah("rmi", "--prune", "--force")  # what the last build left
        archive = Path(folder) / "image.tar"
        _buildah("push", "--quiet", IMAGE, f"docker-archive:{archive}")
        return _unpack(archive, into)


def _make_base() -> None:
    """Make BASE, unless there is one by this very recipe."""
    recipe = hashlib.sha256(repr((SUITE, LEFT_OUT)).encode()).hexdigest()[:12]
    if recipe in _buildah("images", "--format", "{{.Tag}}", "--filter", f"reference={BASE}", "--all"):
        return
    with tempfile.TemporaryDirectory() as folder:
        _run("debootstrap", "--variant=minbase", "--include=ca-certificates,python3", SUITE, folder)
        for name in LEFT_OUT:
            shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
        container = _buildah("from", "scratch")
        _buildah("add", "--quiet", container, folder, "/")
        _buildah("commit", "--quiet", "--rm", container, f"{BASE}:{recipe}")
        _buildah("tag", f"{BASE}:{recipe}", f"{BASE}:latest")


def _make_uv(dockerfile: Path) -> None:
    """Make UV, an image with the program alone, of the version that the Dockerfile names."""
    (version,) = re.findall(r"^ARG UV=\S+:([\d.]+)$", dockerfile.read_text(), re.MULTILINE)
    program = KEPT / f"uv-{version}/bin/uv"
    if not program.exists():
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
        _run(*pip, "--target", program.parent.parent, f"uv=={version}")
    container = _buildah("from", "scratch")
    _buildah("copy", "--quiet", container, program, "/uv")
    _buildah("commit", "--quiet", "--rm", container, UV)


def _pip_settings() -> dict[str, str]:
    """What pip is told on this machine, by its files and by the environment: `index-url` and so on."""
    lines = _run(sys.executable, "-m", "pip", "config", "list").splitlines()
    pairs = [line.partition("=")[::2] for line in lines]
    return {name.rpartition(".")[2]: value.strip("'\"") for name, value in pairs}


def _uv_settings(of_pip: dict[str, str]) -> str:
    """The same for uv: the package index, and that this machine's certificates count."""
    lines = ["system-certs = true"]
    if index := of_pip.get("index-url"):
        lines.append(f"index-url = {json.dumps(index)}")
    if more := [url for url in of_pip.get("extra-index-url", "").replace("\\n", " ").split() if url.startswith("http")]:
        lines.append(f"extra-index-url = {json.dumps(more)}")
    return "\n".join(lines)


def _unpack(archive: Path, into: Path) -> Image:
    with tempfile.TemporaryDirectory() as folder:
        _run("tar", "-x", "-f", archive, "-C", folder)
        (manifest,) = json.loads((Path(folder) / "manifest.json").read_text())
        layers = [Path(folder) / name for name in manifest["Layers"]]
        for layer in layers:
            _run("tar", "-x", "-f", layer, "-C", into, "--numeric-owner")
        config = json.loads((Path(folder) / manifest["Config"]).read_text())["config"]
        return Image(into, config, tuple(layer.stat().st_size for layer in layers))


def _buildah(*words: object) -> str:
    store = ("--root", KEPT / "store", "--runroot", KEPT / "run", "--storage-driver", "vfs")
    return _run("buildah", *store, *words)


def _run(*words: object) -> str:
    """Its standard output. Raises SystemExit, with all that it has said, where it fails."""
    command: Sequence[str] = [str(word) for word in words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"make image: {' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()
