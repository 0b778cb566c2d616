"""Stage: a local SQS with one queue, the workers on it, and the ledger that their handlers write."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from chaos import ledger
from chaos.ledger import Run
from chaos.scenarios.counters import Counters
from chaos.scenarios.jobs import Job
from tests.worker_process import LocalQueues, WorkerProcess, local_sqs, with_client

#: Between two looks at the ledger or the queue.
LOOK_SECONDS = 0.05
#: What any wait may take beyond what it waits for: the machine may be busy.
GRACE_SECONDS = 60.0

CONFIG = """
[worker]
handlers = {handlers}
concurrency = {concurrency}
drain_seconds = {drain_seconds}
[sqs]
region = "us-east-1"
endpoint_url = "{endpoint}"
[queues.q]
url = "{url}"
visibility_seconds = {visibility_seconds}
wait_seconds = {wait_seconds}
{retry}
[statsd]
host = "127.0.0.1"
port = {statsd_port}
[log]
format = "json"
succeeded_per_second = 1
[handlers.jobs]
ledger = "{ledger}"
"""
#: Failures are planned here, and come back soon.
SOON = """
[retry]
max_attempts = 50
base_seconds = 0.1
max_seconds = 1
"""
#: What a worker has whose configuration does not say otherwise.
BY_DEFAULT = ""
QUIET = """
[queues.quiet-{number}]
url = "{url}"
wait_seconds = {wait_seconds}
"""


class StagePlan(msgspec.Struct, frozen=True):
    """The settings of the workers of a scenario, and of its queue. `tables`: more of their configuration, in TOML."""

    visibility_seconds: int
    concurrency: int = 20
    drain_seconds: float = 10.0
    wait_seconds: int = 1
    max_receive_count: int = 100
    suffix: str = ""  # .fifo
    quiet_queues: int = 0  # others, to which nobody sends
    handlers: Sequence[str] = ("chaos.scenarios.jobs",)
    retry: str = SOON
    tables: str = ""
    environ: Mapping[str, str] = {}


class Stage:
    """What a scenario is played on. `endpoint`: where workers look for the queue."""

    def __init__(self, folder: Path, queues: LocalQueues, plan: StagePlan, stack: ExitStack) -> None:
        self.queues = queues
        self.endpoint = queues.endpoint
        self.workers: list[WorkerProcess] = []
        self._plan = plan
        self._folder = folder
        self._stack = stack
        self._counters = stack.enter_context(Counters())
        self._ledger = folder / "ledger"
        self._ledger.touch()
        self._name, self._dead = f"jobs{plan.suffix}", f"jobs-dead{plan.suffix}"
        self._create()

    def _create(self) -> None:
        kind = {"FifoQueue": "true"} if self._plan.suffix else {}
        self.queues.sqs.create_queue(QueueName=self._dead, Attributes=kind)
        target = f"arn:aws:sqs:us-east-1:000000000000:{self._dead}"
        policy = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": self._plan.max_receive_count})
        self.queues.sqs.create_queue(QueueName=self._name, Attributes={"RedrivePolicy": policy, **kind})
        for number in range(self._plan.quiet_queues):
            self.queues.sqs.create_queue(QueueName=f"quiet-{number}")

    # Workers

    def start(self) -> WorkerProcess:
        """One more worker, not waited for."""
        config = self._folder / f"{len(self.workers)}.toml"
        settings = msgspec.structs.asdict(self._plan) | {"handlers": json.dumps(list(self._plan.handlers))}
        url = self.queues.url(self._name)
        ways = {"url": url, "endpoint": self.endpoint, "ledger": self._ledger, "statsd_port": self._counters.port}
        quiet = "".join(self._quiet(number) for number in range(self._plan.quiet_queues))
        config.write_text(with_client(CONFIG.format(**settings, **ways)) + quiet + self._plan.tables)
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", **self._plan.environ}
        worker = self._stack.enter_context(WorkerProcess(self._folder, "-c", str(config), **keys))
        self.workers.append(worker)
        return worker

    def _quiet(self, number: int) -> str:
        url = self.queues.url(f"quiet-{number}")
        return QUIET.format(number=number, url=url, wait_seconds=self._plan.wait_seconds)

    def start_ready(self) -> WorkerProcess:
        """One more worker, at work."""
        worker = self.start()
        worker.expect("worker.ready", GRACE_SECONDS)
        return worker

    def stop(self) -> list[int]:
        """SIGTERM to those that run. The exit codes of all, in the order of their starts."""
        for worker in self.workers:
            if worker.running:
                worker.signal(signal.SIGTERM)
        codes = [worker.exit_code(self._plan.drain_seconds + GRACE_SECONDS) for worker in self.workers]
        self._counters.finish()
        for number, worker in enumerate(self.workers):
            (self._folder / f"{number}.log").write_text(worker.output())
        return codes

    def sum_of(self, field: str) -> int:
        """The sum of a field over the books that the workers logged at their ends."""
        return sum(line.get(field, 0) for worker in self.workers for line in worker.all("worker.stopped"))

    def came_again_in_hand(self) -> int:
        """Messages that SQS gave out again to the worker that had them: a lease had ended.

        The worker goes on with the new receipt, so that no ledger shows it. To know that it was counted at all, the
        counters must agree with the workers' books; after `stop`.
        """
        assert self._counters.numbers["millpond.q.received"] == self.sum_of("received"), self._counters.numbers
        return self._counters.numbers["millpond.q.redelivered"]

    # Messages

    def send(self, event_type: str, jobs: Iterable[Job], group: Callable[[int], str] | None = None) -> None:
        """In this order. `group`: of a message on a FIFO queue, by its number."""
        self._send([_entry(event_type, job, group) for job in jobs])

    def send_payloads(self, event_type: str, payloads: Mapping[int, Any]) -> None:
        """The payload of each message, by its number."""
        self._send([{"MessageBody": _body(event_type, n, payload)} for n, payload in payloads.items()])

    def _send(self, entries: Sequence[dict[str, Any]]) -> None:
        for first in range(0, len(entries), 10):
            batch = [{"Id": str(index), **entry} for index, entry in enumerate(entries[first : first + 10])]
            answer = self.queues.sqs.send_message_batch(QueueUrl=self.queues.url(self._name), Entries=batch)
            assert "Failed" not in answer, answer

    def counts(self) -> tuple[int, int, int]:
        """Messages that are visible, in flight, delayed."""
        return self.queues.counts(self._name)

    def dead_letters(self) -> int:
        return sum(self.queues.counts(self._dead))

    def reasons(self) -> list[str]:
        """Of the dead letters, as Millpond wrote them; "" where SQS itself moved one. They are in flight then."""
        found: list[str] = []
        while messages := self.queues.receive(self._dead):
            notes = [message.get("MessageAttributes", {}).get("millpond") for message in messages]
            found += [json.loads(note["StringValue"])["reason"] if note else "" for note in notes]
        return found

    # The ledger

    def runs(self) -> Mapping[int, Sequence[Run]]:
        """What the handlers have written down so far."""
        with self._ledger.open() as lines:
            return ledger.read(line for line in lines if line.endswith("\n"))

    def number(self, what: str) -> int:
        """Lines that say this: start, ok, fail, cut."""
        return self._ledger.read_text().count(f" {what} ")

    # Waiting

    def wait(self, what: str, seconds: float, is_so: Callable[[], bool]) -> None:
        """Until it is so: within these seconds, and some more for a busy machine."""
        end = time.monotonic() + seconds + GRACE_SECONDS
        while not is_so():
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds + GRACE_SECONDS:.0f} s; {self._state()}")
            time.sleep(LOOK_SECONDS)

    def wait_empty(self, seconds: float) -> None:
        """Until nothing is left, neither visible nor in flight."""
        self.wait("the queue is empty", seconds, lambda: not any(self.counts()))

    def _state(self) -> str:
        ended = [worker.output()[-2_000:] for worker in self.workers if not worker.running]
        return f"visible, in flight, delayed: {self.counts()}; ok: {self.number('ok')}; workers that ended: {ended}"


def _entry(event_type: str, job: Job, group: Callable[[int], str] | None) -> dict[str, Any]:
    entry = {"MessageBody": _body(event_type, job.n, msgspec.to_builtins(job))}
    if group is not None:
        entry |= {"MessageGroupId": group(job.n), "MessageDeduplicationId": str(job.n)}
    return entry


def _body(event_type: str, n: int, payload: Any) -> str:
    return json.dumps({"event_type": event_type, "event_id": f"e{n}", "payload": payload})


def toml_table(name: str, keys: Mapping[str, object]) -> str:
    """A table of a configuration; its values are texts, numbers, true or false."""
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


@contextmanager
def stage(folder: Path, plan: StagePlan) -> Iterator[Stage]:
    """A stage with no workers yet; nothing of it runs on behind the `with` block."""
    with local_sqs(folder) as queues, ExitStack() as stack:
        yield Stage(folder, queues, plan, stack)
