"""Messages held longer than their visibility time-out: one delivery each, extensions ten to a call."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from socket import SHUT_WR

import gevent
from gevent.server import StreamServer
from gevent.socket import create_connection

from bench.process import cpu_seconds
from bench.rig import config, fill, said, server, worker
from tests.worker_process import LocalQueues


class Proxy:
    """Between worker and server: half a round trip of delay each way; counts the calls by name."""

    def __init__(self, endpoint: str, seconds: float) -> None:
        host, port = endpoint.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._half = seconds / 2
        self.calls: dict[str, int] = {}
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def _serve(self, client: gevent.socket.socket, _: object) -> None:
        upstream = create_connection(self._target)
        both = [gevent.spawn(self._pipe, client, upstream, True), gevent.spawn(self._pipe, upstream, client, False)]
        gevent.joinall(both)

    def _pipe(self, source: gevent.socket.socket, target: gevent.socket.socket, count: bool) -> None:
        while data := source.recv(65_536):
            if count:
                self._count(data)
            gevent.spawn_later(self._half, target.sendall, data)
        gevent.sleep(self._half)
        with suppress(OSError):  # the other side may have gone first
            target.shutdown(SHUT_WR)

    def _count(self, data: bytes) -> None:
        for part in data.split(b"AmazonSQS.")[1:]:
            name = part.split(b"\r", 1)[0].decode()
            self.calls[name] = self.calls.get(name, 0) + 1


def hold(queues: LocalQueues, number: int, seconds: float, visibility: int, round_trip: float) -> None:
    """Hold so many messages so long; print what SQS was asked and how often each was delivered."""
    name = f"hold-{number}"
    proxy = Proxy(queues.endpoint, round_trip)
    url = queues.create(name).replace(queues.endpoint, proxy.endpoint)
    fill(queues, name, number, (seconds, seconds))
    queue = f"visibility_seconds = {visibility}\nwait_seconds = 1\npollers = 16"
    text = config(url, queue=queue, worker=f"concurrency = {number}")
    with worker(text, "--until-empty") as process:
        share = core_share(process.pid, seconds)
        code = process.exit_code(seconds + 120)
    beats = proxy.calls.get("ChangeMessageVisibilityBatch", 0)
    print(
        f"{number} messages of {seconds:g} s on {visibility} s of visibility, {round_trip * 1000:.0f} ms a round trip: "
        f"{said(process, 'books')[0]}, calls {proxy.calls}, messages a beat call "
        f"{beats_due(number, seconds, visibility) / max(1, beats):.1f}, {share:.2%} of a core while all are held, "
        f"left {queues.counts(name)}, exit {code}",
        flush=True,
    )


def core_share(process: int, seconds: float) -> float:
    """The part of a core that a process takes in the middle of the hold, when all messages are there and none ends."""
    gevent.sleep(seconds * 0.2)
    began, before = time.monotonic(), cpu_seconds(process)
    gevent.sleep(seconds * 0.7)
    return (cpu_seconds(process) - before) / (time.monotonic() - began)


def beats_due(number: int, seconds: float, visibility: int) -> int:
    """How many extensions were due: one each third of the visibility time-out, while the handler runs."""
    return number * (math.ceil(seconds / (visibility / 3)) - 1)


def run() -> None:
    with server() as queues:
        hold(queues, 10_000, 60, 60, 0.0)
        hold(queues, 1_000, 10, 12, 0.0)
        hold(queues, 5_000, 60, 30, 0.05)
        hold(queues, 1, 95, 30, 0.0)


if __name__ == "__main__":
    run()
