"""The worker, a FIFO queue that takes 256 KiB, and a mail server that greylists: nobody gets a second copy."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.smtp_server import ScriptedServer
from tests.worker_process import ROOT, WorkerProcess, local_sqs, with_client

pytestmark = pytest.mark.slow

FIFO = {"FifoQueue": "true", "MaximumMessageSize": "262144"}


def test_nobody_who_was_accepted_is_mailed_again_on_a_fifo_queue_of_256_kib(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    def greylisted(recipient: str) -> str | None:
        seen[recipient] += 1
        if recipient.startswith("gone"):
            return "550 5.1.1 no such user"
        return "451 4.7.1 greylisted" if recipient.startswith("late") and seen[recipient] == 1 else None

    people = [f"{kind}{number}@b.org" for number in range(3) for kind in ("ann", "late", "gone")]
    with local_sqs(tmp_path) as queues, ScriptedServer(rcpt=greylisted) as server:
        queues.sqs.create_queue(QueueName="dead.fifo", Attributes=FIFO)
        policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:dead.fifo", "maxReceiveCount": 15}
        queues.sqs.create_queue(QueueName="q.fifo", Attributes={**FIFO, "RedrivePolicy": json.dumps(policy)})
        for size in (10, 200_000, 262_144 - 4_000):  # the last one leaves no room for what may have to wait
            payload = {"to": people, "text": "x" * size}
            body = json.dumps({"event_type": "email.send", "event_id": f"e{size}", "payload": payload})
            body = body.replace("x", "x" * (262_144 - len(body) + 1), 1) if size > 250_000 else body
            queues.sqs.send_message(
                QueueUrl=queues.url("q.fifo"), MessageBody=body, MessageGroupId="g", MessageDeduplicationId=f"e{size}"
            )
        (tmp_path / "config.toml").write_text(with_client(CONFIG.format(ROOT, queues.url("q.fifo"), server.port)))
        with WorkerProcess(tmp_path, "--until-empty") as worker:
            assert worker.exit_code(90) == 1, worker.output()  # there are dead letters
        left = queues.counts("q.fifo")
        dead = queues.counts("dead.fifo")
    served = [name for name in people if not name.startswith("gone")]
    mailed = Counter(name for taken in server.taken for name in taken.recipients)
    assert mailed == Counter(dict.fromkeys(served, 2)), worker.output()
    assert len({taken.content for taken in server.taken}) == 2
    assert left == (0, 0, 0)
    assert dead[0] == 3  # those who are gone, twice, and the job that was not sent at all


CONFIG = """
[worker]
handlers = ["{}/handlers"]
[queues.q]
url = "{}"
wait_seconds = 1
[handlers.email]
host = "127.0.0.1"
port = {}
security = "none"
from = "Shop <shop@a.org>"
"""
