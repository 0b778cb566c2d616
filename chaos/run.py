"""One chaos run, from the first message to the audit."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from chaos import ledger
from chaos.audit import Evidence, Letter, Stream, audit
from chaos.faults import FaultPlan
from chaos.fleet import Fleet, FleetSettings, Striker, fleet
from chaos.hits import BLOWS, hits
from chaos.moment import now
from chaos.producer import Producer, Queue
from chaos.proxy_process import ProxyProcess, proxy
from chaos.report import Report, silence
from millpond.errors import FINISHED, LEFT
from tests.worker_process import LocalQueues, local_sqs

#: Receives after which SQS would redrive a message: never, here.
MAX_RECEIVE_COUNT = 1_000
#: Numbers of the FIFO queue's messages begin here.
FIFO_FIRST = 1_000_000_000
#: Groups of the two queues; those of a standard queue mean nothing.
GROUPS = 100
#: How long the workers have to empty the queue, once no faults come any more.
DRAIN_SECONDS = 120.0


class RunSettings(msgspec.Struct, frozen=True):
    """One run, of `seconds` at the longest. `messages`: the most that a queue gets; `blows`: the least of them (both 0:
    it lasts for `seconds`). `scale`: of the rates of network faults.

    `per_second`: to the standard queue; `fifo_per_second`: to the FIFO queue beside it, where there is one.
    """

    seed: int = 1
    seconds: float = 600.0
    messages: int = 0
    blows: int = 0
    per_second: float = 1_500.0
    fifo_per_second: float = 300.0
    workers: int = 3
    fifo: bool = False
    scale: float = 1.0
    hit_every_seconds: float = 4.0


def run(settings: RunSettings, folder: Path) -> Report:
    """Do it, with all files in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with local_sqs(folder) as queues:
        urls = _create(queues, settings.fifo)
        plan = FaultPlan(settings.seed, settings.scale)
        with proxy(queues.endpoint, folder, plan) as between:
            fleet_settings = FleetSettings(between.url, urls, str(folder / "ledger"), settings.seed, settings.workers)
            with fleet(folder, fleet_settings) as workers:
                streams, seconds = _storm(settings, urls, workers, between, fleet_settings.visibility_seconds)
                time.sleep(fleet_settings.visibility_seconds + 1)  # what is in flight now is in nobody's hands
                workers.write_logs()
                evidence = _evidence(folder, streams, workers, between, urls)
    return _report(settings, seconds, evidence)


def _create(queues: LocalQueues, fifo: bool) -> list[str]:
    urls = [queues.create("jobs", MAX_RECEIVE_COUNT)]
    if fifo:
        attributes = {"FifoQueue": "true"}
        queues.sqs.create_queue(QueueName="ordered-dead.fifo", Attributes=attributes)
        target = "arn:aws:sqs:us-east-1:000000000000:ordered-dead.fifo"
        policy = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": MAX_RECEIVE_COUNT})
        attributes["RedrivePolicy"] = policy
        urls.append(str(queues.sqs.create_queue(QueueName="ordered.fifo", Attributes=attributes)["QueueUrl"]))
    return urls


def _storm(
    settings: RunSettings, urls: Sequence[str], workers: Fleet, between: ProxyProcess, visibility_seconds: int
) -> tuple[list[Stream], float]:
    """Messages, faults and blows; then no more of them, and the workers end. What was sent, and in how long."""
    begun = now()
    producers = [_producer(url, settings, visibility_seconds) for url in urls]
    striker = Striker(workers, hits(settings.seed, settings.workers, settings.hit_every_seconds))
    for thread in (*producers, striker):
        thread.start()
    _wait(producers, striker, settings)
    striker.stop()
    streams = [
        Stream(producer.first, producer.stop(), GROUPS if producer.first == FIFO_FIRST else 0) for producer in producers
    ]
    between.follow(FaultPlan(scale=0.0))
    _wait_empty(urls, workers)
    seconds = now() - begun
    workers.stop()
    return streams, seconds


def _producer(url: str, settings: RunSettings, visibility_seconds: int) -> Producer:
    is_fifo = url.endswith(".fifo")
    return Producer(
        url,
        settings.seed,
        groups=GROUPS,
        visibility_seconds=visibility_seconds,
        per_second=settings.fifo_per_second if is_fifo else settings.per_second,
        first=FIFO_FIRST if is_fifo else 0,
        most=settings.messages,
    )


def _wait(producers: Sequence[Producer], striker: Striker, settings: RunSettings) -> None:
    end = now() + settings.seconds
    while now() < end and (striker.struck < settings.blows or any(producer.is_alive() for producer in producers)):
        if striker.error or any(producer.error for producer in producers):
            break  # raised when they are stopped
        time.sleep(0.1)


def _wait_empty(urls: Sequence[str], workers: Fleet) -> None:
    """Until nothing is left, or nothing more is to be hoped for: the audit shows which."""
    end = now() + DRAIN_SECONDS
    while now() < end and any(sum(_counts(url)) for url in urls):
        workers.check()
        time.sleep(0.2)


def _evidence(
    folder: Path, streams: Sequence[Stream], workers: Fleet, between: ProxyProcess, urls: Sequence[str]
) -> Evidence:
    counts = [_counts(url) for url in urls]
    with (folder / "ledger").open() as lines:
        runs = ledger.read(lines)
    return Evidence(
        sent=streams,
        runs=runs,
        faults=between.faults(),
        events=workers.log,
        letters=[letter for url in urls for letter in _letters(url)],
        visible=sum(visible + delayed for visible, _, delayed in counts),
        in_flight=sum(in_flight for _, in_flight, _ in counts),
        complaints=_complaints(workers),
    )


def _counts(url: str) -> tuple[int, int, int]:
    with Queue(url) as queue:
        return queue.counts()


def _letters(url: str) -> list[Letter]:
    name, dot, fifo = url.partition(".fifo")
    with Queue(f"{name}-dead{dot}{fifo}") as queue:
        return [_letter(message) for message in queue.take_all()]


def _letter(message: dict[str, Any]) -> Letter:
    n = json.loads(message["Body"])["payload"]["n"]
    attribute = message.get("MessageAttributes", {}).get("millpond")
    return Letter(n, json.loads(attribute["StringValue"])["reason"] if attribute else None)


def _complaints(workers: Fleet) -> list[str]:
    """What no worker may do, whatever is done to it."""
    found = list(workers.complaints)
    for worker in workers.workers:
        found += [f"{worker.name}: {line}" for line in worker.process.all("worker.crashed")]
        if re.search(r"Traceback|Error", worker.process.stderr):
            found.append(f"{worker.name}: standard error: {worker.process.stderr[-2_000:]}")
    for event in workers.log:
        if event.what == "exit" and event.exit_code not in (FINISHED, LEFT, -signal.SIGKILL):
            found.append(f"{event.worker}: exit code {event.exit_code}")
    return found


def _report(settings: RunSettings, seconds: float, evidence: Evidence) -> Report:
    return Report(
        seed=settings.seed,
        seconds=seconds,
        audit=audit(evidence),
        faults=Counter(fault.kind for fault in evidence.faults),
        operations=Counter(fault.operation for fault in evidence.faults),
        longest_silence=silence(evidence.runs),
        blows=Counter(event.what for event in evidence.events if event.what in BLOWS),
        exits=Counter(f"exit code {event.exit_code}" for event in evidence.events if event.what == "exit"),
    )
