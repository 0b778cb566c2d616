"""Producer: what it sends, what it tries again, and what a web process pays for it."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict
from urllib.parse import urlsplit

import gevent
import msgspec
import pytest
from gevent.server import StreamServer
from hypothesis import given
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond import Producer, testing
from millpond.errors import AccessDenied, ConfigError, QueueError, QueueMissing, SendError, Throttled, Unreachable
from millpond.producer import ATTEMPTS, TIMEOUT_SECONDS, Outgoing
from millpond.sqs.clients import connect
from millpond.sqs.entries import batches
from millpond.sqs.limits import MAX_BATCH, MAX_BYTES, MAX_DELAY_SECONDS
from millpond.sqs.queue import Entry, Failure
from millpond.sqs.sqs_queue import SqsQueue
from tests.worker_process import LocalQueues

ROOT = Path(__file__).parent.parent
URL = "https://sqs.eu-west-1.amazonaws.com/1/mails"
REFUSED = Failure("InvalidMessageContents", "no such character", sender_fault=True)
HICCUP = Failure("InternalError", "try again")

local_queue = testing.local_queue


class ScriptedQueue:
    """`script`: what the next calls do: an exception is raised, a dict has the Failure of some entries, by index."""

    sqs = SimpleNamespace(client="boto3")  # each thread has its own

    def __init__(self, *script: Exception | dict[int, Failure]) -> None:
        self.script = list(script)
        self.calls: list[list[Entry]] = []

    def send(self, entries: list[Entry], seconds: float) -> list[Failure | None]:
        assert 0 < seconds <= 3
        self.calls.append(list(entries))
        step = self.script.pop(0) if self.script else {}
        if isinstance(step, Exception):
            raise step
        return [step.get(index) for index in range(len(entries))]


def content(entry: Entry) -> Any:
    return json.loads(entry.body)["payload"]


@pytest.fixture
def naps(monkeypatch):
    naps = []
    monkeypatch.setattr("millpond.producer.sleep", naps.append)
    return naps


@pytest.fixture
def on(monkeypatch, naps):
    """A Producer on a scripted queue."""

    def on(queue: ScriptedQueue) -> Producer:
        monkeypatch.setattr(Producer, "_connect", lambda self: queue)
        return Producer(URL)

    return on


def queue_at(url: str) -> SqsQueue:
    return connect(url, wait_seconds=1, polls=1, settles=1).queue(url)


def received(url: str) -> list[Any]:
    """What is visible in a queue on this machine."""
    queue, found = queue_at(url), []
    while batch := queue.receive(10, 0, 30):
        found += batch
    return found


# --- what is sent


def test_a_message_arrives_as_an_envelope_with_its_event_id_and_group(local_queue):
    event_id = Producer(local_queue).send("invoice.created", {"number": "7"}, group="tenant-1")
    [one] = received(local_queue)
    assert json.loads(one.body) == {"event_type": "invoice.created", "event_id": event_id, "payload": {"number": "7"}}
    assert one.group_id == "tenant-1"
    assert len(event_id) == 32
    assert int(event_id, 16)


def test_an_event_id_that_is_given_is_kept(local_queue):
    assert Producer(local_queue).send("a", {}, event_id="order-7") == "order-7"
    [one] = received(local_queue)
    assert json.loads(one.body)["event_id"] == "order-7"


def test_a_fifo_queue_needs_a_group_and_knows_no_delay():
    emails = Producer(f"{URL}.fifo")
    with pytest.raises(ValueError, match="a FIFO queue needs a group"):
        emails.send("a", {})
    with pytest.raises(ValueError, match="delay=5: a FIFO queue delays no single message"):
        emails.send("a", {}, delay=5, group="g")


def test_what_comes_again_with_its_event_id_is_dropped_by_a_fifo_queue(local_queue):
    endpoint, _, name = local_queue.rpartition("/000000000000/")
    LocalQueues(endpoint).sqs.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})
    emails = Producer(f"{local_queue}.fifo")
    for number in range(2):
        assert emails.send("a", {"n": number}, group="g", event_id="order-7") == "order-7"
    emails.send("a", {"n": 2}, group="g")
    assert [json.loads(one.body)["payload"]["n"] for one in received(emails.url)] == [0, 2]


def test_a_delayed_message_is_there_and_not_visible(local_queue):
    Producer(local_queue).send("a", {}, delay=900)
    assert received(local_queue) == []
    assert queue_at(local_queue).attributes()["ApproximateNumberOfMessagesDelayed"] == "1"


class Invoice(msgspec.Struct):
    number: str


@dataclasses.dataclass
class Order:
    number: str


class Parcel(TypedDict):
    number: str


@pytest.mark.parametrize(
    ("payload", "arrives"),
    [
        (Invoice("7"), {"number": "7"}),
        (Order("7"), {"number": "7"}),
        (Parcel(number="7"), {"number": "7"}),
        ([1, "two", None], [1, "two", None]),
        ("text", "text"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        ("\x00\x7f\ud7ff\U0001f600", "\x00\x7f\ud7ff\U0001f600"),
    ],
    ids=["Struct", "dataclass", "TypedDict", "list", "str", "datetime", "control characters and emoji"],
)
def test_a_payload_is_anything_that_msgspec_makes_json_of(local_queue, payload, arrives):
    Producer(local_queue).send("a", payload)
    [one] = received(local_queue)
    assert json.loads(one.body)["payload"] == arrives


def test_characters_that_sqs_does_not_take_travel_as_json_escapes(local_queue):
    Producer(local_queue).send("a", "\ufffe and \uffff")
    [one] = received(local_queue)
    assert json.loads(one.body)["payload"] == "\ufffe and \uffff"


def test_many_messages_arrive_each_once_with_the_ids_in_order(local_queue):
    ids = Producer(local_queue).send_many(("a", number) for number in range(25))
    bodies = [json.loads(one.body) for one in received(local_queue)]
    assert {body["event_id"]: body["payload"] for body in bodies} == {ids[number]: number for number in range(25)}
    assert len(bodies) == 25


def test_a_message_of_exactly_one_mebibyte_arrives(local_queue):
    empty = len(json.dumps({"event_type": "a", "event_id": "1", "payload": ""}, separators=(",", ":")))
    text = "x" * (MAX_BYTES - empty)
    Producer(local_queue).send("a", text, event_id="1")
    [one] = received(local_queue)
    assert len(one.body) == MAX_BYTES
    with pytest.raises(ValueError, match=r"1,048,577 bytes, SQS takes 1,048,576"):
        Producer(local_queue).send("a", text + "x", event_id="1")


def test_a_job_and_a_plain_tuple_say_the_same(on):
    queue = ScriptedQueue()
    ids = on(queue).send_many([("a", 1, 5, "g", "one"), Outgoing("a", 1, delay=5, group="g", event_id="one")])
    assert ids == ["one", "one"]
    assert queue.calls[0][0] == queue.calls[0][1]
    assert (queue.calls[0][0].delay_seconds, queue.calls[0][0].group_id) == (5, "g")


def test_no_messages_are_no_call(on):
    queue = ScriptedQueue()
    assert on(queue).send_many([]) == []
    assert queue.calls == []


# --- what is refused before it is sent


@pytest.mark.parametrize("delay", [901, 900.5, -1, float("nan"), float("inf")])
def test_a_delay_that_sqs_does_not_know_names_the_service_that_does(on, delay):
    queue = ScriptedQueue()
    with pytest.raises(ValueError, match="0 to 900 seconds; EventBridge Scheduler"):
        on(queue).send("a", {}, delay=delay)
    assert queue.calls == []


def test_a_delay_is_whole_seconds_rounded_up(on):
    queue = ScriptedQueue()
    on(queue).send_many([("a", 1, 0.2), ("a", 2, MAX_DELAY_SECONDS), ("a", 3)])
    assert [entry.delay_seconds for entry in queue.calls[0]] == [1, 900, 0]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (("a", object()), TypeError),
        (("a", "\ud800"), ValueError),
        (("a", "x" * MAX_BYTES), ValueError),
        (("", {}), ValueError),
        ((None, {}), ValueError),
        (("a",), TypeError),
    ],
    ids=["no JSON", "lone surrogate", "1 MiB", "empty type", "no type", "no payload"],
)
def test_where_one_of_many_is_wrong_none_is_sent(on, wrong, error):
    queue = ScriptedQueue()
    with pytest.raises(error):
        on(queue).send_many([("a", {}), wrong, ("a", {})])
    assert queue.calls == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mails", "messages[1]: an Outgoing or a tuple is wanted, not 'str'"),
        ({"a": 1, "b": 2}, "messages[1]: an Outgoing or a tuple is wanted, not 'dict'"),
        (("a",), "messages[1]: 2 to 5 values are wanted (event_type, payload, delay, group, event_id)"),
        (("a", {}, "3"), "delay='3': a number of seconds is wanted"),
        (("a", {}, 0, 7), "group=7: a group is a text"),
    ],
    ids=str,
)
def test_a_wrong_item_is_told_by_its_place_and_what_is_wanted(on, wrong, said):
    queue = ScriptedQueue()
    with pytest.raises(TypeError) as caught:
        on(queue).send_many([("a", {}), wrong])
    assert str(caught.value) == said
    assert queue.calls == []


@pytest.mark.parametrize("url", ["http://host", "https://sqs.eu-west-1.amazonaws.com/", "https://host/123456789012/"])
def test_a_url_without_the_name_of_a_queue_is_refused(url):
    with pytest.raises(ValueError, match="the queue's name is missing"):
        Producer(url)


@pytest.mark.parametrize("url", [None, "", "local", "mails"])
def test_a_producer_without_the_url_of_a_queue_says_so_at_once(url):
    with pytest.raises(ValueError, match="the URL of a queue is needed"):
        Producer(url)


# --- ten to a call, and one mebibyte


@given(st.lists(st.integers(1, MAX_BYTES) | st.integers(1, MAX_BYTES // 8), max_size=60))
def test_batches_keep_the_order_and_both_limits_and_are_as_large_as_these_allow(sizes):
    found = list(batches([Sized(size) for size in sizes]))
    assert [index for batch in found for index in batch] == list(range(len(sizes)))
    room = [MAX_BYTES - sum(sizes[index] for index in batch) for batch in found]
    assert all(left >= 0 for left in room)
    assert all(1 <= len(batch) <= MAX_BATCH for batch in found)
    for batch, left, following in zip(found, room, found[1:], strict=False):
        assert len(batch) == MAX_BATCH or left < sizes[following[0]]


class Sized:
    def __init__(self, size: int) -> None:
        self.size = size


# --- what fails


def test_a_failed_entry_is_sent_again_as_it_was_and_alone(on, naps):
    queue = ScriptedQueue({1: HICCUP, 2: HICCUP}, {0: HICCUP})
    on(queue).send_many([("a", number) for number in range(4)])
    first, second, third = queue.calls
    assert second == first[1:3]
    assert third == first[1:2]
    assert len(naps) == 2
    assert 0 < naps[0] <= 0.2


def test_an_entry_that_is_the_senders_fault_is_not_sent_again_and_all_others_are_sent(on):
    queue = ScriptedQueue({}, {3: HICCUP, 4: REFUSED}, {0: REFUSED})
    with pytest.raises(SendError) as caught:
        on(queue).send_many([("a", number) for number in range(25)])
    reason = "InvalidMessageContents: no such character"
    assert caught.value.failed == [(13, reason), (14, reason)]
    sent = [content(entry) for call in queue.calls for entry in call]
    assert sorted(sent) == sorted([*range(25), 13])  # 13 alone was tried again


def test_an_entry_that_fails_each_time_is_named_with_its_last_reason(on, naps):
    queue = ScriptedQueue(*[{0: HICCUP}] * ATTEMPTS)
    with pytest.raises(SendError) as caught:
        on(queue).send("a", {})
    assert caught.value.failed == [(0, "InternalError: try again")]
    assert len(queue.calls) == ATTEMPTS
    assert len(naps) == ATTEMPTS - 1


@pytest.mark.parametrize(
    ("error", "longest"), [(Throttled("slow down", "RequestThrottled"), 1.0), (Unreachable(""), 0.2)]
)
def test_a_call_that_may_pass_is_made_again_with_the_same_entries_after_a_pause(on, naps, error, longest):
    queue = ScriptedQueue(error)
    on(queue).send_many([("a", 1), ("a", 2)])
    assert queue.calls[0] == queue.calls[1]
    assert longest / 2 <= naps[0] <= longest
    assert len(naps) == 1


@pytest.mark.parametrize(("error", "calls"), [(Unreachable("no answer"), ATTEMPTS), (Throttled("slow"), ATTEMPTS)])
def test_where_the_queue_cannot_be_reached_at_all_its_own_error_comes_out_soon(on, naps, error, calls):
    queue = ScriptedQueue(*[error] * 100)
    with pytest.raises(type(error)):
        on(queue).send_many([("a", number) for number in range(100)])
    assert len(queue.calls) == calls
    assert sum(naps) < 5


@pytest.mark.parametrize("error", [QueueMissing("gone"), AccessDenied("no right"), QueueError("odd")])
def test_what_cannot_pass_is_not_tried_again(on, naps, error):
    queue = ScriptedQueue(error)
    with pytest.raises(type(error)):
        on(queue).send("a", {})
    assert len(queue.calls) == 1
    assert naps == []


def test_where_calls_fail_after_some_were_sent_the_others_are_named(on):
    queue = ScriptedQueue({2: REFUSED}, {0: HICCUP}, *[Unreachable("no answer")] * (ATTEMPTS - 1))
    with pytest.raises(SendError) as caught:
        on(queue).send_many([("a", number) for number in range(23)])
    assert isinstance(caught.value.__cause__, Unreachable)
    reasons = dict(caught.value.failed)
    assert list(reasons) == [2, 10, 20, 21, 22]
    assert reasons.pop(2) == "InvalidMessageContents: no such character"
    assert set(reasons.values()) == {"no answer"}
    assert len(queue.calls) == 1 + ATTEMPTS


def test_a_queue_that_does_not_exist_is_missing(local_queue):
    with pytest.raises(QueueMissing):
        Producer(f"{local_queue}-nothing").send("a", {})


def test_a_port_where_nobody_listens_is_unreachable(naps):
    with pytest.raises(Unreachable):
        Producer("http://127.0.0.1:9/000000000000/q").send("a", {})
    assert len(naps) == ATTEMPTS - 1


def test_a_queue_without_a_region_is_a_finding_and_the_next_send_looks_again(monkeypatch, tmp_path):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    producer = Producer("https://vpce-1.sqs.amazonaws.com/1/q")
    for _ in range(2):
        with pytest.raises(ConfigError, match="names no region"):
            producer.send("a", {})
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with pytest.raises(QueueError):  # no keys, nobody there: but a region
        producer.send("a", {}, timeout=0.2)


# --- how long it may take


@pytest.fixture
def mute():
    """An endpoint that takes connections and requests, and never answers."""
    taken: list[Any] = []
    server = StreamServer(("127.0.0.1", 0), lambda sock, address: taken.append(sock) or gevent.sleep(60))
    server.start()
    yield f"http://127.0.0.1:{server.server_port}/000000000000/q"
    server.stop(0)
    for sock in taken:
        sock.close()


def seconds_of(call) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


@pytest.mark.clock
@pytest.mark.parametrize("client", ["wire", "boto3"])
@pytest.mark.parametrize(("own", "timeout", "wanted"), [(0.4, None, 0.4), (60, 0.4, 0.4)])
def test_a_send_that_is_never_answered_ends_in_time_and_says_that_it_may_have_been_sent(
    mute, monkeypatch, client, own, timeout, wanted
):
    monkeypatch.setenv("SQS_CLIENT", client)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    producer = Producer(mute, timeout=own)
    producer._queue()

    def send() -> None:
        # How many tries 0.4 s hold is up to the back-off's jitter; on a busy machine they can end in a dialling.
        told = r"(no answer in 0\.4 s( \([23] tries\))?|no connection to \S+: .+); it may have been sent all the same"
        with pytest.raises(Unreachable, match=told):
            producer.send("a", {}, timeout=timeout)

    assert wanted / 2 < seconds_of(send) < wanted + 1


@pytest.mark.clock
@pytest.mark.slow
def test_three_seconds_are_what_a_send_may_take_if_nobody_says_otherwise(mute):
    assert TIMEOUT_SECONDS == 3.0

    def send() -> None:
        with pytest.raises(Unreachable, match=r"no answer in 3 s \(3 tries\); it may have been sent"):
            Producer(mute).send_many([("a", number) for number in range(100)])

    assert 2 < seconds_of(send) < 5  # it ends with the first ten


def test_ten_messages_have_the_time_of_one_and_a_timeout_that_is_given_is_for_all(on, monkeypatch):
    now, asked = [1000.0], []
    monkeypatch.setattr("millpond.producer.monotonic", lambda: now[0])

    class Slow(ScriptedQueue):
        def send(self, entries: list[Entry], seconds: float) -> list[Failure | None]:
            asked.append(round(seconds, 3))
            now[0] += 1.0
            return [None] * len(entries)

    jobs = [("a", number) for number in range(30)]
    on(Slow()).send_many(jobs)
    assert asked == [1.5] * 3  # half of it: so that a second try has time
    asked.clear()
    on(Slow()).send_many(jobs, timeout=4)
    assert asked == [2.0, 1.5, 1.0]


def test_what_is_refused_when_the_time_is_over_is_told_and_not_offered_for_a_third_time(on, naps, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("millpond.producer.monotonic", lambda: now[0])
    queue = ScriptedQueue(*[{0: HICCUP}] * ATTEMPTS)
    send = queue.send

    def late(entries: list[Entry], seconds: float) -> list[Failure | None]:
        now[0] += 10
        return send(entries, seconds)

    queue.send = late  # type: ignore[method-assign]
    with pytest.raises(SendError, match="InternalError: try again"):
        on(queue).send("a", {})
    assert len(queue.calls) == 2
    assert naps == [0.0]


#: What a caller hears where a call did not come as far as its request; boto3 does not say how far it came.
WHERE = {"wire": "{}", "boto3": "no answer in"}
#: Seconds within which 0.3 of them are over; boto3 computes before it asks anybody, on a busy machine for four seconds.
WITHIN = {"wire": 1.5, "boto3": 10}


@pytest.mark.clock
@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_a_provider_of_keys_that_hangs_takes_no_longer_than_the_send_may(monkeypatch, client):
    monkeypatch.setenv("SQS_CLIENT", client)
    monkeypatch.setattr("botocore.credentials.CredentialResolver.load_credentials", lambda _: gevent.sleep(60))
    told = WHERE[client].format("credentials: their provider has not answered")

    def send() -> None:
        with pytest.raises(Unreachable, match=told) as caught:
            Producer("https://sqs.eu-west-1.amazonaws.com/1/q", timeout=0.3).send("a", {})
        assert client == "boto3" or "may have been sent" not in str(caught.value)

    assert seconds_of(send) < WITHIN[client]


@pytest.mark.clock
@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_a_name_that_is_not_looked_up_takes_no_longer_than_the_send_may(monkeypatch, client):
    monkeypatch.setenv("SQS_CLIENT", client)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: gevent.sleep(60))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    def send() -> None:
        with pytest.raises(Unreachable, match=WHERE[client].format("its address was not found in time")):
            Producer("https://sqs.eu-west-1.amazonaws.com/1/q", timeout=0.3).send("a", {})

    assert seconds_of(send) < WITHIN[client]


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_more_than_nothing(timeout):
    with pytest.raises(ValueError, match="it is a number of seconds above 0"):
        Producer(URL, timeout=timeout)
    with pytest.raises(ValueError, match="it is a number of seconds above 0"):
        Producer(URL).send("a", {}, timeout=timeout)


UNANSWERED = """
import sys, time, millpond
producer = millpond.Producer(sys.argv[1], timeout=0.5)
began = time.monotonic()
try:
    producer.send("a", 1)
