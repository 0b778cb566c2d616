"""The package as Lambda gets it: really made, unpacked, and run from its own folder by awslambdaric.

    make lambda

It fetches every wheel from the package index, so it is no part of `make test`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.invocations import runtime_api
from tests.invocations.runtime_api import AWS, EventSourceMapping
from tests.worker_process import ROOT, WorkerProcess, local_sqs

MAIL = {"to": ["ann@example.com"], "subject": "Hello", "text": "Hi Ann"}


def test_a_mail_is_sent_by_the_packed_function(tmp_path: Path) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, "deploy/lambda/package.py", "--output", str(tmp_path / "f.zip"), "--python", python]
    print(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    task = tmp_path / "task"
    with zipfile.ZipFile(tmp_path / "f.zip") as packed:
        packed.extractall(task)
    environ = {**AWS, "PYTHONPATH": str(task), "AWS_LAMBDA_FUNCTION_NAME": "f", "MAIL_FROM": "news@example.com"}
    with local_sqs(tmp_path) as queues, runtime_api.running() as api:
        environ |= {"AWS_LAMBDA_RUNTIME_API": api.address, "SQS_QUEUE_URL": queues.create("emails")}
        relay = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": "9", "SMTP_SECURITY": "none"}  # nobody listens: it waits
        code = "import millpond, awslambdaric.__main__ as m; print(millpond.__file__, flush=True)"
        code += "; m.main(['', 'main.handler'])"
        program = ("-c", code)
        with WorkerProcess(task, program=program, **environ, **relay) as function:
            queues.send("emails", "email.send", MAIL)
            queues.send("emails", "email.send", {"to": []})
            mapping = EventSourceMapping(queues, "emails", api, timeout=4)
            (waits,) = mapping.poll(1) or ()
            assert function.expect("message.dead_lettered")["cause"] == "undecodable"
            body = {one["messageId"]: one["body"] for one in mapping.batches[0]["Records"]}[waits]
            assert json.loads(body)["payload"] == MAIL
            (where,) = function.all("")
            assert where["message"].startswith(str(task))
