"""An end-to-end test of any deployment: send jobs to its queue, follow its log until each is done, print the times.

It needs boto3, and nothing of Millpond. The log comes from CloudWatch (`--log-group`) or on standard input:

    tail -n +1 -f worker.log | python deploy/e2e.py --queue-url URL --type invoice.created --payload '{"number": "A-1"}'
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, HTTPClientError

#: Exit codes, as a worker's own: each job was done once; some were not; it could not be tried.
PASSED, FAILED, NOT_TRIED = 0, 1, 3
#: Between two looks at the log. FilterLogEvents allows 5 to 10 calls a second in an account.
LOOK_SECONDS = {"stdin": 0.1, "cloudwatch": 2.0}
#: Lines reach CloudWatch late and out of order: each look begins this long before the newest line seen.
OVERLAP_MS = 60_000
#: How long a queue that does not answer is asked again: its worker may only begin.
CONNECT_SECONDS = 30.0
#: Other programs' messages that are looked through for leftovers, and how long they stay hidden meanwhile.
MAX_LOOKED_AT, HIDDEN_SECONDS = 1_000, 30
#: Jobs that are named, of each kind of failure.
MAX_NAMED = 100
LOG_ALL = "set LOG_SUCCEEDED_PER_SECOND=100000 (config.toml: [log] succeeded_per_second) in the worker"
EPILOG = """\
exit codes: 0 each job was done once, 1 some are missing, doubled, dead-lettered or discarded, 3 it could not be tried

The worker must log each success: set LOG_SUCCEEDED_PER_SECOND=100000 in its environment for the test. Where it
only counts some, the exit code is 1: doubles may be among them.
"""


class CannotTry(Exception):
    """The test cannot be made; the text says why and what helps."""


@dataclass
class Job:
    """One message: when it was sent, and what the log says of it. Times are seconds of the epoch, by each clock."""

    sent: float
    done: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)  # successes whose message was another worker's by then
    handler_seconds: float = 0.0
    retries: int = 0
    repeats: int = 0
    lost_leases: int = 0
    dead_letter: str = ""
    discarded: str = ""

    @property
    def is_settled(self) -> bool:
        return bool(self.done or self.dead_letter or self.discarded)


class Books:
    """What became of each job, by the lines of the log. `hidden`: successes since then that the log only counted."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.hidden = 0
        self.json_lines = 0
        self.other_lines = 0

    def read(self, text: str) -> bool:
        """Take one line of the log, with whatever a platform puts before it. True where it is news of a job."""
        line = parsed(text)
        if line is None:
            self.other_lines += bool(text.strip())
            return False
        self.json_lines += 1
        if line["event"] == "message.succeeded" and isinstance(line.get("more"), int) and self._is_of_now(line):
            self.hidden += line["more"]
        job = self.jobs.get(str(line.get("event_id")))
        if job is not None:
            self._see(job, line)
        return job is not None

    def _is_of_now(self, line: Mapping[str, Any]) -> bool:
        """Whether it was written after the first job was sent: a log can begin long before."""
        return bool(self.jobs) and _epoch(line.get("ts")) >= min(job.sent for job in self.jobs.values())

    def _see(self, job: Job, line: Mapping[str, Any]) -> None:
        reason = str(line.get("reason") or line.get("error") or "the log gives no reason")
        match line["event"]:
            case "message.succeeded":
                job.done.append(_epoch(line.get("ts")))
                job.handler_seconds = float(line.get("seconds") or 0)
            case "message.retried":
                job.retries += 1
            case "message.lease_lost":
                job.lost_leases += 1
                if reason == "too late: succeeded":
                    job.late.append(_epoch(line.get("ts")))
            case "message.dead_lettered":
                job.dead_letter = reason
            case "message.discarded" if line.get("cause") == "duplicate":
                job.repeats += 1  # of an idempotent handler, which did not run again
            case "message.discarded":
                job.discarded = reason

    @property
    def are_settled(self) -> bool:
        return all(job.is_settled for job in self.jobs.values())

    def failures(self) -> dict[str, list[str]]:
        """Kind of failure -> a line for each job."""
        found: dict[str, list[str]] = {
            "missing": [],
            "doubled": [],
            "dead-lettered": [],
            "discarded": [],
            "not shown": [],
        }
        for name, job in self.jobs.items():
            if not job.is_settled:
                found["missing"].append(f"{name}: no line of the log says that it is done")
            if len(ends := job.done + job.late) > 1:
                apart = max(ends) - min(ends)
                found["doubled"].append(f"{name}: it succeeded {len(ends)} times, within {apart:.1f} s")
            if job.dead_letter:
                found["dead-lettered"].append(f"{name}: {job.dead_letter}")
            if job.discarded:
                found["discarded"].append(f"{name}: {job.discarded}")
        if self.hidden and not found["missing"]:
            text = f"the log only counts {self.hidden} successes, and doubles may be among them: {LOG_ALL}"
            found["not shown"].append(text)
        return {kind: lines for kind, lines in found.items() if lines}


