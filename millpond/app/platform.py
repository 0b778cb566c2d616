"""What runs the worker (Heroku, ECS, Kubernetes, systemd, Docker): when it kills, and how much memory it gives."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from millpond.foreign.number import number_within
from millpond.foreign.secrets import Unshown

#: The end of the grace period that the drain leaves free: the process ends by itself 3 s after a drain that hangs.
END_SECONDS = 5.0
#: More is no limit: cgroups write "none" as a number near 2^63.
_MOST_BYTES = 2**50
_MEBIBYTE = 2**20

GraceSeconds = Annotated[float, Meta(ge=0, description="0 seconds or more")]


class PlatformSettings(Unshown, msgspec.Struct, frozen=True):
    """[platform]: grace_seconds = 0 is the platform's default."""

    grace_seconds: GraceSeconds = 0.0
    task_protection: Literal["auto", "off"] = "off"


class Platform(NamedTuple):
    """What runs the worker. `longer`: how its owner makes it wait longer; "" where nobody can."""

    name: str
    grace_seconds: float
    longer: str


#: By the variable that each of them sets; what runs inside another one stands before it.
PLATFORMS = {
    "DYNO": Platform("Heroku", 30, ""),
    "ECS_CONTAINER_METADATA_URI_V4": Platform("ECS", 30, "stopTimeout, which Fargate takes up to 120 s"),
    "KUBERNETES_SERVICE_HOST": Platform(
        "Kubernetes", 30, "terminationGracePeriodSeconds, which may be as long as the longest handler"
    ),
    "INVOCATION_ID": Platform("systemd", 90, "TimeoutStopSec"),
}
DOCKER = Platform("Docker", 10, "docker stop --timeout, or stop_grace_period of compose")
#: The files that Docker and Podman put into a container.
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
#: Where a queue in memory is refused.
PLATFORM_VARIABLES = ("DYNO", "ECS_CONTAINER_METADATA_URI_V4", "KUBERNETES_SERVICE_HOST", "AWS_LAMBDA_FUNCTION_NAME")


#: What `check --platform` takes, and the variable that is set there.
PLATFORM_NAMES = dict(zip(("heroku", "ecs", "kubernetes", "lambda"), PLATFORM_VARIABLES, strict=True))


def as_on(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment as it would be on the platform of this name, and on no other."""
    others = (*PLATFORMS, *PLATFORM_VARIABLES, "DYNO_RAM", "ECS_AGENT_URI", "NOTIFY_SOCKET", "WATCHDOG_USEC")
    kept = {variable: value for variable, value in environ.items() if variable not in others}
    return kept | {PLATFORM_NAMES[name]: "check"}


def platform_of(environ: Mapping[str, str], root: Path) -> Platform | None:
    """What runs this process; `root`: of the file system."""
    for variable, platform in PLATFORMS.items():
        if environ.get(variable):
            return platform
    return DOCKER if any((root / name).exists() for name in _CONTAINER_FILES) else None


class Grace(NamedTuple):
    """When a worker is killed. `is_sure`: its owner has said so, or nobody can change it."""

    seconds: float
    text: str
    is_sure: bool

    def shortfall(self, drain_seconds: float) -> str:
        """What is wrong with a drain of this length, which may be infinite; "" where it fits."""
        most = max(1.0, self.seconds - END_SECONDS)
        if math.isinf(drain_seconds):
            return f'drain_seconds = "until done": {self.text}; what is killed runs again a visibility time-out later'
        if drain_seconds <= most:
            return ""
        text = f"{self.text}: drain_seconds = {drain_seconds:g} may be too long, {most:g} leaves room for the end"
        return text if self.is_sure else f"{text}; [platform] grace_seconds says what it is, where it is longer"


def grace_of(platform: Platform | None, own_seconds: float) -> Grace | None:
    """By `own_seconds`, [platform] grace_seconds, or else by the platform's default; None where neither is known."""
    if own_seconds:
        name = platform.name if platform is not None else "the platform"
        return Grace(own_seconds, f"{name} kills {own_seconds:g} s after SIGTERM", is_sure=True)
    if platform is None:
        return None
    text = f"{platform.name} kills {platform.grace_seconds:g} s after SIGTERM"
    text += f", or later by {platform.longer}" if platform.longer else ", always"
    return Grace(platform.grace_seconds, text, is_sure=not platform.longer)


def memory_bytes(environ: Mapping[str, str], root: Path) -> int:
    """The memory that this process may take, by what the platform says of it and by its cgroups; 0: no limit found."""
    found = [number_within(environ.get("DYNO_RAM"), 1, _MOST_BYTES // _MEBIBYTE, 0) * _MEBIBYTE]
    found += _cgroup_limits(root)
    return min(filter(None, found), default=0)


def usable_cores(root: Path) -> int:
    """The cores that this process may use, by its affinity and its cgroup's quota, rounded down; 1 at the least."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(line) for line in _lines(root / "sys/fs/cgroup/cpu.max")]
    return max(1, min([allowed, *filter(None, quotas)]))


def _quota(line: str) -> int:
    """Of "200000 100000": 2; 0 where there is none ("max 100000")."""
    quota, period = (*line.split(), "", "")[:2]
    every = number_within(period, 1, _MOST_BYTES, 0)
    return max(1, number_within(quota, 1, _MOST_BYTES, 0) // every) if every and quota.isdigit() else 0


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The limits of the cgroup of this process and of those around it; 0 where one has none."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            yield from _limits_above(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_above(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")


def _limits_above(top: Path, path: str, name: str) -> Iterator[int]:
    """In a container `path` is that of the host, and only `top` is there."""
    inner = top / path.lstrip("/")
    for folder in (inner, *inner.parents):
        for text in _lines(folder / name):
            yield number_within(text, 1, _MOST_BYTES, 0)
        if folder == top:
            return


def _lines(path: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().splitlines()
    return []
