"""Follower: who follows the life of a process, and tells its platform of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from millpond.app.config import AllSettings
from millpond.app.http_settings import HttpSettings
from millpond.app.platform import PlatformSettings, grace_of, platform_of
from millpond.engine.consumer import Consumer
from millpond.errors import ConfigError
from millpond.foreign.text import shown
from millpond.http.gated_pages import NO_PAGES, GatedPages
from millpond.http.http_server import HttpServer, Routes
from millpond.observe import log
from millpond.process.control import ControlServer
from millpond.process.core import Core
from millpond.process.ecs_agent import EcsAgent
from millpond.process.health import Health
from millpond.process.memory_limit import MemoryLimit
from millpond.process.parent_link import ParentLink
from millpond.process.systemd import SystemdNotifier, notify_socket, watchdog_seconds
from millpond.process.task_protection import TaskProtection


class Follower(Protocol):
    """What stands between a process and its platform. Nothing waits for what it does, but for a moment at the end."""

    def ready(self, consumers: Sequence[Consumer]) -> object:
        """The boot is over, and these queues are received from; not called where a signal came before."""

    def draining(self) -> object:
        """The drain begins."""

    def ended(self) -> object:
        """Nothing is in hand any more, or nothing more can be done; the exit follows."""


def start_followers(
    settings: AllSettings,
    core: Core,
    environ: Mapping[str, str],
    control: ControlServer | None = None,
    pages: Routes | None = None,
    link: ParentLink | None = None,
    gated: GatedPages = NO_PAGES,
) -> list[Follower]:
    """Start what this platform needs. Raises ConfigError. Call it before setup(): a long boot is seen as one then.

    `pages`: what [http] answers beside the health of the process; `gated`: what it answers to some only.
    """
    _log_short_grace(settings, environ)
    health = Health(core)
    followers: list[Follower] = [health]
    if settings.http.listen:
        _serve(settings.http, {**health.routes, **(pages or {})}, gated)
    if (place := notify_socket(environ)) is not None:
        followers.append(notifier := SystemdNotifier(core, health, place, watchdog_seconds(environ)))
        notifier.start()
    if not settings.http.listen and place is None:
        followers.clear()  # nobody asks how it fares
    if control is not None and settings.worker.control:
        followers.append(control)
        control.start()
    if link is not None:
        followers.append(link)
        link.start()
    if settings.worker.max_memory_mb:
        followers.append(MemoryLimit(core, settings.worker.max_memory_mb << 20))
    if protection := _protection(settings.platform, core, environ):
        followers.append(protection)
        protection.start()
    return followers


def _log_short_grace(settings: AllSettings, environ: Mapping[str, str]) -> None:
    """Log a drain that will be cut short; what may be so alone, `check` says."""
    grace = grace_of(platform_of(environ, Path("/")), settings.platform.grace_seconds)
    if grace is not None and grace.is_sure and (text := grace.shortfall(settings.worker.drain_limit)):
        log.event(logging.WARNING, "platform.short", text)


def _serve(settings: HttpSettings, routes: Routes, gated: GatedPages) -> None:
    server = HttpServer(settings.address, routes, f'[http] listen = "{settings.listen}"', gated)
    server.start()
    text = f"{', '.join([*routes, *gated.pages])} are answered on port {server.port}"
    log.event(logging.INFO, "http.ready", text, port=server.port)


def _protection(settings: PlatformSettings, core: Core, environ: Mapping[str, str]) -> TaskProtection | None:
    uri = environ.get("ECS_AGENT_URI")
    if settings.task_protection == "off" or not uri:
        return None
    try:
        return TaskProtection(core, EcsAgent(uri))
    except ValueError as error:
        raise ConfigError(f'[platform] task_protection = "auto": {shown(error)}') from None
