"""memory: the largest messages there are, with the worst texts, and what the worker takes for them."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from chaos.scenarios.report import Report
from tests.worker_process import LocalQueues, WorkerProcess, local_sqs, with_client

#: Each is SQS's largest, and one emoji in it gives every character of its text four bytes.
MESSAGES, QUICK_MESSAGES = 1_100, 120
MESSAGE_BYTES = 1_048_576
EMOJI = "\N{GRINNING FACE}"
#: Of most messages, and of the first ones: long enough that all that may be in hand is, with its payload decoded.
SECONDS, LONG_SECONDS = 0.05, 2.0
LONG_ONES = 80
#: Messages that wait in the local SQS, which has them as texts: four times as large.
WAITING = 60
MOST_MIB = 400
#: What may stay when all is done, beyond what there was at the start.
REST_MIB = 15
#: The worker gives back what it does not need any more within this time.
REST_SECONDS = 30.0
GRACE_SECONDS = 120.0

HANDLERS = '''
import time

import msgspec

from millpond import handler


class Large(msgspec.Struct):
    seconds: float
    text: str


@handler("large")
def work(job: Large) -> None:
    """The text stays in memory for so long."""
    time.sleep(job.seconds)
'''
#: All else has its default.
CONFIG = """
[sqs]
region = "us-east-1"
endpoint_url = "{endpoint}"
[queues.q]
url = "{url}"
[log]
format = "json"
succeeded_per_second = 1
"""


def run(folder: Path, quick: bool) -> Report:
    """One worker with the default settings, fed as fast as it takes them."""
    count = QUICK_MESSAGES if quick else MESSAGES
    (folder / "handlers").mkdir()
    (folder / "handlers/large.py").write_text(HANDLERS)
    with local_sqs(folder) as queues:
        url = queues.create("q")
        config = folder / "config.toml"
        config.write_text(with_client(CONFIG.format(endpoint=queues.endpoint, url=url)))
        for number in range(WAITING):
            _send(queues, number)
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        with WorkerProcess(folder, "-c", str(config), **keys) as worker:
            worker.expect("worker.ready", GRACE_SECONDS)
            start, began = _mib(worker, "VmRSS"), time.monotonic()
            _feed(queues, range(WAITING, count))
            seconds, peak = time.monotonic() - began, _mib(worker, "VmHWM")
            rest = _rest(worker, start + REST_MIB)
            worker.signal(signal.SIGTERM)
            code = worker.exit_code()
            stopped = worker.expect("worker.stopped")
            full = len(worker.all("worker.full"))
        dead_letters = sum(queues.counts("q-dead"))
    figures = {
        "MiB at the start": start,
        "MiB at the most": peak,
        "MiB when all was done": rest,
        "seconds": round(seconds, 1),
        "lines that the bytes are the limit": full,
    }
    claims = {
        f"never more than {MOST_MIB} MiB": peak < MOST_MIB,
        f"{REST_MIB} MiB more than at the start when all is done": rest <= start + REST_MIB,
        "all done, each received once": stopped["succeeded"] == stopped["received"] == count,
        "nothing dead-lettered, exit code 0": (dead_letters, code) == (0, 0),
        "logged, once a minute": 1 <= full <= 1 + seconds / 60,
    }
    return Report(
        f"{count:,} messages of 1 MiB, one emoji in each; handlers of {SECONDS} s and of {LONG_SECONDS} s",
        figures,
        claims,
    )


def _body(number: int) -> str:
    payload = {"seconds": LONG_SECONDS if number < LONG_ONES else SECONDS, "text": EMOJI}
    body = json.dumps({"event_type": "large", "event_id": f"e{number}", "payload": payload}, ensure_ascii=False)
    return body.replace(EMOJI, EMOJI + "x" * (MESSAGE_BYTES - len(body.encode())))


def _send(queues: LocalQueues, number: int) -> None:
    queues.sqs.send_message(QueueUrl=queues.url("q"), MessageBody=_body(number))


def _feed(queues: LocalQueues, numbers: range) -> None:
    """Send these as room comes, and wait until the queue is empty."""
    waiting, end = list(numbers), time.monotonic() + GRACE_SECONDS + len(numbers)
    while any(counts := queues.counts("q")) or waiting:
        assert time.monotonic() < end, f"visible, in flight, delayed: {counts}; not sent yet: {len(waiting)}"
        if waiting and counts[0] < WAITING:
            _send(queues, waiting.pop(0))
        elif not waiting:
            time.sleep(0.05)


def _rest(worker: WorkerProcess, enough: int) -> int:
    """What it takes once it is idle: it has some time to give back the rest."""
    end = time.monotonic() + REST_SECONDS
    while (mib := _mib(worker, "VmRSS")) > enough and time.monotonic() < end:
        time.sleep(0.2)
    return mib


def _mib(worker: WorkerProcess, name: str) -> int:
    status = Path(f"/proc/{worker.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) // 1024