def parsed(text: str) -> dict[str, Any] | None:
    """The object of a line of JSON, whatever stands before it ("2026-11-26T12:00:00 app[worker.1]: {...}")."""
    try:
        line = json.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("event"), str) else None


def _epoch(ts: object) -> float:
    try:
        return datetime.fromisoformat(str(ts)).timestamp()
    except ValueError:
        return time.time()


class Log(Protocol):
    look_seconds: float

    def new_lines(self) -> Iterable[str]:
        """Those since the last look; it does not wait."""

    @property
    def has_ended(self) -> bool: ...


class StandardInput:
    """Lines as they come, by a thread, since a read waits."""

    look_seconds = LOOK_SECONDS["stdin"]

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        for line in sys.stdin:
            self._lines.put(line)

    def new_lines(self) -> Iterator[str]:
        while not self._lines.empty():
            yield self._lines.get()

    @property
    def has_ended(self) -> bool:
        return not self._reader.is_alive() and self._lines.empty()


class CloudWatch:
    """A log group, by FilterLogEvents: the lines of this run's jobs, and those that count hidden successes."""

    look_seconds = LOOK_SECONDS["cloudwatch"]
    has_ended = False

    def __init__(self, group: str, region: str, run: str) -> None:
        retries = Config(retries={"mode": "standard", "total_max_attempts": 10})
        self._logs = boto3.client("logs", region_name=region, config=retries)
        self._since = int(time.time() * 1000)
        self._seen: set[str] = set()
        self._query = {"logGroupName": group, "filterPattern": f'?"{run}" ?"succeeded_per_second"'}

    def new_lines(self) -> Iterator[str]:
        query = {**self._query, "startTime": self._since - OVERLAP_MS}
        for page in self._logs.get_paginator("filter_log_events").paginate(**query):  # a page may be empty
            for event in page["events"]:
                if event["eventId"] not in self._seen:
                    self._seen.add(event["eventId"])
                    self._since = max(self._since, event["timestamp"])
                    yield event["message"]


class Queue:
    """The queue under test, and its dead-letter queue ("": there is none, or it may not be asked for)."""

    def __init__(self, url: str, dead_letter_url: str, region: str) -> None:
        self.url = url
        self.name = url.rstrip("/").rpartition("/")[2]
        self.is_fifo = self.name.endswith(".fifo")
        self._sqs = boto3.client("sqs", region_name=region, **_endpoint(url))
        self.dead_letter_url = dead_letter_url or self._redrive_target()

    def _redrive_target(self) -> str:
        answer = _asked_again(lambda: self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"]))
        try:
            name = json.loads(answer["Attributes"]["RedrivePolicy"])["deadLetterTargetArn"].rpartition(":")[2]
            return str(self._sqs.get_queue_url(QueueName=name)["QueueUrl"])
        except KeyError:
            return ""
        except ClientError as error:
            print(f"its dead-letter queue is not looked at: {error}; give --dead-letter-url", file=sys.stderr)
            return ""

    def send(self, bodies: Mapping[str, str]) -> None:
        """Send up to ten. An entry that is refused ends the test: it would be called missing."""
        entries = []
        for number, (name, body) in enumerate(bodies.items()):
            entry = {"Id": str(number), "MessageBody": body}
            if self.is_fifo:  # ten groups, by the last digit
                entry |= {"MessageGroupId": f"e2e-{name[-1]}", "MessageDeduplicationId": name}
            entries.append(entry)
        answer = self._sqs.send_message_batch(QueueUrl=self.url, Entries=entries)
        for refused in answer.get("Failed", []):
            raise CannotTry(f"SQS refused a job: {refused.get('Code')} {refused.get('Message', '')}")

    def remove_leftovers(self, run: str) -> Iterator[str]:
        """Delete this run's messages from both queues, and say which; those of others are visible again after it."""
        for url in filter(None, (self.url, self.dead_letter_url)):
            where = "the queue" if url == self.url else "the dead-letter queue"
            others: list[str] = []
            looked_at = 0
            while looked_at < MAX_LOOKED_AT and (batch := self._receive(url)):
                looked_at += len(batch)
                for message in batch:
                    if name := re.search(rf"{run}-\d+", message["Body"]):
                        self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                        yield f"{name[0]} was still in {where}: deleted"
                    else:
                        others.append(message["ReceiptHandle"])
            for handle in others:
                self._sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)

    def _receive(self, url: str) -> list[dict[str, Any]]:
        # A long poll asks all of SQS's servers; an empty answer of a short one says little.
        answer = self._sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=HIDDEN_SECONDS
        )
        return list(answer.get("Messages", []))


