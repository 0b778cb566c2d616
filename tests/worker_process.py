"""A worker in a process of its own, known by its log lines and its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import boto3
from botocore.config import Config

import tests.sdk  # noqa: F401  botocore makes its sessions quickly

ROOT = Path(__file__).parent.parent
WORKER = (str(ROOT / "worker.py"),)
LOCAL_SQS = ("-m", "millpond.local", "--port", "0")
#: By which client the workers under test speak to SQS.
CLIENT = os.environ.get("SQS_CLIENT") or "wire"
#: Where coverage is measured, in processes too: see tests/patch.py. There they need tests/coverage_by_events.py.
_config = os.environ.get("WORKER_COVERAGE")
COVERAGE = {"COVERAGE_PROCESS_CONFIG": _config, "PYTHONPATH": str(ROOT)} if _config else {}
#: What a process may take for one step before a test fails: the machine may be busy.
SECONDS = 20.0


class WorkerProcess:
    """Starts Python with these arguments in `folder`; ends it with the `with` block, if it has not ended by itself.

    Its environment is empty but for PATH, HOME and `environ`. A line of JSON on its standard output is kept as it is,
    any other as {"event": "", "message": line}.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        program: Sequence[str] = WORKER,
        executable: str = sys.executable,
        **environ: str,
    ) -> None:
        self.folder = folder
        self.lines: list[dict[str, Any]] = []
        self.stderr = ""
        self._seen = 0  # lines that `expect` has passed
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [executable, *program, *arguments],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **COVERAGE, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers = [
            threading.Thread(target=read, args=[stream], daemon=True)
            for read, stream in ((self._read_lines, self._process.stdout), (self._read_errors, self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()

    def expect(self, event: str, seconds: float = SECONDS, **fields: Any) -> dict[str, Any]:
        """The next line of this event, with these fields, after the one that was expected last."""
        return self.expect_any([event], seconds, **fields)

    def expect_any(self, events: Collection[str], seconds: float = SECONDS, **fields: Any) -> dict[str, Any]:
        """The next line of one of these events. A field that is a set may have any of its values."""
        end = time.monotonic() + seconds
        with self._news:
            while True:
                for index in range(self._seen, len(self.lines)):
                    line = self.lines[index]
                    if line["event"] in events and all(_fits(line, *field) for field in fields.items()):
                        self._seen = index + 1
                        return line
                ended = not self._readers[0].is_alive()
                left = end - time.monotonic()
                if ended or left <= 0 or not self._news.wait(left):
                    what = f"{' or '.join(events)} {fields or ''}{' (it ended)' if ended else ''}"
                    raise AssertionError(f"no {what}\n{self.output()}")

    def all(self, event: str) -> list[dict[str, Any]]:
        """Every line of this event so far."""
        return [line for line in self.lines if line["event"] == event]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def exit_code(self, seconds: float = SECONDS) -> int:
        """Wait for its end, and for all that it has said."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {seconds} s\n{self.output()}") from None
        for reader in self._readers:
            reader.join()
        return code

    def output(self) -> str:
        """Everything it has said, for the message of a failed test."""
        return "\n".join([*(json.dumps(line) for line in self.lines), "stderr:", self.stderr])

    def _read_lines(self, stream: IO[str]) -> None:
        for text in stream:
            with self._news:
                self.lines.append(_parsed(text.rstrip("\n")))
                self._news.notify_all()
        stream.close()
        with self._news:
            self._news.notify_all()

    def _read_errors(self, stream: IO[str]) -> None:
        self.stderr = stream.read()
        stream.close()


def _fits(line: dict[str, Any], name: str, wanted: Any) -> bool:
    return name in line and (line[name] in wanted if isinstance(wanted, set) else line[name] == wanted)


def _parsed(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) and "event" in line else {"event": "", "message": text}


class LocalQueues:
    """Queues on a local SQS, seen as any program sees them."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.sqs = boto3.client(
            "sqs",
            region_name="us-east-1",
            endpoint_url=endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def create(self, name: str, max_receive_count: int = 15) -> str:
        """A queue and its dead-letter queue, <name>-dead; the queue's URL."""
        self.sqs.create_queue(QueueName=f"{name}-dead")
        policy = {"deadLetterTargetArn": f"arn:aws:sqs:us-east-1:000000000000:{name}-dead"}
        redrive = json.dumps(policy | {"maxReceiveCount": max_receive_count})
        return str(self.sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive})["QueueUrl"])

    def url(self, name: str) -> str:
        return f"{self.endpoint}/000000000000/{name}"

    def send(self, name: str, event_type: str, payload: Any = None, number: int = 1) -> None:
        body = json.dumps({"event_type": event_type, "payload": payload})
        for first in range(0, number, 10):
            entries = [{"Id": str(index), "MessageBody": body} for index in range(first, min(first + 10, number))]
            assert "Failed" not in self.sqs.send_message_batch(QueueUrl=self.url(name), Entries=entries)

    def counts(self, name: str) -> tuple[int, int, int]:
        """Messages that are visible, in flight, delayed."""
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.url(name), AttributeNames=["All"])["Attributes"]
        prefix = "ApproximateNumberOfMessages"
        visible, in_flight, delayed = (int(attributes[prefix + end]) for end in ("", "NotVisible", "Delayed"))
        return visible, in_flight, delayed

    def receive(self, name: str, wait_seconds: int = 0) -> list[dict[str, Any]]:
        """Up to ten messages that are visible now, or the first ones to be within wait_seconds."""
        answer = self.sqs.receive_message(
            QueueUrl=self.url(name),
            WaitTimeSeconds=wait_seconds,
            MaxNumberOfMessages=10,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return list(answer.get("Messages", []))


@contextmanager
def local_sqs(folder: Path) -> Iterator[LocalQueues]:
    """`python -m millpond.local` in a process of its own."""
    with WorkerProcess(folder, program=LOCAL_SQS) as process:
        text = process.expect("")["message"]
        yield LocalQueues(re.findall(r"http://[\d.]+:\d+", text)[0])


def local_queues(worker: WorkerProcess) -> LocalQueues:
    """The queues that a worker runs inside itself."""
    return LocalQueues(re.findall(r"http://[\d.]+:\d+", worker.expect("local.ready")["message"])[0])


def write_project(folder: Path, handlers: str, config: str, package: str = "jobs") -> Path:
    """A config.toml, and handlers/work.py beside it with this text, in a folder of this name."""
    (folder / package).mkdir(parents=True)
    (folder / package / "work.py").write_text(handlers)
    (folder / "config.toml").write_text(with_client(config))
    return folder


def with_client(config: str) -> str:
    """This config.toml, with the client that is under test."""
    table = f'[sqs]\nclient = "{CLIENT}"\n'
    return config.replace("[sqs]\n", table) if "[sqs]\n" in config else f"{config}\n{table}"
