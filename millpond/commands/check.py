"""`worker.py check`: what can be found out before the first message, as a table of findings."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from pathlib import Path

from millpond.app import discovery
from millpond.app.config import AllSettings, RetrySettings
from millpond.app.output_settings import StatsdSettings
from millpond.app.retry_policy import Span, policy_of
from millpond.app.routing import Route
from millpond.commands.check_bodies import check_bodies
from millpond.commands.check_claims import check_claims
from millpond.commands.check_platform import check_platform
from millpond.commands.check_queue import Finding, check_queue, queue_at
from millpond.commands.send import is_listened_to
from millpond.errors import FINISHED, MISCONFIGURED, ConfigError
from millpond.hub.home import Errand, process
from millpond.observe import screen
from millpond.observe.screen import counted
from millpond.sqs.endpoint import find_endpoint
from millpond.sqs.queue_url import place_of

STYLES = {"ok": "green", "note": "dim", "warning": "yellow", "error": "bold red"}
#: What a name server has for an answer.
LOOKUP_SECONDS = 5


def run(settings: AllSettings, environ: Mapping[str, str]) -> int:
    """Draw every finding as a table; return the exit code."""
    findings = list(preflight(settings, environ))
    screen.table(["", "where", "finding"], [(one.level, one.where, one.text) for one in findings], STYLES)
    if commands := [one.command for one in findings if one.command]:
        print("to mend it:", *commands, sep="\n")
    counts = Counter(finding.level for finding in findings)
    verdict = "the worker cannot work" if counts["error"] else "the worker can work"
    print(f"{verdict}: {', '.join(counted(counts[level], level) for level in ('error', 'warning'))}", flush=True)
    return MISCONFIGURED if counts["error"] else FINISHED


def preflight(settings: AllSettings, environ: Mapping[str, str], root: Path = Path("/")) -> Iterator[Finding]:
    """Yield every finding on settings that could be loaded; `root`: of the file system."""
    yield Finding("ok", "settings", f"queues: {', '.join(settings.queues)}")
    yield from (Finding("ok", "secrets", f"{place}: {text} was read") for place, text in settings.references)
    routes = yield from _handlers(settings)
    yield from (Finding("ok", "types", f"{name}: {_limits(route)}") for name, route in sorted(routes.items()))
    yield from _attempts(settings.retry, routes)
    for name, queue in settings.queues.items():
        try:
            yield from check_queue(name, settings, routes, partial(queue_at, queue=queue, settings=settings))
            yield from _client(name, settings)
        except ConfigError as error:
            yield from _errors(f"queues.{name}", error)
    yield from check_claims(settings, routes)
    yield from check_bodies(settings)
    yield from _local(settings)
    yield _statsd(settings.statsd)
    yield from check_platform(settings, environ, root)


def _handlers(settings: AllSettings) -> Generator[Finding, None, Mapping[str, Route]]:
    """Returns the routes; empty where the handlers cannot be loaded."""
    try:
        found = discovery.handlers_of(settings)
    except ConfigError as error:
        yield from _errors("handlers", error)
        return {}
    wrong = list(_hooks(found))
    yield from wrong or [Finding("ok", "handlers", f"types: {', '.join(sorted(found.routes))}")]
    own = settings.folder / "handlers"
    if own.is_dir() and own.resolve() not in [
        (settings.folder / entry).resolve() for entry in settings.worker.handlers
    ]:
        yield Finding("note", "handlers", f"the folder {own} is not in [worker] handlers, so it is not loaded")
    if found.setups and not wrong:
        yield Finding("note", "handlers", "the servers that handlers need, such as the mail server, are not tried")
    return found.routes


def _limits(route: Route) -> str:
    """What holds the messages of a type back."""
    rate = f"{route.rate}" if route.rate else "no rate"
    at_once = f"{route.concurrency} at once" if route.concurrency else "any number at once"
    waits = "it never waits for the other side"
    if breaker := route.breaker:
        waits = f"it waits after {breaker.outage_failures} failures in a row that are the other side's"
        waits += f", or {breaker.failures} of any kind" if breaker.failures else ""
    return f"{rate}, {at_once}; {waits}" + ("; idempotent" if route.idempotent else "")


def _attempts(retry: RetrySettings, routes: Mapping[str, Route]) -> Iterator[Finding]:
    """Yield how long a message that always fails is tried, by [retry] and by each handler with a policy of its own."""
    yield Finding("ok", "retry", f"a message that always fails is a dead letter {_after(retry)}")
    for event_type, route in sorted(routes.items()):
        if (policy := policy_of(route, retry)) != retry:
            yield Finding("ok", "retry", f"one of type {event_type} {_after(policy)}, by its own settings")


def _after(policy: RetrySettings) -> str:
    if policy.max_attempts == 1:
        return "after its first attempt"
    return f"after {policy.max_attempts} attempts, in {Span.of(policy)} and what its handler takes"


def _hooks(found: discovery.Handlers) -> Iterator[Finding]:
    """Call each setup(), and the teardown() of each module that was set up."""
    failed = set()
    for hook in (*found.setups, *found.teardowns):
        if hook.module in failed:
            continue
        try:
            hook.run()
        except ConfigError as error:
            failed.add(hook.module)
            yield from _errors("handlers", error)


def _client(name: str, settings: AllSettings) -> Iterator[Finding]:
    queue, sqs = settings.queues[name], settings.sqs
    if queue.is_local:
        return
    endpoint = find_endpoint(queue.url, sqs.region, sqs.endpoint_url)
    if sqs.region and sqs.region != endpoint.region:
        text = f"the URL names the region {endpoint.region}, and that counts: [sqs] region (AWS_REGION) is {sqs.region}"
        yield Finding("note", f"queues.{name}", text)
    own = place_of(queue.url).endpoint_url
    if endpoint.url != f"{own}/":
        text = f"{endpoint.url} is called, by [sqs] endpoint_url or the AWS SDK's settings, and not {own}"
        yield Finding("note", f"queues.{name}", text)
    if endpoint.proxied and sqs.client != "boto3":
        yield Finding(
            "note", f"queues.{name}", f"a proxy stands before {endpoint.url}: boto3 is used, since wire takes no proxy"
        )


def _local(settings: AllSettings) -> Iterator[Finding]:
    """A worker that runs already is no fault, but no other one can start beside it."""
    port = settings.local.port
    if any(queue.is_local for queue in settings.queues.values()) and is_listened_to(port):
        text = f"port = {port} is in use: while that program runs, no worker with local queues can start"
        yield Finding("note", "local", text)


def _errors(where: str, error: ConfigError) -> Iterator[Finding]:
    return (Finding("error", where, text) for text in error.findings)


def _statsd(statsd: StatsdSettings) -> Finding:
    if not statsd.host:
        return Finding("note", "statsd", "host is empty, so no metrics are sent")
    try:
        Errand(lambda: socket.getaddrinfo(statsd.host, statsd.port), process).result(LOOKUP_SECONDS)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that is too long
        return Finding("warning", "statsd", f"host = {statsd.host} cannot be resolved, so no metrics are sent: {error}")
    return Finding(
        "ok", "statsd", f"metrics go to {statsd.host}:{statsd.port}; nothing shows whether a server listens there"
    )
