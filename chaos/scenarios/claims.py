"""claims: idempotent handlers under network faults, kill -9, SIGSTOP and SIGTERM; their claims in DynamoDB by moto."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from chaos import claim_proxy, ledger
from chaos.chance import chance
from chaos.claim_table import NAME, claim_table
from chaos.faults import FaultPlan
from chaos.fleet import Fleet, FleetSettings, Striker, Worker, fleet
from chaos.hits import BLOWS, Hit
from chaos.moment import now
from chaos.proxy_process import NO_FAULTS, ProxyProcess, proxy
from chaos.scenarios.claims_audit import ClaimsAudit, Effect, Seen, audit
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report
from millpond.claims.claim import CLOCK_MARGIN_SECONDS
from tests.worker_process import LocalQueues, WorkerProcess, local_sqs, with_client

SEED = 1
WORKERS = 3
VISIBILITY_SECONDS = 3
#: A share of the messages fails at first, and a share is sent twice, with one event_id.
FAILS, REPEATS = 0.05, 0.1
SHORTEST_SECONDS, LONGEST_SECONDS = 0.05, 0.4
HIT_SECONDS = 2.0
#: The table answers nobody for so long, once.
DOWN_SECONDS = 4.0

CONFIG = """
[worker]
handlers = ["chaos.scenarios.jobs", "chaos.scenarios.claimed_jobs"]
name = "{worker}"
concurrency = 20
drain_seconds = {settings.drain_seconds}
[sqs]
region = "us-east-1"
endpoint_url = "{settings.endpoint}/{worker}"
[queues.q]
url = "{url}"
wait_seconds = 1
visibility_seconds = {settings.visibility_seconds}
[retry]
max_attempts = 7
base_seconds = 1
max_seconds = 4
[idempotency]
table = "{table}"
[log]
format = "json"
[handlers.jobs]
ledger = "{settings.ledger}"
"""


class ClaimsPace(NamedTuple):
    """How long messages come, and how many a second."""

    seconds: float
    per_second: float


FULL, QUICK = ClaimsPace(150.0, 25.0), ClaimsPace(20.0, 20.0)


class ClaimWorker(Worker):
    """One of the fleet, which reaches the table through the table's proxy."""

    def __init__(self, table_url: str, name: str, folder: Path, settings: FleetSettings) -> None:
        config = folder / f"{name}.toml"
        (url,) = settings.queue_urls
        config.write_text(with_client(CONFIG.format(worker=name, settings=settings, url=url, table=NAME)))
        environ = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
        environ["AWS_ENDPOINT_URL_DYNAMODB"] = f"{table_url}/{name}"
        self.name = name
        self.process = WorkerProcess(folder, "-c", str(config), **environ)


class Sender(threading.Thread):
    """Sends at a steady rate, some of the messages twice, until it is stopped."""

    def __init__(self, queues: LocalQueues, per_second: float) -> None:
        super().__init__(daemon=True)
        self.sent = self.repeated = 0
        self.error: Exception | None = None
        self._queues = queues
        self._per_second = per_second
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            while not self._ending.wait(5 / self._per_second):
                numbers = range(self.sent, self.sent + 5)
                again = [n for n in numbers if chance("again", n) < REPEATS]
                bodies = [_body(n) for n in (*numbers, *again)]
                entries = [{"Id": str(index), "MessageBody": body} for index, body in enumerate(bodies)]
                answer = self._queues.sqs.send_message_batch(QueueUrl=self._queues.url("jobs"), Entries=entries)
                assert "Failed" not in answer, answer
                self.sent += len(numbers)
                self.repeated += len(again)
        except Exception as error:  # raised by `stop`
            self.error = error

    def stop(self) -> None:
        self._ending.set()
        self.join()
        if self.error is not None:
            raise self.error


def _body(n: int) -> str:
    seconds = SHORTEST_SECONDS + chance("seconds", n) * (LONGEST_SECONDS - SHORTEST_SECONDS)
    job = msgspec.to_builtins(Job(n, round(seconds, 3), chance("fails", n) < FAILS))
    return msgspec.json.encode({"event_type": "claimed", "event_id": f"e{n}", "payload": job}).decode()


