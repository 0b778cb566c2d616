"""`python -m chaos.peers.outages`: what the jobs call is down, or slow; or messages come again. Millpond and others.

One worker process for each trial, all with one maxReceiveCount, one visibility time-out and the same work; the call
that a job makes is counted where it arrives (chaos/downstream.py). Jobs: chaos/peer_jobs/*_call.*, each as the
program's own documents advise.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from chaos import claim_table
from chaos.fleet import FleetSettings
from chaos.handles import number_of
from chaos.moment import now
from chaos.ordered import Ordered, ordered
from chaos.peers.process import PeerProcess, environ_of
from chaos.peers.programs import PROGRAMS, Program, made, node_script, peer_command
from chaos.peers.troubles import MAX_RECEIVE_COUNT, TROUBLES, Trouble, TroubleRow, is_repeated, sends, table
from chaos.producer import Queue
from chaos.proxy_process import ProxyProcess, proxy
from chaos.scenarios.mails import Handed, read_handed
from chaos.scenarios.stage import toml_table
from tests.worker_process import LocalQueues, WorkerProcess, local_sqs, with_client

CONCURRENCY, VISIBILITY_SECONDS, JOB_MS = 50, 30, 200
#: How soon after the other side's return jobs are to be done.
BACK_SECONDS = 15.0
STOP_SECONDS = 20.0


#: By the program's name: its worker's command; Millpond has none.
COMMANDS = {
    "fanferro": peer_command("python -m chaos.peer_jobs.fanferro_call"),
    "celery": peer_command(
        "celery -A chaos.peer_jobs.celery_call worker -P gevent -c {n} --without-gossip --without-mingle "
        "--without-heartbeat"
    ),
    "sqs-consumer": node_script("sqs_consumer_call.mjs"),
    "dramatiq": peer_command("dramatiq-gevent chaos.peer_jobs.dramatiq_call --processes 1 --threads {n}"),
    "powertools": peer_command("python -m chaos.peer_jobs.powertools_call"),
}
KNOWN = {program.name: program for program in PROGRAMS}
CONTESTANTS = [
    KNOWN["millpond"],
    *(replace(KNOWN[name], command=COMMANDS[name]) for name in ("fanferro", "sqs-consumer", "dramatiq", "celery")),
    Program("powertools", "Powertools", COMMANDS["powertools"], VISIBILITY_SECONDS, "", KNOWN["fanferro"].missing),
]

CONFIG = """
[worker]
handlers = ["chaos.peer_jobs.millpond_call"]
concurrency = {concurrency}
drain_seconds = 5
[sqs]
region = "us-east-1"
endpoint_url = "{endpoint}"
[queues.q]
url = "{url}"
wait_seconds = 1
visibility_seconds = {visibility}
[retry]
max_attempts = 4
[idempotency]
table = "claims"
[log]
format = "json"
succeeded_per_second = 1
[types."chaos.job"]
idempotent = true
"""


class Trial:
    """One program in one trouble."""

    def __init__(self, program: Program, trouble: Trouble, folder: Path, stack: ExitStack) -> None:
        self.program, self.trouble, self.folder = program, trouble, folder
        self._stack = stack
        self.queues: LocalQueues = stack.enter_context(local_sqs(folder))
        self.url = self.queues.create("jobs", MAX_RECEIVE_COUNT)
        attributes = {"VisibilityTimeout": str(VISIBILITY_SECONDS)}
        self.queues.sqs.set_queue_attributes(QueueUrl=self.url, Attributes=attributes)
        self.between: ProxyProcess = stack.enter_context(proxy(self.queues.endpoint, folder))
        self.table = stack.enter_context(claim_table.claim_table("circuits"))
        self.log = folder / "downstream.log"
        self.log.touch()
        self.downstream: Ordered = stack.enter_context(ordered("chaos.downstream", str(self.log)))
        self.workers: list[WorkerProcess] = []

    def start(self) -> WorkerProcess:
        """A worker, at work."""
        name = f"w{len(self.workers)}"
        settings = FleetSettings(
            self.between.url, [self.url], str(self.folder / "ledger"), 1, 1, CONCURRENCY,
            visibility_seconds=VISIBILITY_SECONDS,
        )  # fmt: skip
        environ = environ_of(name, settings) | {
            "AWS_ENDPOINT_URL_DYNAMODB": self.table,
            "CHAOS_DOWNSTREAM": self.downstream.where,
            "CHAOS_AFTER_SECONDS": str(self.trouble.after_seconds),
            "CHAOS_RATE": str(self.trouble.rate) if self.trouble.told else "0",
        }
        if self.program.name == "millpond":
            worker = WorkerProcess(self.folder, "-c", str(self._config(name)), **environ)
        else:
            worker = PeerProcess(self.folder, self.program.command(CONCURRENCY), environ)
        self.workers.append(self._stack.enter_context(worker))
        worker.expect("worker.ready", 60)
        return worker

    def _config(self, name: str) -> Path:
        path = self.folder / f"{name}.toml"
        text = CONFIG.format(
            concurrency=CONCURRENCY, endpoint=f"{self.between.url}/{name}", url=self.url, visibility=VISIBILITY_SECONDS
        )
        rate = toml_line("rate", f"{self.trouble.rate:g}/s") if self.trouble.told else ""
        path.write_text(with_client(text + rate))
        return path

    def handed(self) -> list[Handed]:
        """Calls so far."""
        return read_handed(self.log)

    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return not any(self.queues.counts("jobs"))

    def stop(self) -> None:
        """SIGTERM, and some time."""
        worker = self.workers[-1]
        worker.signal(signal.SIGTERM)
        try:
            worker.exit_code(STOP_SECONDS)
        except AssertionError:
            worker.signal(signal.SIGKILL)
            worker.exit_code()
        for number, one in enumerate(self.workers):
            (self.folder / f"{number}.log").write_text(one.output())


def toml_line(key: str, value: object) -> str:
    """One key of the table that the text before it ends with."""
    return toml_table("", {key: value}).partition("\n")[2]


def run(program: Program, trouble: Trouble, folder: Path) -> TroubleRow:
    """Do it, with all files in this folder."""
    bodies = _bodies(program, trouble.messages)
    with ExitStack() as stack:
        trial = Trial(program, trouble, folder, stack)
        trial.start()
        begun, back = _play(trial, bodies)
        trial.stop()
        return _row(trial, begun, back)


def _bodies(program: Program, count: int) -> list[str]:
    return made(program, [(n, JOB_MS) for n in range(count)])


def _play(trial: Trial, bodies: Sequence[str]) -> tuple[float, float]:
    """When it began, and when the other side came back (or the same)."""
    trouble = trial.trouble
    if trouble.down_seconds:
        trial.downstream.order("closed")
    elif trouble.rate:
        trial.downstream.order("up", rate=trouble.rate)
    begun = back = now()
    waits = sorted([*sends(trouble), *((at, None) for at in trouble.kills)], key=lambda wait: wait[0])
    for at, numbers in waits:
        time.sleep(max(0.0, begun + at - now()))
        if numbers is None:
            trial.workers[-1].signal(signal.SIGKILL)
            trial.start()
        else:
            _send(trial, [bodies[n] for n in numbers])
    if trouble.down_seconds:
        time.sleep(max(0.0, begun + trouble.down_seconds - now()))
        trial.downstream.order("up")
        back = now()
    while now() < begun + trouble.deadline and not trial.is_over():
        time.sleep(0.2)
    return begun, back


def _send(trial: Trial, bodies: Sequence[str]) -> None:
    entries = [{"Id": str(index), "MessageBody": body} for index, body in enumerate(bodies)]
    answer = trial.queues.sqs.send_message_batch(QueueUrl=trial.url, Entries=entries)
    assert "Failed" not in answer, answer


def _row(trial: Trial, begun: float, back: float) -> TroubleRow:
    trouble, handed = trial.trouble, trial.handed()
    taken = Counter(one.n for one in handed if one.what == "taken")
    first = {one.n: one.moment for one in sorted(handed, key=lambda one: -one.moment) if one.what == "taken"}
    receives = Counter(one.n for one in trial.between.receives())
    left, dead = sum(trial.queues.counts("jobs")), _dead_numbers(trial)
    undone = set(range(trouble.messages)) - set(taken)
    again = [n for n, times in taken.items() if times > 1]
    return TroubleRow(
        trial.program.name,
        trouble.name,
        messages=trouble.messages,
        done=len(taken),
        lost=max(0, len(undone - dead) - left),
        left=left,
        dead_letters=len(dead),
        doubled=sum(not is_repeated(trouble, n) for n in again),
        doubled_repeats=sum(is_repeated(trouble, n) for n in again),
        refused=sum(one.what == "busy" for one in handed),
        received_most=max(receives.values(), default=0),
        done_in_time=sum(moment <= back + BACK_SECONDS for moment in first.values()),
        last_seconds=round(max(first.values(), default=back) - back, 1),
    )


def _dead_numbers(trial: Trial) -> set[int]:
    """Of the messages in any dead-letter queue."""
    found: set[int] = set()
    for name in {"jobs-dead", trial.program.dead_letter_queue}:
        with Queue(f"{trial.url.rpartition('/')[0]}/{name}") as queue:
            found |= {n for message in queue.take_all() if (n := number_of(message["Body"])) is not None}
    return found


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _options()
    wanted, only = options.troubles.split(","), options.only.split(",")
    rows: list[TroubleRow] = []
    for trouble in [one for one in TROUBLES if one.name in wanted]:
        for program in [one for one in CONTESTANTS if not options.only or one.name in only]:
            if reason := program.missing():
                print(f"{program.label}: skipped: {reason}", flush=True)
                continue
            rows.append(_tried(program, trouble, options.keep))
            if options.json:
                options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    print("\n".join(table(rows)))
    return 1 if any(row.failure for row in rows) else 0


def _tried(program: Program, trouble: Trouble, keep: Path | None) -> TroubleRow:
    with tempfile.TemporaryDirectory(prefix="outages-") as scratch:
        folder = (keep or Path(scratch)) / f"{trouble.name}-{program.name}"
        folder.mkdir(parents=True)
        try:
            row = run(program, trouble, folder)
        except Exception as error:  # the others go on
            row = TroubleRow(program.name, trouble.name, failure=f"{type(error).__name__}: {error}"[-2_000:])
    print(msgspec.json.encode(row).decode(), flush=True)
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.peers.outages", description=__doc__)
    names = ",".join(trouble.name for trouble in TROUBLES)
    parser.add_argument("--troubles", default="outage,long,slow,told,repeat", metavar="NAME,...", help=names)
    parser.add_argument("--only", default="", metavar="NAME,...", help=", ".join(one.name for one in CONTESTANTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for logs, a new folder a trial")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
