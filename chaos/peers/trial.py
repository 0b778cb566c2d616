"""One trial: one program through one experiment, from the first message to its row."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from chaos import ledger
from chaos.audit import Evidence, Letter, Stream
from chaos.faults import FaultPlan
from chaos.fleet import Fleet, FleetSettings, Striker, Worker, fleet
from chaos.handles import number_of
from chaos.moment import now
from chaos.peers.findings import Row, row
from chaos.peers.process import PeerWorker
from chaos.peers.programs import JOB_VISIBILITY_SECONDS, Program, bodies
from chaos.peers.schedules import Experiment, timetable
from chaos.producer import Producer, Queue
from chaos.proxy_process import ProxyProcess, proxy
from chaos.report import silence
from tests.worker_process import LocalQueues, local_sqs

#: Receives after which SQS makes a dead letter itself: AWS asks for five at the least.
MAX_RECEIVE_COUNT = 5
WORKERS, CONCURRENCY = 3, 50
#: How long the workers have to empty the queue, once nothing is done to them any more.
DRAIN_SECONDS = 120.0
LOOK_SECONDS = 0.2
#: Attributes of a dead letter that tell why.
REASONS = ("millpond", "fanferro.dead-letter")


class BodyProducer(Producer):
    """Sends these bodies, in their order and steadily: a blow is to find work under way."""

    def __init__(self, url: str, seed: int, per_second: float, made: Sequence[str]) -> None:
        count = len(made) // 10 * 10
        visibility = JOB_VISIBILITY_SECONDS
        super().__init__(url, seed, groups=1, visibility_seconds=visibility, per_second=per_second, most=count)
        self._made = made

    def _send_some(self) -> None:
        made = self._made[self.sent : self.sent + 10]
        entries = [{"Id": str(index), "MessageBody": body} for index, body in enumerate(made)]
        answer = self._queue.call("SendMessageBatch", Entries=entries)
        if answer.get("Failed"):
            raise RuntimeError(f"the queue refused {answer['Failed']}")
        self.sent += len(entries)


def run(program: Program, experiment: Experiment, seed: int, seconds: float, per_second: float, folder: Path) -> Row:
    """Do it, with all files in this folder."""
    made = bodies(program, seed, int(2 * seconds * per_second) + 1_000)
    with _scene(program, experiment, seed, folder) as (url, between, workers):
        sent, took = _suffer(url, between, workers, experiment, (seed, seconds, per_second), made)
        time.sleep(program.visibility_seconds + 1)  # what is in flight now is in nobody's hands
        workers.write_logs()
        evidence, left = _evidence(folder, Stream(0, sent), workers, between, url, program)
    found = row(program.name, experiment.name, seed, evidence, left, took)
    found.longest_silence = round(silence(evidence.runs), 1)
    return found


@contextmanager
def _scene(
    program: Program, experiment: Experiment, seed: int, folder: Path
) -> Iterator[tuple[str, ProxyProcess, Fleet]]:
    """Queue, proxy and fleet."""
    launch = Worker if program.name == "millpond" else partial(PeerWorker, program)
    with local_sqs(folder) as queues:
        url = _create(queues, program.visibility_seconds)
        with proxy(queues.endpoint, folder, FaultPlan(seed, experiment.scale)) as between:
            settings = FleetSettings(
                endpoint=between.url,
                queue_urls=[url],
                ledger=str(folder / "ledger"),
                seed=seed,
                workers=WORKERS,
                concurrency=CONCURRENCY,
                visibility_seconds=program.visibility_seconds,
            )
            with fleet(folder, settings, launch) as workers:
                yield url, between, workers


def _create(queues: LocalQueues, visibility_seconds: int) -> str:
    """The queue's own visibility time-out is for programs that leave it to the queue."""
    url = queues.create("jobs", MAX_RECEIVE_COUNT)
    queues.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(visibility_seconds)})
    return url


def _suffer(
    url: str,
    between: ProxyProcess,
    workers: Fleet,
    experiment: Experiment,
    measure: tuple[int, float, float],
    made: Sequence[str],
) -> tuple[int, float]:
    """Messages, faults and blows; then no more of them, and the workers end. What was sent, and in how long."""
    seed, seconds, per_second = measure
    begun = now()
    producer = BodyProducer(url, seed, per_second, made)
    striker = Striker(workers, timetable(experiment, seed, WORKERS, seconds, now))
    producer.start()
    striker.start()
    while now() < begun + seconds or striker.is_alive():
        if not striker.is_alive():
            workers.check()
        time.sleep(LOOK_SECONDS)
    striker.stop()
    sent = producer.stop()
    between.follow(FaultPlan(scale=0.0))
    _wait_empty(url, workers)
    took = now() - begun
    workers.stop()
    return sent, took


def _wait_empty(url: str, workers: Fleet) -> None:
    end = now() + DRAIN_SECONDS
    with Queue(url) as queue:
        while now() < end and any(queue.counts()):
            workers.check()
            time.sleep(LOOK_SECONDS)


def _evidence(
    folder: Path, sent: Stream, workers: Fleet, between: ProxyProcess, url: str, program: Program
) -> tuple[Evidence, list[int]]:
    with Queue(url) as queue:
        in_flight = queue.counts()[1]
        left = [number_of(message["Body"]) for message in queue.take_all()]
    with (folder / "ledger").open() as lines:
        runs = ledger.read(lines)
    (folder / "events.json").write_bytes(msgspec.json.encode(workers.log))
    evidence = Evidence(
        sent=[sent],
        runs=runs,
        faults=between.faults(),
        events=workers.log,
        letters=_letters(url, program),
        in_flight=in_flight,
        complaints=workers.complaints,
    )
    return evidence, [n for n in left if n is not None]


def _letters(url: str, program: Program) -> list[Letter]:
    names = {"jobs-dead", program.dead_letter_queue}
    found: list[Letter] = []
    for name in names:
        with Queue(f"{url.rpartition('/')[0]}/{name}") as queue:
            found += [_letter(message) for message in queue.take_all()]
    return found


def _letter(message: dict[str, Any]) -> Letter:
    n = number_of(message["Body"])
    attributes = message.get("MessageAttributes", {})
    reasons = [json.dumps(attributes[name]) for name in REASONS if name in attributes]
    return Letter(-1 if n is None else n, reasons[0] if reasons else None)