def run(folder: Path, quick: bool) -> Report:
    """Messages, faults and blows; the table is down for a while; then all ends in peace."""
    pace = QUICK if quick else FULL
    (folder / "table").mkdir()
    with ExitStack() as stack:
        queues = stack.enter_context(local_sqs(folder))
        url = queues.create("jobs", 1_000)
        plan = FaultPlan(SEED)
        between = stack.enter_context(proxy(queues.endpoint, folder, plan))
        table = stack.enter_context(
            proxy(stack.enter_context(claim_table()), folder / "table", plan, "chaos.claim_proxy")
        )
        settings = FleetSettings(
            between.url, [url], str(folder / "ledger"), SEED, WORKERS, visibility_seconds=VISIBILITY_SECONDS
        )
        workers = stack.enter_context(fleet(folder, settings, partial(ClaimWorker, table.url)))
        sender = Sender(queues, pace.per_second)
        _storm(queues, sender, workers, (between, table), pace)
        left, dead_letters = sum(queues.counts("jobs")), sum(queues.counts("jobs-dead"))
        return _report(folder, sender, workers, (between, table), left, dead_letters)


def _storm(
    queues: LocalQueues,
    sender: Sender,
    workers: Fleet,
    proxies: tuple[ProxyProcess, ProxyProcess],
    pace: ClaimsPace,
) -> None:
    _, table = proxies
    striker = Striker(workers, _hits())
    sender.start()
    striker.start()
    time.sleep(pace.seconds / 2)
    table.fail("UpdateItem", "reset before it was taken")
    time.sleep(DOWN_SECONDS)
    table.heal()
    time.sleep(pace.seconds / 2)
    striker.stop()
    sender.stop()
    for one in proxies:
        one.follow(NO_FAULTS)
    end = now() + 120
    while now() < end and any(queues.counts("jobs")):
        workers.check()
        time.sleep(0.2)
    workers.stop()
    workers.write_logs()


def _hits() -> Iterator[Hit]:
    """Each kind as often; half of the stops outlast the message's lease alone, the others the claim's margin too."""
    random = Random(f"{SEED}/claims")
    number = 0
    while True:
        for blow in random.sample(BLOWS, len(BLOWS)):
            number += blow == "SIGSTOP"
            longer = CLOCK_MARGIN_SECONDS + 2 if number % 2 else 0.0
            wait = random.uniform(0.2, 1.0) * HIT_SECONDS
            yield Hit(blow, random.randrange(WORKERS), wait, longer + random.uniform(0.5, 2.0), random.randint(1, 3))


def _report(
    folder: Path,
    sender: Sender,
    workers: Fleet,
    proxies: tuple[ProxyProcess, ProxyProcess],
    left: int,
    dead_letters: int,
) -> Report:
    between, table = proxies
    with (folder / "ledger").open() as lines:
        runs = ledger.read(lines)
    effects = [_effect(line) for line in (folder / "ledger.effects").read_text().splitlines()]
    writes, faults = claim_proxy.read(table.passed), table.faults()
    found = audit(Seen(runs, effects, writes, workers.log, faults))
    for violation in [*found.violations, *workers.complaints][:20]:
        print(f"  claims: {violation}", flush=True)
    done = {effect.n for effect in effects}
    duplicates = sum(
        line.get("cause") == "duplicate" or line.get("reason") == "duplicate"
        for worker in workers.workers
        for line in worker.process.all("message.discarded")
    )
    figures: dict[str, object] = {
        "messages; of these sent twice": f"{sender.sent:,}; {sender.repeated:,}",
        "faults: of calls to the queue; to the table": f"{len(between.faults()):,}; {len(faults):,}",
        "blows": _counts([event.what for event in workers.log if event.what in BLOWS]),
        "runs; effects": f"{sum(map(len, runs.values())):,}; {len(effects):,}",
        "effects doubled, by cause": _by_cause(found),
        "deliveries acknowledged as duplicates": duplicates,
        "writes that reached the table; refused": f"{len(writes):,}; {sum(not write.taken for write in writes):,}",
        "writes of a stale owner, all refused": _shown(found.stale_refused),
    }
    violations = found.violations
    claims = {
        "every event had its effect": done == set(range(sender.sent)),
        "doubled only in the two windows that are documented": not _any(violations, "ran after", "doubled"),
        "never two at once but beside a stopped worker": not _any(violations, "two at once"),
        "every write of a stale owner is refused": not _any(violations, "stale"),
        "no dead letter, nothing left": (dead_letters, left) == (0, 0),
        "no complaint": not workers.complaints,
    }
    return Report(f"{WORKERS} workers, visibility {VISIBILITY_SECONDS} s; seed {SEED}", figures, claims)


def _effect(line: str) -> Effect:
    n, pid, moment = line.split()
    return Effect(int(n), pid, float(moment))


def _any(violations: Sequence[str], *starts: str) -> bool:
    return any(violation.startswith(starts) for violation in violations)


def _counts(whats: Sequence[str]) -> str:
    return _shown({what: whats.count(what) for what in BLOWS})


def _by_cause(found: ClaimsAudit) -> str:
    return f"{found.doubled.total()} ({_shown(found.doubled)})"


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {number}" for what, number in sorted(counts.items())) or "none"
