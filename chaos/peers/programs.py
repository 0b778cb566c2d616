"""The programs: how each is started, how its messages look, and what it makes of a rejection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import environment
from chaos.verdicts import LONGEST_MS, job, verdict
from tests.worker_process import ROOT

#: Visibility time-outs in seconds: of programs with a heartbeat; and of those without one, whose manuals ask for more
#: than the longest job takes, which is 6.4 s here.
BEATING, STILL = 4, 10
#: Jobs are the same for all: some outlast this, in seconds; the others take so many times what those of the chaos run
#: take (50 to 500 ms), so that at a rate that everybody carries a worker has always some in hand.
JOB_VISIBILITY_SECONDS, TIMES = 4, 10

Command = Callable[[int], list[str]]


@dataclass(frozen=True)
class Program:
    """`command` makes a worker's command line of its concurrency. `module`: makes its messages, else plain JSON."""

    name: str
    label: str
    command: Command
    visibility_seconds: int
    note: str
    missing: Callable[[], str] = lambda: ""  # why it cannot run here; "" where it can
    module: str = ""
    dead_letter_queue: str = "jobs-dead"


def bodies(program: Program, seed: int, count: int) -> list[str]:
    """The first `count` messages, as the program's own producer writes them."""
    return made(program, [(n, milliseconds(seed, n)) for n in range(count)], seed)


def made(program: Program, jobs: Sequence[tuple[int, int]], seed: int = 1) -> list[str]:
    """The messages of these jobs: number and milliseconds."""
    if not program.module:
        return [_plain(seed, n, ms) for n, ms in jobs]
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "AWS_DEFAULT_REGION": "us-east-1",
        "CHAOS_QUEUE": "jobs",
    }
    command = [str(environment.python()), "-m", program.module]
    done = subprocess.run(command, input=json.dumps(jobs).encode(), capture_output=True, check=True, env=environ)
    return [str(body) for body in json.loads(done.stdout)]


def milliseconds(seed: int, n: int) -> int:
    """Of one message's job."""
    ms = job(seed, n, 1, JOB_VISIBILITY_SECONDS).ms
    return ms if ms > LONGEST_MS else TIMES * ms


def _plain(seed: int, n: int, ms: int) -> str:
    """Millpond's envelope, which is any program's plain JSON; with the plan, for one that is not written in Python."""
    verdicts = [verdict(seed, n, attempt) for attempt in (1, 2)]
    payload = {"n": n, "ms": ms, "verdicts": verdicts}
    return json.dumps({"event_type": "chaos.job", "event_id": f"e{n}", "payload": payload})


def _no_python() -> str:
    return "" if environment.python() else "needs Python 3.12 or newer and its packages"


def _no_node() -> str:
    return "" if environment.node() else f"needs Node {environment.NODE} or newer, npm and its packages"


def _own(module: str) -> Command:
    """A module run by this very Python."""
    return lambda concurrency: [sys.executable, "-m", module]


def peer_command(line: str) -> Command:
    """A program of the peers' environment and its arguments; {n} stands for the concurrency."""

    def command(concurrency: int) -> list[str]:
        executable = environment.python()
        assert executable is not None
        program, *arguments = line.format(n=concurrency).split()
        return [str(executable.parent / program), *arguments]

    return command


def node_script(name: str) -> Command:
    """A script of chaos/peer_jobs. It finds its modules in its own folder, and is copied there."""

    def command(concurrency: int) -> list[str]:
        folder = environment.node()
        assert folder is not None
        script = Path(__file__).parent.parent / "peer_jobs" / name
        copy = folder / f"chaos_{name}"
        if not copy.exists() or copy.read_bytes() != script.read_bytes():
            copy.write_bytes(script.read_bytes())
        return ["node", str(copy)]

    return command


REDRIVE = "no way to reject: it fails until the queue's redrive policy has it"

PROGRAMS = [
    Program("millpond", "Millpond", lambda concurrency: [], BEATING, "Reject: a dead letter at once, with its reason"),
    Program(
        "fanferro",
        "fanferro",
        peer_command("python -m chaos.peer_jobs.fanferro_app"),
        BEATING,
        "Reject: a dead letter at once, with its reason",
        _no_python,
    ),
    Program("sqs-consumer", "sqs-consumer", node_script("sqs_consumer.mjs"), BEATING, REDRIVE, _no_node),
    Program("careful", "careful loop", _own("chaos.peer_jobs.careful"), STILL, f"no heartbeat; {REDRIVE}"),
    Program("tutorial", "tutorial loop", _own("chaos.peer_jobs.tutorial"), STILL, f"no heartbeat; {REDRIVE}"),
    Program(
        "dramatiq",
        "dramatiq-sqs",
        peer_command("dramatiq-gevent chaos.peer_jobs.dramatiq_app --processes 1 --threads {n}"),
        STILL,
        "no heartbeat; an exception of `throws`: copied to its own dead-letter queue, without a reason",
        _no_python,
        "chaos.peer_jobs.dramatiq_app",
        "jobs_dlq",
    ),
    Program(
        "celery",
        "Celery",
        peer_command(
            "celery -A chaos.peer_jobs.celery_app worker -P gevent -c {n} --without-gossip --without-mingle "
            "--without-heartbeat"
        ),
        STILL,
        "no heartbeat; Reject(requeue=False): left to the queue's redrive policy",
        _no_python,
        "chaos.peer_jobs.celery_app",
    ),
]


def find(names: Sequence[str]) -> Iterator[Program]:
    """The programs of these names, all of them without a name; says which cannot run here."""
    for program in PROGRAMS:
        if names and program.name not in names:
            continue
        if reason := program.missing():
            print(f"{program.label}: skipped: {reason}", flush=True)
        else:
            yield program
