"""The worker as its users run it: a process of its own, on a server of its own, over real HTTP."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.server import StreamServer

from tests.between import between
from tests.local.conftest import end, start
from tests.smtp_server import ScriptedServer
from tests.worker_process import CLIENT, ROOT, LocalQueues, WorkerProcess, local_sqs, with_client, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
import logging, time
import gevent, msgspec
from millpond import Discard, Message, Reject, Retry, handler

log = logging.getLogger("work")

class Job(msgspec.Struct):
    n: int

@handler("ok")
def ok(job: Job, message: Message) -> None:
    gevent.sleep(0.005)
    log.info("handled", extra={"n": job.n})

@handler("second_time")
def second_time(job: Job, message: Message) -> None:
    if message.attempt == 1:
        raise ValueError("not yet")
    log.info("handled", extra={"n": job.n})

@handler("reject")
def reject(job: Job) -> None:
    raise Reject("no such customer")

@handler("discard")
def discard(job: Job) -> None:
    raise Discard("already there")

@handler("again")
def again(job: Job, message: Message) -> None:
    if job.n < 1000:
        message.follow_up({"n": job.n + 1000})
    log.info("handled", extra={"n": job.n})

@handler("long")
def long(job: Job) -> None:
    time.sleep(5)
    log.info("handled", extra={"n": job.n})
"""
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
KINDS = ("ok", "second_time", "reject", "discard", "again")


def config(url: str, **more: str) -> str:
    return f"""
[worker]
handlers = ["jobs"]
{more.get("worker", "")}
[queues.q]
url = "{url}"
wait_seconds = 1
{more.get("queue", "")}
[retry]
base_seconds = 0.5
[log]
succeeded_per_second = 1000
{more.get("tables", "")}
"""


def fill(queues: LocalQueues, name: str, kinds: tuple[str, ...], number: int) -> Counter[str]:
    """`number` messages of each kind, and one of each body that cannot be read; how each is to end."""
    bodies = [json.dumps({"event_type": kind, "payload": {"n": n}}) for n in range(number) for kind in kinds]
    unreadable = [
        "no JSON",
        "[" * 100_000,
        '{"event_type": "ok", "payload": {"n": "one"}}',
        '{"event_type": "nobody", "payload": 1}',
        "x" * 1_000_000,
    ]
    for body in [*bodies, *unreadable]:
        queues.sqs.send_message(QueueUrl=queues.url(name), MessageBody=body)
    return Counter(dict.fromkeys(kinds, number)) + Counter(undecodable=len(unreadable))


@pytest.fixture(params=["millpond.local", "moto"])
def queues(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalQueues]:
    if request.param == "millpond.local":
        with local_sqs(tmp_path) as queues:
            yield queues
        return
    process, url = start(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], r"http://127\.0\.0\.1:\d+")
    yield MotoQueues(url)
    end(process)


class MotoQueues(LocalQueues):
    def create(self, name: str, max_receive_count: int = 15) -> str:
        return super().create(name, max_receive_count).replace("http://localhost:", "http://127.0.0.1:")

    def url(self, name: str) -> str:
        return f"{self.endpoint}/123456789012/{name}"


def test_every_message_ends_where_it_should_and_the_books_balance(queues: LocalQueues, tmp_path: Path) -> None:
    moto = isinstance(queues, MotoQueues)  # it scans the queue at each call: not a place for many messages
    number = 8 if moto else 60
    if moto:
        queues.sqs.create_queue(QueueName="q")
        queues.sqs.create_queue(QueueName="q-dead")
    else:
        queues.create("q")
    queue = f'dead_letter_url = "{queues.url("q-dead")}"'
    if moto:  # it has threads and no locks: two receives at once can get the same message, whose count is 2 then
        queue += "\npollers = 1"
    write_project(tmp_path / "app", HANDLERS, config(queues.url("q"), queue=queue))
    expected = fill(queues, "q", KINDS, number)
    with WorkerProcess(tmp_path / "app", "--until-empty") as worker:
        assert worker.exit_code(60) == 1  # something was dead-lettered
    account = worker.all("worker.stopped")[0]
    assert account["succeeded"] == 4 * number  # ok, second_time, again and its follow-up
    assert account["retried"] == number
    assert account["dead_lettered"] == number + expected["undecodable"]
    assert account["discarded"] == number
    assert account["received"] == 7 * number + expected["undecodable"]
    assert account["in_hand"] == account["abandoned"] == 0
    assert queues.counts("q") == (0, 0, 0)
    handled = Counter(line["n"] for line in worker.lines if line["message"] == "handled")
    assert sum(handled.values()) == 4 * number
    reasons = Counter(_reason(letter) for letter in letters(queues, "q-dead"))
    assert reasons.pop("no such customer") == number
    assert sum(reasons.values()) == expected["undecodable"]
    assert "Expected `int`, got `str` - at `$.payload.n`" in reasons
    assert "no handler for type 'nobody'" in reasons


