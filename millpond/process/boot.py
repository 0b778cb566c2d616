"""Boot: settings -> a Service that is ready to run."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import msgspec

from millpond.app import discovery
from millpond.app.config import AllSettings
from millpond.app.discovery import Handlers
from millpond.app.redrive_advice import good_count, longest_policy
from millpond.engine.processor import end_with_the_handler
from millpond.errors import ConfigError
from millpond.hub import asyncio_run, forked
from millpond.hub.clock import Clock, SystemClock
from millpond.hub.signals import ExitSignals
from millpond.local import LocalSqs
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.process.claim_store import check_store, open_store
from millpond.process.control import ControlServer
from millpond.process.core import Core
from millpond.process.follower import start_followers
from millpond.process.history import History
from millpond.process.kept_local import KEPT_LOCAL_VARIABLE, KeptLocalSqs
from millpond.process.letter_desk import LetterDesk
from millpond.process.live_page import LivePage
from millpond.process.observer import Observer
from millpond.process.parent_link import ParentLink
from millpond.process.process_metrics import ProcessMetrics
from millpond.process.refusals import Refusals
from millpond.process.service import Service
from millpond.process.steering import Steering
from millpond.process.wiring import Queues, Wiring

#: The account of the local SQS.
LOCAL_ARN = "arn:aws:sqs:us-east-1:000000000000"
#: Objects made before the collector looks for cycles: messages leave hardly any behind (Python's own is 700 to 2,000).
GC_ALLOCATIONS = 20_000
#: The longest that SQS lets a poll wait.
LONGEST_POLL_SECONDS = 20
#: --until-empty believes two empty long polls, and need not wait 20 s for each.
UNTIL_EMPTY_WAIT_SECONDS = 2


def build(
    settings: AllSettings,
    *,
    until_empty: bool = False,
    longest_wait_seconds: int = LONGEST_POLL_SECONDS,
    clock: Clock | None = None,
    signals: ExitSignals | None = None,
    link: ParentLink | None = None,
) -> Service:
    """Install the signals, call each setup(), wire everything. Raises ConfigError.

    A signal meanwhile ends that: the service that is returned is stopping then, and has nothing in hand.
    """
    settings = _with_polls_of(
        min(longest_wait_seconds, UNTIL_EMPTY_WAIT_SECONDS) if until_empty else longest_wait_seconds, settings
    )
    handlers = discovery.handlers_of(settings)
    worker = settings.worker
    core = Core(worker.concurrency, worker.drain_limit, clock or SystemClock(), signals or ExitSignals())
    core.install_signals()
    prepare_process()
    observer = Observer(core, worker.name)
    history = History(core, observer)
    kept = ProcessMetrics(settings, *([history] if settings.http.shows_page else []), types=handlers.routes)
    metrics = kept.metrics
    steering = Steering(core, observer)
    if link is not None:
        link.watch(core, steering)
    steering.install_signals(core.signals)
    desk = LetterDesk(core, settings.queues, settings.http.show_bodies)
    control, gated = ControlServer(steering, observer), LivePage(settings.http, core, observer, history, desk).gated
    followers = start_followers(settings, core, os.environ, control, kept.pages, link, gated)
    teardowns = core.boot(partial(set_up, handlers)) or ()
    queues = core.boot(partial(_wire, settings, core, handlers, metrics)) or Queues((), Refusals(core))
    teardowns, followers = [*teardowns, *queues.closing, desk.close], [*followers, desk]
    history.watch(queues.consumers)
    options: Any = {"teardowns": teardowns, "until_empty": until_empty, "followers": followers}
    return Service(core, metrics, queues, observer, steering, **options)


def _with_polls_of(seconds: int, settings: AllSettings) -> AllSettings:
    """The settings, with polls that wait no longer than this."""
    queues = {
        name: msgspec.structs.replace(queue, wait_seconds=min(queue.wait_seconds, seconds))
        for name, queue in settings.queues.items()
    }
    return msgspec.structs.replace(settings, queues=queues)


def set_up(handlers: Handlers) -> list[Callable[[], object]]:
    """Call every setup(). Returns the teardowns."""
    for setup in handlers.setups:
        _, error = forked.caught(setup.run)
        if error is not None:
            raise error
    return [*handlers.teardowns]


def _wire(settings: AllSettings, core: Core, handlers: Handlers, metrics: Metrics) -> Queues:
    store = open_store(settings, handlers.routes)
    if store is not None:
        check_store(store)
    urls = {name: queue.url for name, queue in settings.queues.items()}
    close_polls: Callable[[], object] = lambda: None  # noqa: E731
    kept: KeptLocalSqs | None = None
    if settings.has_local:
        count = good_count(longest_policy(handlers.routes, settings.retry))
        kept = KeptLocalSqs(url) if (url := os.environ.get(KEPT_LOCAL_VARIABLE, "")) else None
        server = kept or _start_local(settings)
        _make_queues(server, settings, count, urls)
        close_polls = server.close_polls
    queues = Wiring(settings, core, handlers, metrics, urls, store).wire(close_polls)
    for consumer in queues.consumers if kept is not None else ():
        # Not in the memory of this process; and no poll is left behind, which would hide a message from the next one.
        consumer.in_memory = consumer.at_loopback = False
    metrics.start()
    quiet_the_collector()
    return queues


def quiet_the_collector() -> None:
    """Keep the collector from what the boot has loaded, which stays: a tenth less CPU over 10,000 messages."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)


def prepare_process() -> None:
    """Let no greenlet that a handler spawned take the process down, and no child that it forks go on as a worker.

    gevent rethrows SystemExit and KeyboardInterrupt of any greenlet in the main one; ours stop by signal watchers.
    """
    gevent.get_hub().SYSTEM_ERROR = ()
    forked.install(end_with_the_handler)
    asyncio_run.install()


def _start_local(settings: AllSettings) -> LocalSqs:
    """Start the local SQS. Raises ConfigError."""
    server = LocalSqs(port=settings.local.port)
    try:
        server.start()
    except OSError as error:
        text = f"[local] port = {settings.local.port}: {error.strerror}; is another worker running?"
        raise ConfigError(text) from None
    return server


def _make_queues(
    server: LocalSqs | KeptLocalSqs, settings: AllSettings, max_receive_count: int, urls: dict[str, str]
) -> None:
    """Make the local queues, and put their URLs into `urls`."""
    names = [name for name, queue in settings.queues.items() if queue.is_local]
    for name in names:
        dead_letters = server.create_queue(f"{name}-dead", {})
        arn = f"{LOCAL_ARN}:{dead_letters.rpartition('/')[2]}"
        policy = {"deadLetterTargetArn": arn, "maxReceiveCount": max_receive_count}
        urls[name] = server.create_queue(name, {"RedrivePolicy": json.dumps(policy)})
    text = f"the local SQS listens on {server.url}; it keeps messages in memory only"
    log.event(logging.INFO, "local.ready", text, queues=names)
