"""What `check` finds on the machine that it runs on: its clock, its descriptors, and whether StatsD listens."""

from __future__ import annotations

import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from millpond.app.config import AllSettings
from millpond.app.output_settings import StatsdSettings
from millpond.commands.finding import Finding
from millpond.errors import ConfigError
from millpond.hub.home import Errand, process, within
from millpond.sqs.endpoint import Endpoint, find_endpoint

#: What a name server has for an answer.
LOOKUP_SECONDS = 5
#: What a closed port has to say so (ICMP); nothing comes from one that is open.
REFUSAL_SECONDS = 0.2
DATE_SECONDS = 5.0
#: SQS refuses requests that are signed 5 minutes from its own time; well before that ages and latencies are wrong.
MAX_SKEW_SECONDS = 60
#: Files, pipes and sockets of a worker without a message; sockets to SQS that settle the messages of one queue.
BASE_DESCRIPTORS, SETTLING_DESCRIPTORS = 50, 10


def check_host(settings: AllSettings) -> Iterator[Finding]:
    """Yield every finding on the clock and the descriptors of this machine."""
    yield from _descriptors(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for endpoint in _endpoints(settings):
        yield from _clock(endpoint)


def check_statsd(statsd: StatsdSettings) -> Finding:
    """Whether the metrics have a place to go to."""
    if not statsd.host:
        return Finding("note", "statsd", "host is empty, so no metrics are sent")
    try:
        found = Errand(lambda: socket.getaddrinfo(statsd.host, statsd.port, type=socket.SOCK_DGRAM), process)
        family, kind, number, _, address = found.result(LOOKUP_SECONDS)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that is too long
        return Finding("warning", "statsd", f"host = {statsd.host} cannot be resolved, so no metrics are sent: {error}")
    place = f"{statsd.host}:{statsd.port}"
    with suppress(TimeoutError), socket.socket(family, kind, number) as probe:
        try:
            probe.settimeout(REFUSAL_SECONDS)
            probe.connect(address)
            probe.send(b"")
            probe.recv(1)
        except TimeoutError:
            raise
        except OSError as error:
            text, why = f"nothing takes metrics at {place}: {error.strerror}", "they are lost"
            return Finding("warning", "statsd", text, why=why, mend="start the StatsD server, or mend host and port")
    return Finding("ok", "statsd", f"metrics go to {place}, which does not refuse them; UDP says no more")


def _descriptors(settings: AllSettings, limit: int) -> Iterator[Finding]:
    polls = sum(queue.pollers for queue in settings.queues.values())
    need = BASE_DESCRIPTORS + polls + SETTLING_DESCRIPTORS * len(settings.queues) + settings.worker.concurrency
    if 0 <= limit < need:
        text = f"the limit of open files and sockets is {limit}, and about {need} are needed"
        why = "a handler that has a connection of its own, as most have, fails with 'too many open files'"
        mend = (
            f"raise it (ulimit -n {2 * need}, LimitNOFILE of systemd, ulimits of compose and ECS) or lower concurrency"
        )
        yield Finding("warning", "host", text, why=why, mend=mend)


def _endpoints(settings: AllSettings) -> list[Endpoint]:
    """Each place that is called, once; but for those behind a proxy."""
    found: dict[str, Endpoint] = {}
    for queue in settings.queues.values():
        with suppress(ConfigError):  # the check of the queue says what is wrong
            if not queue.is_local:
                endpoint = find_endpoint(queue.url, settings.sqs.region, settings.sqs.endpoint_url)
                found[endpoint.url] = endpoint
    return [endpoint for endpoint in found.values() if not endpoint.proxied]


def _clock(endpoint: Endpoint) -> Iterator[Finding]:
    with suppress(OSError, HTTPException, ValueError, TypeError):  # whether it can be reached, its queues show
        ahead = time.time() - within(DATE_SECONDS, lambda: _date_of(endpoint))
        if abs(ahead) > MAX_SKEW_SECONDS:
            text = f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of SQS"
            why = "latencies and ages are wrong by that, and from 300 s on AWS refuses what is signed"
            yield Finding("warning", "host", text, why=why, mend="let it keep time by NTP (chrony, systemd-timesyncd)")


def _date_of(endpoint: Endpoint) -> float:
    """The moment at which the server says that it is. Raises what a server can make wrong."""
    parts = urlsplit(endpoint.url)
    host, seconds = parts.hostname or "", DATE_SECONDS
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=endpoint.ca_file)
        connection: HTTPConnection = HTTPSConnection(host, parts.port, timeout=seconds, context=context)
    else:
        connection = HTTPConnection(host, parts.port, timeout=seconds)
    try:
        connection.request("GET", "/")
        return parsedate_to_datetime(connection.getresponse().headers["Date"]).timestamp()
    finally:
        connection.close()