def letters(queues: LocalQueues, name: str) -> Iterator[dict]:
    while batch := queues.receive(name):
        yield from batch


def _reason(letter: dict) -> str:
    attributes = letter.get("MessageAttributes", {})
    return json.loads(attributes["millpond"]["StringValue"])["reason"] if attributes else "(no room)"


@pytest.fixture
def sqs(tmp_path: Path) -> Iterator[LocalQueues]:
    with local_sqs(tmp_path) as queues:
        yield queues


def test_a_handler_that_outlasts_the_visibility_time_out_is_delivered_once(sqs: LocalQueues, tmp_path: Path) -> None:
    sqs.create("q")
    sqs.send("q", "long", {"n": 1}, 30)
    write_project(tmp_path / "app", HANDLERS, config(sqs.url("q"), queue="visibility_seconds = 2"))
    with WorkerProcess(tmp_path / "app", "--until-empty") as worker:
        assert worker.exit_code(60) == 0
    account = worker.all("worker.stopped")[0]
    assert (account["received"], account["succeeded"]) == (30, 30)


def test_what_config_toml_says_of_a_queue_is_what_sqs_is_asked_for(sqs: LocalQueues, tmp_path: Path) -> None:
    sqs.create("q")
    asked: dict[str, dict] = {}
    extended = threading.Event()

    def see(call: str, body: dict) -> None:
        asked.setdefault(call, body)
        if call == "ChangeMessageVisibilityBatch":
            extended.set()

    queue = "max_messages = 3\nvisibility_seconds = 77\nheartbeat_seconds = 1"
    with between(sqs.endpoint) as proxy:
        proxy.rule = see
        write_project(tmp_path / "app", HANDLERS, config(f"{proxy.url}/000000000000/q", queue=queue))
        with WorkerProcess(tmp_path / "app", **AWS) as worker:
            worker.expect("worker.ready")
            sqs.send("q", "long", {"n": 1})
            assert extended.wait(20), worker.output()
    receive = asked["ReceiveMessage"]
    assert (receive["MaxNumberOfMessages"], receive["WaitTimeSeconds"], receive["VisibilityTimeout"]) == (3, 1, 77)
    [change] = asked["ChangeMessageVisibilityBatch"]["Entries"]
    assert change["VisibilityTimeout"] == 77


def test_a_message_is_kept_for_max_hold_seconds_whatever_its_handler_does(sqs: LocalQueues, tmp_path: Path) -> None:
    sqs.create("q")
    queue = "visibility_seconds = 2\nmax_hold_seconds = 3"
    alone = "concurrency = 1"  # its one permit is the message's: it cannot receive it again and go on with it
    write_project(tmp_path / "app", HANDLERS, config(sqs.url("q"), queue=queue, worker=alone))
    with WorkerProcess(tmp_path / "app") as worker:
        sqs.send("q", "long", {"n": 1})  # for five seconds
        lost = worker.expect("message.lease_lost")
    assert 2 <= lost["seconds"] < 5


KILLS = """
import gc
import gevent
from millpond import handler

@handler("kill")
def kill(payload: dict) -> None:
    mine = gevent.getcurrent()
    gevent.killall([one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and one is not mine])
"""


def test_a_handler_that_kills_every_greenlet_there_is_leaves_no_silent_worker(sqs: LocalQueues, tmp_path: Path) -> None:
    sqs.create("q")
    sqs.send("q", "kill", {})
    write_project(tmp_path / "app", KILLS, config(sqs.url("q")))
    with WorkerProcess(tmp_path / "app") as worker:
        assert worker.exit_code(20) == 2
    assert "GreenletExit" in worker.all("worker.crashed")[0]["message"]