except Exception as error:
    assert "may have been sent" in str(error) or time.monotonic() - began < 1, error
else:
    raise SystemExit("sent")
assert time.monotonic() - began < 10
assert "gevent" not in sys.modules
"""


@pytest.mark.clock
@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_an_unpatched_process_is_bounded_too(mute, client):
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    gevent.spawn(run, UNANSWERED, mute, SQS_CLIENT=client, **keys).get()


# --- what it costs, and who may share it


def run(code: str, *arguments: str, **environ: str) -> str:
    """A process of its own, not patched."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WEB_PROCESS = """
import os, sys, socket, threading
import millpond
producer = millpond.Producer(sys.argv[1])
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"gevent", "greenlet", "boto3", "botocore", "rich", "statsd"}, loaded
producer.send("a", {"from": "the web"})
loaded = {name.partition(".")[0] for name in sys.modules}
assert "botocore" in loaded and ("boto3" in loaded) == (os.environ.get("SQS_CLIENT") == "boto3"), loaded
assert not loaded & {"gevent", "greenlet", "rich", "statsd"}, loaded
assert socket.socket.__module__ == "socket", socket.socket
assert threading.Lock().__class__.__module__ == "_thread"
"""


def test_a_web_process_loads_no_gevent_and_botocore_only_at_its_first_send(local_queue):
    run(WEB_PROCESS, local_queue)
    [one] = received(local_queue)
    assert json.loads(one.body)["payload"] == {"from": "the web"}


def test_all_threads_share_one_client(monkeypatch):
    at_work, connected, queue = threading.Event(), [], ScriptedQueue()

    def connect(self):
        connected.append(1)
        at_work.wait()  # the others arrive meanwhile
        return queue

    monkeypatch.setattr(Producer, "_connect", connect)
    producer = Producer(URL)
    senders = [gevent.spawn(producer.send, "a", number) for number in range(20)]
    gevent.idle()
    at_work.set()
    gevent.joinall(senders, timeout=10, raise_error=True)
    assert sorted(content(entry) for [entry] in queue.calls) == list(range(20))
    assert len(connected) == 1


class Counted:
    """Before an SQS: how many connections it gets."""

    def __init__(self, url: str) -> None:
        host, port = urlsplit(url).hostname, urlsplit(url).port
        self._to = (host, port)
        self.connections = 0
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.url = url.replace(f":{port}", f":{self._server.server_port}")
        self.close = self._server.stop

    def _serve(self, sock: Any, address: object) -> None:
        self.connections += 1
        with sock, socket.create_connection(self._to) as other:
            ways = [gevent.spawn(self._copy, sock, other), gevent.spawn(self._copy, other, sock)]
            gevent.joinall(ways)

    def _copy(self, source: Any, target: Any) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


SHARED = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, millpond
from gevent.threadpool import ThreadPool
producer, threads = millpond.Producer(sys.argv[1], timeout=20), ThreadPool(4)
def work(name):
    for number in range(25):
        producer.send("a", [name, number])
workers = [threads.spawn(work, name) for name in range(4)]
workers += [gevent.spawn(work, name) for name in range(4, int(sys.argv[2]))]
for one in workers:
    one.get()
"""


