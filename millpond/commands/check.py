"""`worker.py check`: what can be found out before the first message, as a table of findings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from millpond.app import discovery
from millpond.app.config import AllSettings, RetrySettings
from millpond.app.retry_policy import Span, policy_of
from millpond.app.routing import Route
from millpond.commands.check_bodies import check_bodies
from millpond.commands.check_claims import check_claims
from millpond.commands.check_host import check_host, check_statsd
from millpond.commands.check_libraries import check_drain, check_libraries
from millpond.commands.check_platform import check_platform
from millpond.commands.check_queue import check_queue, queue_at
from millpond.commands.finding import WORST_FIRST, Finding, Level, in_order
from millpond.commands.send import is_listened_to
from millpond.errors import FINISHED, MISCONFIGURED, ConfigError, Verdict
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.hub.home import within
from millpond.observe import screen
from millpond.observe.screen import MAX_CELL, counted
from millpond.sqs.endpoint import find_endpoint
from millpond.sqs.queue_url import place_of

STYLES = {"ok": "green", "note": "dim", "warning": "yellow", "error": "bold red"}
#: What the preflight() of one handlers module may take.
PREFLIGHT_SECONDS = 20.0


def run(settings: AllSettings, environ: Mapping[str, str], *, as_json: bool = False) -> int:
    """Print every finding, the worst first, as a table or as JSON; return the exit code."""
    findings = in_order(preflight(settings, environ))
    if as_json:
        return print_json(findings)
    screen.table(["", "where", "finding"], [(one.level, one.where, one.sentence) for one in findings], STYLES)
    if commands := [one.command for one in findings if one.command]:
        print("to mend it:", *commands, sep="\n")
    counts = Counter(finding.level for finding in findings)
    verdict = "the worker cannot work" if counts["error"] else "the worker can work"
    print(f"{verdict}: {', '.join(counted(counts[level], level) for level in ('error', 'warning'))}", flush=True)
    return MISCONFIGURED if counts["error"] else FINISHED


def print_json(findings: Sequence[Finding]) -> int:
    """Print the findings as one JSON object, for a program; return the exit code."""
    counts = Counter(finding.level for finding in findings)
    rows = [
        {
            "level": one.level,
            "where": one.where,
            "what": shown(one.text, MAX_CELL),
            "why": shown(one.why, MAX_CELL),
            "mend": shown(one.mend, MAX_CELL),
            "command": one.command,
        }
        for one in findings
    ]
    counted_levels = {level: counts[level] for level in WORST_FIRST}
    print(json.dumps({"can_work": not counts["error"], **counted_levels, "findings": rows}, indent=1), flush=True)
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
    yield check_statsd(settings.statsd)
    yield from check_host(settings)
    yield from check_platform(settings, environ, root, routes)
    yield from _circles(settings)


def _handlers(settings: AllSettings) -> Generator[Finding, None, Mapping[str, Route]]:
    """Returns the routes; empty where the handlers cannot be loaded."""
    try:
        found = discovery.handlers_of(settings)
    except ConfigError as error:
        yield from _errors("handlers", error)
        return {}
    hooked = list(_hooks(found))
    wrong = [one for one in hooked if one.level == "error"]
    yield from hooked
    if not wrong:
        yield Finding("ok", "handlers", f"types: {', '.join(sorted(found.routes))}")
    own = settings.folder / "handlers"
    if own.is_dir() and own.resolve() not in [
        (settings.folder / entry).resolve() for entry in settings.worker.handlers
    ]:
        yield Finding("note", "handlers", f"the folder {own} is not in [worker] handlers, so it is not loaded")
    tried = {hook.module for hook in found.preflights}
    if any(hook.module not in tried for hook in found.setups) and not wrong:
        yield Finding("note", "handlers", "the servers of handlers that have no preflight() are not tried")
    yield from check_drain(settings, found.routes)
    yield from check_libraries(found.routes)
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
    """Call each setup(), and the preflight() and the teardown() of each module that was set up."""
    failed = set()
    for hook in found.setups:
        try:
            hook.run()
        except ConfigError as error:
            failed.add(hook.module)
            yield from _errors("handlers", error)
    yield from (_tried(hook) for hook in found.preflights if hook.module not in failed)
    for hook in found.teardowns:
        try:
            if hook.module not in failed:
                hook.run()
        except ConfigError as error:
            yield from _errors("handlers", error)


def _tried(hook: discovery.Hook) -> Finding:
    """What a preflight() of the user's says, in its own time: anything can come out of it."""
    why, waits = "", "the messages of its types wait until that is over"
    level: Level = "error"
    try:
        said = within(PREFLIGHT_SECONDS, hook)
        return Finding(
            "ok", "handlers", f"{hook.module}: {shown(said) if isinstance(said, str) else 'preflight() is content'}"
        )
    except ConfigError as error:
        text = "; ".join(error.findings)
    except Verdict as verdict:
        text, why = verdict.reason, waits
        level = "warning"
    except TimeoutError:
        text, level = f"preflight() has not ended within {PREFLIGHT_SECONDS:g} s", "warning"
    except Exception as error:
        text = f"preflight() failed: {describe(error)}"
    return Finding(level, "handlers", f"{hook.module}: {text}", why=why)


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


def _circles(settings: AllSettings) -> Iterator[Finding]:
    """Yield an error for each queue of this worker that is another one's dead-letter queue."""
    for name, queue in settings.queues.items():
        for other, its in settings.queues.items():
            if not queue.is_local and queue.url == its.dead_letter_url:
                text = f"this is the dead-letter queue of queues.{other}"
                why = "its dead letters would be received and handled again at once"
                yield Finding("error", f"queues.{name}", text, why=why, mend=f"take [queues.{name}] out")


def _errors(where: str, error: ConfigError) -> Iterator[Finding]:
    return (Finding("error", where, text) for text in error.findings)