class BadNetwork:
    """A proxy that cuts, delays, and answers what SQS never would, by seed; honest once `calls` are over."""

    THROTTLED = b'{"__type":"com.amazonaws.sqs#RequestThrottled","message":"slow down"}'

    def __init__(self, endpoint: str, calls: int) -> None:
        host, port = re.findall(r"//([\d.]+):(\d+)", endpoint)[0]
        self._target = (host, int(port))
        self._left = calls
        self._chance = random.Random(4)
        self.faults: Counter[str] = Counter()
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.stop()

    def _serve(self, client: socket.socket, _: object) -> None:
        stream = client.makefile("rb")
        while (request := _read_request(stream)) is not None:
            fault = self._fault()
            self.faults[fault] += 1
            if fault == "reset before":
                break
            if fault in ("500", "garbage", "throttled"):
                client.sendall(self._answer(fault))
                continue
            answer = self._forward(request)
            if fault == "reset after":
                break
            client.sendall(answer[: len(answer) // 2] if fault == "truncated" else answer)
            if fault == "truncated":
                break
        stream.close()
        client.close()

    def _fault(self) -> str:
        self._left -= 1
        if self._left < 0 or self._chance.random() < 0.6:
            return "none"
        return self._chance.choice(["reset before", "reset after", "500", "garbage", "throttled", "truncated"])

    def _answer(self, fault: str) -> bytes:
        status, kind, body = {
            "500": (b"500 Internal Server Error", b"text/html", b"<html>oops</html>"),
            "garbage": (b"200 OK", b"text/html", b"<html>please log in</html>"),
            "throttled": (b"403 Forbidden", b"application/x-amz-json-1.0", self.THROTTLED),
        }[fault]
        return b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (status, kind, len(body), body)

    def _forward(self, request: bytes) -> bytes:
        with gevent.socket.create_connection(self._target) as upstream:
            upstream.sendall(request)
            return _read_request(upstream.makefile("rb")) or b""


def _read_request(stream) -> bytes | None:
    """One HTTP message with a Content-Length."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return None
        head += line
    length = int(re.findall(rb"(?i)content-length: *(\d+)", head)[0])
    return head + stream.read(length)


def test_a_worker_behind_a_proxy_goes_through_it_by_boto3_and_says_so(sqs: LocalQueues, tmp_path: Path) -> None:
    sqs.create("q")
    sqs.send("q", "ok", {"n": 1})
    write_project(tmp_path / "app", HANDLERS, config("http://sqs.internal.example/000000000000/q"))
    environ = {"HTTP_PROXY": sqs.endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with WorkerProcess(tmp_path / "app", "--until-empty", **environ) as worker:
        assert worker.exit_code() == 0, worker.output()
    assert bool(worker.all("queue.proxied")) == (CLIENT == "wire")
    assert sqs.counts("q") == (0, 0, 0)


def test_on_a_bad_network_nothing_is_lost(sqs: LocalQueues, tmp_path: Path) -> None:
    sqs.create("q")
    network = BadNetwork(sqs.endpoint, calls=100)
    for n in range(400):
        sqs.send("q", "ok", {"n": n})
    url = sqs.url("q").replace(sqs.endpoint, network.endpoint)
    queue = "visibility_seconds = 3\npollers = 8"
    tables = f'[sqs]\nendpoint_url = "{network.endpoint}"'
    write_project(tmp_path / "app", HANDLERS, config(url, queue=queue, worker="concurrency = 20", tables=tables))
    with WorkerProcess(tmp_path / "app") as worker:
        gevent.spawn(_wait_until_empty, sqs, "q").get(timeout=60)
        worker.signal(15)
        assert worker.exit_code() == 0
    network.stop()
    account = worker.all("worker.stopped")[0]
    assert {fault for fault, times in network.faults.items() if times > 2} >= {"reset before", "reset after", "500"}
    # A lost answer may mean a second delivery, never none: what was deleted had been handled.
    assert {line["n"] for line in worker.lines if line["message"] == "handled"} == set(range(400))
    assert account.get("dead_lettered", 0) == account["abandoned"] == 0
    assert sqs.counts("q-dead") == (0, 0, 0)


def _wait_until_empty(queues: LocalQueues, name: str) -> None:
    while sum(queues.counts(name)):
        gevent.sleep(0.1)


def test_a_worker_tells_statsd_what_it_does(sqs: LocalQueues, tmp_path: Path) -> None:
    sqs.create("q")
    sqs.send("q", "ok", {"n": 1}, 100)
    daemon = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    daemon.bind(("127.0.0.1", 0))
    daemon.settimeout(10)
    tables = f'[statsd]\nhost = "127.0.0.1"\nport = {daemon.getsockname()[1]}'
    settings = config(sqs.url("q"), tables=tables, worker='name = "test.1"')
    few = settings.replace("succeeded_per_second = 1000", "succeeded_per_second = 1")  # the metrics count them all
    write_project(tmp_path / "app", HANDLERS, few)
    with WorkerProcess(tmp_path / "app", "--until-empty") as worker:
        assert worker.exit_code(30) == 0
    counters: Counter[str] = Counter()
    names = set()
    daemon.setblocking(False)
    while packet := _packet(daemon):
        for line in packet.splitlines():
            name, value, kind = re.fullmatch(r"([^:]+):([^|]+)\|(\w+)(?:\|@[\d.]+)?", line).groups()
            names.add(name)
            if kind == "c":
                counters[name] += int(value)
    assert len([line for line in worker.all("message.succeeded") if "event_id" in line]) < 100
    assert counters["millpond.q.received"] == counters["millpond.q.succeeded"] == 100
    assert counters["millpond.q.type.ok.succeeded"] == 100
    assert {"millpond.q.duration", "millpond.q.latency", "millpond.q.in_hand.test_1"} <= names
    assert {"millpond.worker.hub_lag_ms.test_1", "millpond.q.requests_per_1000.test_1"} <= names
    [account] = worker.all("worker.stopped")
    assert account["requests"] >= 20  # ten receives of ten, ten deletes of ten, and the polls that came back empty
    assert account["requests_per_1000"] == account["requests"] * 10
    daemon.close()


def _packet(daemon: socket.socket) -> str:
    try:
        return daemon.recv(65_536).decode()
    except BlockingIOError:
        return ""


RECIPIENT_ANSWERS = [
    "250 2.1.5 fine",
    "451 4.7.1 greylisted",
    "550 5.1.1 nobody here",
    "421 4.3.2 going down",
    "452 4.5.3 later",
]


def test_no_accepted_recipient_of_a_scripted_server_is_mailed_twice(sqs: LocalQueues, tmp_path: Path) -> None:
    chance = random.Random(11)
    script = {
        "RCPT": chance.choices(RECIPIENT_ANSWERS, weights=[4, 2, 2, 1, 1], k=60),
        "end": ["250 2.0.0 taken"] * 5 + ["451 4.3.0 try again", "554 5.6.0 refused", "421 4.3.2 going down"],
    }
    sqs.create("q")
    jobs = {f"mail-{n}": [f"u{n}-{k}@example.com" for k in range(1 + n % 4)] for n in range(25)}
    for event_id, recipients in jobs.items():
        payload = {"to": recipients, "subject": event_id, "text": "Hi"}
        body = json.dumps({"event_type": "email.send", "event_id": event_id, "payload": payload})
        sqs.sqs.send_message(QueueUrl=sqs.url("q"), MessageBody=body)
    with ScriptedServer(script) as server:
        mail = (
            f'[handlers.email]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\nfrom = "Shop <shop@a.org>"'
        )
        text = config(sqs.url("q"), tables=mail).replace('"jobs"', f'"{ROOT / "handlers"}"')
        (tmp_path / "config.toml").write_text(with_client(text))
        with WorkerProcess(tmp_path, "--until-empty") as worker:
            assert worker.exit_code(90) == 1, worker.output()
        end = time.monotonic() + 180
        while sqs.counts("q") != (0, 0, 0):  # it waits for its back-offs, and for no follow-up that is delayed
            while not sqs.counts("q")[0]:
                assert time.monotonic() < end, worker.output()
                time.sleep(0.2)
            with WorkerProcess(tmp_path, "--until-empty") as worker:
                assert worker.exit_code(90) in (0, 1), worker.output()
    mailed = Counter(recipient for taken in server.taken for recipient in taken.recipients)
    dead = Counter(recipient for letter in letters(sqs, "q-dead") for recipient in _still_to_serve(letter))
    assert sqs.counts("q") == (0, 0, 0)
    assert set(mailed.values()) == {1}
    assert mailed + dead == Counter(recipient for recipients in jobs.values() for recipient in recipients)
    assert dead
    message_ids = {re.findall(rb"(?m)^Message-ID: (.+)\r$", taken.content)[0] for taken in server.taken}
    assert len(message_ids) <= len(jobs)  # what was divided is still the same mail


def _still_to_serve(letter: dict) -> list[str]:
    payload = json.loads(letter["Body"])["payload"]
    return payload.get("only") or payload["to"]