@pytest.mark.slow
@pytest.mark.parametrize("client", ["wire", "boto3"])
@pytest.mark.parametrize("workers", [4, 8], ids=["threads alone", "beside greenlets"])
def test_thread_handlers_and_greenlets_share_one_producer(local_queue, client, workers):
    counted = Counted(local_queue)
    run(SHARED, counted.url, str(workers), SQS_CLIENT=client)
    payloads = sorted(json.loads(one.body)["payload"] for one in received(local_queue))
    assert payloads == [[name, number] for name in range(workers) for number in range(25)]
    assert counted.connections <= workers
    counted.close()


FORK = """
import os, signal, sys
import millpond
from millpond import producer
sender = millpond.Producer(sys.argv[1])
sender.send("a", "parent")
mine = sender._queue()
fresh = millpond.Producer(sys.argv[1])
with producer._connecting:  # as if another thread connected at this moment
    child = os.fork()
    if not child:
        signal.alarm(10)  # where it waits for a lock that nobody here holds
        assert sender._queue() is not mine
        sender.send("a", "child")
        fresh.send("a", "child, first send")
        os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert sender._queue() is mine
sender.send("a", "parent again")
"""


def test_a_forked_child_has_a_client_of_its_own_even_where_it_was_forked_during_a_connect(local_queue):
    run(FORK, local_queue)
    payloads = sorted(json.loads(one.body)["payload"] for one in received(local_queue))
    assert payloads == ["child", "child, first send", "parent", "parent again"]


def test_a_queue_on_this_machine_is_reached_past_a_proxy(local_queue):
    send = "import sys, millpond; millpond.Producer(sys.argv[1]).send('a', 1)"
    run(send, local_queue, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", NO_PROXY="", no_proxy="")
    assert len(received(local_queue)) == 1
