"""One consumer, one queue, one run: what it cost."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.consumers import Consumer, Job, bodies
from bench.marks import PATIENCE_SECONDS, Marks
from bench.process import CONSUMER_CORE, on_core, tree_cpu_seconds, tree_peak_mib
from bench.servers import Server

#: CPU and time are counted from the end of this message on: connections stand then, and code is warm.
WARM = 1_000
#: Messages a second that a run may be as slow as, beyond that patience.
SLOW = 1_000
#: Seconds that the last deletes have.
CALL_SECONDS = 10
#: Calls that only the driver makes.
_OWN_CALLS = {"CreateQueue", "SendMessageBatch", "DeleteQueue"}


@dataclass
class Result:
    """Of one run. `calls` is what the server counted from the consumer's start until the queue was empty."""

    cpu_us: float
    per_second: float
    start_seconds: float
    peak_mib: float
    calls: dict[str, int]
    calls_per_message: float | None
    left: int
    server_cpu_us_per_call: float | None
    server_busy: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Consuming:
    """A consumer's process and its descendants, on the consumers' core; all it says goes to a file."""

    def __init__(self, consumer: Consumer, job: Job) -> None:
        self._log = job.folder / "log"
        command = consumer.command(job)
        with on_core(CONSUMER_CORE), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=job.folder, env=job.environ(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.began = time.monotonic()
        self.pid = self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2_000:]

    def end(self) -> None:
        """At once, with all of its session: what it did is measured, how it stops is not."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@dataclass(frozen=True)
class Moment:
    """The time, and the CPU seconds of the consumer's processes and of the server."""

    time: float
    cpu: float
    server_cpu: float

    @classmethod
    def now(cls, process: Consuming, server: Server) -> Moment:
        return cls(time.monotonic(), tree_cpu_seconds(process.pid), server.cpu_seconds())


@contextmanager
def consuming(
    consumer: Consumer, server: Server, queue_url: str, concurrency: int, total: int, *,
    starts: Path | None = None, **options: str,
) -> Iterator[tuple[Consuming, Marks]]:  # fmt: skip
    """A consumer at work on a queue. Raises RuntimeError with the end of its log for one that does not do it."""
    marks = Marks()
    with tempfile.TemporaryDirectory() as folder:
        job = Job(server, queue_url, concurrency, total, marks.port, marks.statsd_port, Path(folder), starts, options)
        process = Consuming(consumer, job)
        try:
            yield process, marks
        except RuntimeError as error:
            raise RuntimeError(f"{consumer.label}: {error}\n{process.said()}") from error
        finally:
            process.end()
            marks.close()


def throughput(
    consumer: Consumer, server: Server, concurrency: int, total: int, made: Iterable[str] | None = None, **options: str
) -> Result:
    """A full queue, worked to its end; `made` are the messages, the usual ones without it."""
    with server.queue() as queue_url:
        server.send(queue_url, bodies(consumer, total) if made is None else made)
        calls_before = server.calls(queue_url)
        with consuming(consumer, server, queue_url, concurrency, total, **options) as (process, marks):
            marks.wait("first", process.is_running)
            first = Moment.now(process, server)
            marks.wait("thousandth", process.is_running)
            warm = Moment.now(process, server)
            marks.wait("last", process.is_running, PATIENCE_SECONDS + total / SLOW)
            last = Moment.now(process, server)
            left = _settled(server, queue_url)
            calls = _difference(server.calls(queue_url), calls_before)
            peak_mib = tree_peak_mib(process.pid)
    counted, number = total - WARM, sum(calls.values())
    seconds, server_cpu = last.time - warm.time, last.server_cpu - warm.server_cpu
    return Result(
        cpu_us=(last.cpu - warm.cpu) / counted * 1e6,
        per_second=counted / seconds,
        start_seconds=first.time - process.began,
        peak_mib=peak_mib,
        calls=calls,
        calls_per_message=number / total if number else None,
        left=left,
        server_cpu_us_per_call=server_cpu / (number * counted / total) * 1e6 if number else None,
        server_busy=server_cpu / seconds,
    )


def _settled(server: Server, queue_url: str) -> int:
    """Messages left once the queue is empty, or the last deletes have had their time."""
    end = time.monotonic() + CALL_SECONDS
    while (left := server.left(queue_url)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {
        name: number - before.get(name, 0)
        for name, number in after.items()
        if name not in _OWN_CALLS and number > before.get(name, 0)
    }
