"""What `check` finds on what runs the worker: whether the drain fits into its time, and messages into its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from millpond.app.config import AllSettings
from millpond.app.platform import DOCKER, Platform, grace_of, memory_bytes, platform_of, usable_cores
from millpond.app.routing import Route
from millpond.commands.finding import Finding
from millpond.commands.send import is_listened_to
from millpond.foreign.number import number_within

HIGHEST_PORT = 65_535
#: The longest time-out of a function of Lambda.
LAMBDA_SECONDS = 900
#: What a process takes without a message, and how much of a byte in hand: docs/reference/settings.md, "Memory".
BASE_BYTES, BYTES_PER_BYTE = 50 * 2**20, 5


def check_platform(
    settings: AllSettings, environ: Mapping[str, str], root: Path = Path("/"), routes: Mapping[str, Route] = {}
) -> Iterator[Finding]:
    """Yield every finding on what runs this process; `root`: of the file system."""
    if environ.get("AWS_LAMBDA_FUNCTION_NAME"):
        yield from _lambda(routes)
        return
    yield from _http(settings, root)
    yield from _memory(settings, memory_bytes(environ, root))
    yield from _watchdog(settings, environ)
    yield from _protection(settings, environ)
    yield _grace(settings, platform_of(environ, root), environ)


def _lambda(routes: Mapping[str, Route]) -> Iterator[Finding]:
    """Yield what is different in a function: AWS polls, and ends it by its time-out."""
    text = "Lambda polls the queue itself: pollers, prefetch, drain_seconds and [http] have no effect there"
    yield Finding("note", "platform", text)
    for name, route in sorted(routes.items()):
        if route.timeout_seconds >= LAMBDA_SECONDS:
            text = f"the time limit of {name} is {route.timeout_seconds:g} s, and a function ends after"
            text += f" {LAMBDA_SECONDS} s at the latest"
            why = "what it stops in the middle runs again from its beginning"
            yield Finding("warning", "platform", text, why=why, mend="lower its timeout, or run it in a worker")
    longest = max((route.timeout_seconds for route in routes.values()), default=0.0)
    text = f"the function's time-out must be longer than {longest:g} s, the longest time limit"
    yield Finding("note", "platform", text, mend=f"and VisibilityTimeout of the queue {6 * longest:g} s, six times it")


def _grace(settings: AllSettings, platform: Platform | None, environ: Mapping[str, str]) -> Finding:
    if environ.get("NOTIFY_SOCKET"):
        text = "systemd waits as long as the drain takes, since the worker asks for more time (EXTEND_TIMEOUT_USEC)"
        return Finding("ok", "platform", text)
    grace, drain_seconds = grace_of(platform, settings.platform.grace_seconds), settings.worker.drain_limit
    if grace is None:
        return Finding("note", "platform", "this is neither Heroku nor ECS nor Kubernetes nor systemd nor Docker")
    if text := grace.shortfall(drain_seconds):
        is_guess = platform is DOCKER and not grace.is_sure  # what runs Docker is not known
        return Finding("note" if is_guess else "warning", "platform", text)
    return Finding("ok", "platform", f"{grace.text}; drain_seconds = {drain_seconds:g} fits into that")


def _memory(settings: AllSettings, limit: int) -> Iterator[Finding]:
    need = BASE_BYTES + BYTES_PER_BYTE * settings.worker.max_bytes_in_flight
    text = f"{limit // 2**20} MiB are here; a worker without messages takes 50 MiB, and large messages in hand up to"
    text += f" {(need - BASE_BYTES) // 2**20} MiB more (max_bytes_in_flight); your handlers come on top"
    if limit:
        yield Finding("ok" if need <= limit else "warning", "memory", text)


def _watchdog(settings: AllSettings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """systemd's watchdog would end the process first, without the log line that names the handler."""
    seconds = number_within(environ.get("WATCHDOG_USEC"), 1, 10**15, 0) / 1e6
    if 0 < seconds <= settings.worker.max_block_seconds:
        text = f"WatchdogSec is {seconds:g} s: make it longer than max_block_seconds, which is"
        text += f" {settings.worker.max_block_seconds:g}, so that the log says which handler blocks the worker"
        yield Finding("warning", "platform", text)


def _protection(settings: AllSettings, environ: Mapping[str, str]) -> Iterator[Finding]:
    if settings.platform.task_protection == "off":
        return
    if environ.get("ECS_AGENT_URI"):
        text = "the task is protected from scale-in and deployments while messages are in hand; it needs the right"
        yield Finding("note", "platform", f"{text} ecs:UpdateTaskProtection, which is not tried here")
    else:
        text = "task_protection = auto does nothing here: ECS_AGENT_URI, which ECS sets, is not set"
        yield Finding("note", "platform", text)


def _http(settings: AllSettings, root: Path) -> Iterator[Finding]:
    """A worker that runs already is no fault, but no other one can start beside it."""
    if settings.http.listen and is_listened_to(settings.http.address[1]):
        text = f"listen = {settings.http.listen} is in use: while that program runs, no worker can start"
        yield Finding("note", "http", text)
    number = settings.worker.process_number(usable_cores(root))
    if settings.http.listen and number > 1 and settings.http.address[1] + number - 1 > HIGHEST_PORT:
        text = f"listen = {settings.http.listen} leaves no port of its own to each of {number} processes"
        why = (
            f"each takes the port after the one before it, and the last port is {HIGHEST_PORT}: two would take the same"
        )
        yield Finding("error", "http", text, why=why, mend=f"set a port of {HIGHEST_PORT + 1 - number} or lower")