class Service:
    """An ECS service: it is waited for before the test, and its own events explain a failure."""

    def __init__(self, cluster: str, name: str, region: str) -> None:
        self._ecs = boto3.client("ecs", region_name=region)
        self._which = {"cluster": cluster, "services": [name]}
        self._name = name

    def wait_until_it_runs(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while wrong := self._wrong_with(service := self._read()):
            if time.monotonic() > end:
                events = "".join(f"\n  {event['message']}" for event in service.get("events", [])[:5])
                raise CannotTry(f"service {self._name} does not run: {wrong}; its last events:{events or ' none'}")
            time.sleep(min(5.0, seconds))

    def _wrong_with(self, service: Mapping[str, Any]) -> str:
        running, desired = service["runningCount"], service["desiredCount"]
        deployments = service.get("deployments", [])
        states = {one.get("rolloutState", "COMPLETED") for one in deployments if one["status"] == "PRIMARY"}
        if not desired:
            return "its desired count is 0"
        return "" if running >= desired and states <= {"COMPLETED"} else f"{running} of {desired} tasks run, {states}"

    def _read(self) -> dict[str, Any]:
        answer = self._ecs.describe_services(**self._which)
        if not answer["services"]:
            raise CannotTry(f"there is no service {self._name} in {self._which['cluster']}")
        return dict(answer["services"][0])


def _endpoint(url: str) -> dict[str, str]:
    """What boto3 needs for a queue that is not Amazon's own: its host; on this machine also keys, which can be any."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.count("/") < 2:
        raise CannotTry(f"--queue-url {url}: this is not the URL of a queue")
    if parts.hostname.endswith((".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")):
        return {}
    keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    here = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
    return {"endpoint_url": f"{parts.scheme}://{parts.netloc}", **(keys if here else {})}


def _region(options: argparse.Namespace) -> str:
    named = re.search(r"//(?:.*\.)?sqs[.-](?:fips\.)?([a-z]{2,}(?:-[a-z]+)+-\d+)\.", options.queue_url)
    found = options.region or (named and named[1]) or os.environ.get("AWS_REGION")
    return str(found or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")


def _asked_again(call: Callable[[], Any]) -> Any:
    """What the call gives, asked again for a while where nobody listens yet."""
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return call()
        except (EndpointConnectionError, HTTPClientError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    run = f"e2e-{uuid4().hex[:8]}"
    try:
        return _try(options, run)
    except CannotTry as error:
        text = str(error)
    except (ClientError, BotoCoreError) as error:
        text = f"{type(error).__name__}: {error}"
    print(f"not tried: {text}", file=sys.stderr)
    return NOT_TRIED


def _try(options: argparse.Namespace, run: str) -> int:
    region = _region(options)
    target = Queue(options.queue_url, options.dead_letter_url, region)
    if options.service_name:
        Service(options.cluster_arn, options.service_name, region).wait_until_it_runs(options.timeout)
    log: Log = CloudWatch(options.log_group, region, run) if options.log_group else StandardInput()
    list(log.new_lines())  # a log that may not be read is found before anything is sent
    books = Books()
    passed = False
    try:
        _send(target, books, options, run)
        _follow(log, books, options)
        passed = not books.failures()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        if not passed and not options.no_cleanup:
            for line in target.remove_leftovers(run):
                print(line)
    _print_report(books)
    return PASSED if passed else FAILED


def _send(target: Queue, books: Books, options: argparse.Namespace, run: str) -> None:
    names = [f"{run}-{number:05}" for number in range(1, options.jobs + 1)]
    payload = json.loads(options.payload)
    for first in range(0, len(names), 10):
        batch = names[first : first + 10]
        sent = time.time()
        books.jobs.update({name: Job(sent) for name in batch})
        envelopes = {name: {"event_type": options.type, "event_id": name, "payload": payload} for name in batch}
        target.send({name: json.dumps(envelope) for name, envelope in envelopes.items()})
    print(f"{options.jobs} jobs {options.type} sent to {target.name}, event ids {names[0]} to {names[-1]}", flush=True)


def _follow(log: Log, books: Books, options: argparse.Namespace) -> None:
    """Read the log until each job is settled and no double has come for a while; or the time, or the log, is over."""
    news = time.monotonic()
    end = news + options.timeout
    while (now := time.monotonic()) < end and not (books.are_settled and now - news >= options.settle):
        ended = log.has_ended  # before the last look
        for text in log.new_lines():
            if books.read(text):
                news = time.monotonic()
        if ended:
            print("the log has ended", file=sys.stderr)
            return
        time.sleep(log.look_seconds)


def _print_report(books: Books) -> None:
    done = [job for job in books.jobs.values() if job.done]
    if not done:
        print(f"none of {len(books.jobs)} done")
    else:
        seconds = max(job.done[0] for job in done) - min(job.sent for job in books.jobs.values())
        rate = len(done) / max(seconds, 0.001)
        print(f"{len(done)} of {len(books.jobs)} done in {seconds:.1f} s, {rate:.1f} a second")
        _print_times("sent to done", [job.done[0] - job.sent for job in done])  # by two clocks
        _print_times("in the handler", [job.handler_seconds for job in done])
    for what, number in (
        ("retries", sum(job.retries for job in books.jobs.values())),
        ("leases lost", sum(job.lost_leases for job in books.jobs.values())),
        ("repeats that an idempotent handler did not run", sum(job.repeats for job in books.jobs.values())),
    ):
        if number:
            print(f"{what}: {number}")
    _print_verdict(books)


def _print_times(what: str, seconds: list[float]) -> None:
    seconds.sort()
    ranks = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
    marks = [f"{name} {seconds[round(rank * (len(seconds) - 1))]:.3f}" for name, rank in ranks.items()]
    print(f"{what} (s):".ljust(20), "  ".join(marks))


def _print_verdict(books: Books) -> None:
    failures = books.failures()
    for kind, lines in failures.items():
        for line in lines[:MAX_NAMED]:
            print(f"{kind}: {line}")
        if len(lines) > MAX_NAMED:
            print(f"{kind}: {len(lines) - MAX_NAMED} more")
    if books.hidden and "missing" in failures:
        print(f"the log only counts {books.hidden} successes, and the missing jobs may be among them: {LOG_ALL}")
    if books.other_lines and not books.json_lines:
        print('no line of the log is JSON: set [log] format = "json"')
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in failures.items())
    print(f"FAILED: {counts}" if failures else "passed: each job was done once", flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(NOT_TRIED, f"{self.prog}: {message}\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="e2e.py", description=__doc__, epilog=EPILOG, formatter_class=form)
    parser.add_argument("--queue-url", required=True, metavar="URL", help="the queue that the deployment works on")
    parser.add_argument("--type", required=True, help="the message type of the jobs; its handler really runs")
    parser.add_argument("--payload", default="{}", metavar="JSON", help="the payload of each, or @file (default: {})")
    parser.add_argument("--jobs", type=int, default=500, metavar="N", help="how many (default: 500)")
    parser.add_argument("--log-group", default="", metavar="NAME", help="in CloudWatch; without it: standard input")
    parser.add_argument("--cluster-arn", default="", metavar="ARN", help="with --service-name: an ECS service,")
    parser.add_argument(
        "--service-name", default="", metavar="NAME", help="which is waited for until all its tasks run"
    )
    parser.add_argument("--dead-letter-url", default="", metavar="URL", help="else the target of the redrive policy")
    parser.add_argument("--region", default="", help="else that of the URL, or AWS_REGION")
    help_text = "to wait for the last job, and for the service (default: 300)"
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help=help_text)
    help_text = "without news, once all are done, to wait for doubles (default: 5)"
    parser.add_argument("--settle", type=float, default=5.0, metavar="SECONDS", help=help_text)
    parser.add_argument("--no-cleanup", action="store_true", help="leave the jobs that were not done in the queues")
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.jobs < 1 or options.timeout <= 0 or options.settle < 0:
        parser.error("--jobs must be 1 or more, --timeout above 0, --settle 0 or more")
    if bool(options.cluster_arn) != bool(options.service_name):
        parser.error("--cluster-arn and --service-name go together")
    if not options.log_group and sys.stdin.isatty():
        parser.error("give --log-group, or the worker's log on standard input")
    try:
        if options.payload.startswith("@"):
            with open(options.payload[1:], encoding="utf-8") as file:
                options.payload = file.read()
        json.loads(options.payload)
    except (OSError, ValueError) as error:
        parser.error(f"--payload: {error}")


if __name__ == "__main__":
    sys.exit(main())
