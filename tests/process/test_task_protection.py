"""Task protection: what is asked of the ECS agent and when; over a real socket, and by a real worker process."""

from __future__ import annotations

import json
import os
import re
from signal import SIGTERM

import gevent
import pytest
from gevent.event import Event

from millpond.errors import FINISHED
from millpond.process import ecs_agent
from millpond.process.ecs_agent import EcsAgent, ProtectionRefused
from millpond.process.task_protection import (
    FIRST_WAIT_SECONDS,
    IDLE_SECONDS,
    MOST_WAIT_SECONDS,
    PROTECTED_MINUTES,
    RENEW_SECONDS,
    Protection,
    TaskProtection,
)
from tests.handlers import Gate, fine
from tests.http_server import HANG_UP, Server
from tests.process.running import LONG, events
from tests.worker_process import WorkerProcess, local_sqs, write_project

#: Of the job of the real process; `TASK_JOB_SECONDS=60` is the long form.
JOB_SECONDS = float(os.environ.get("TASK_JOB_SECONDS", "1"))


# The decision


PROTECTED = Protection(until=1_000.0 + 2 * RENEW_SECONDS, covered=True)


@pytest.mark.parametrize(
    ("protection", "in_hand", "is_long", "idle_for", "ending", "after", "wish"),
    [
        (Protection(), 0, False, 0, False, 0, None),
        (Protection(), 1, False, 0, False, 0, True),
        (PROTECTED, 1, True, 0, False, RENEW_SECONDS - 1, None),
        (PROTECTED, 1, True, 0, False, RENEW_SECONDS, True),
        (PROTECTED, 1, True, 0, False, 9 * RENEW_SECONDS, True),  # it has run out, and one takes long
        (PROTECTED, 1, False, 0, False, RENEW_SECONDS, None),  # a drain waits for it
        (PROTECTED, 1, False, 0, False, 9 * RENEW_SECONDS, None),
        (PROTECTED, 0, False, IDLE_SECONDS - 1, False, 100, None),
        (PROTECTED, 0, False, IDLE_SECONDS, False, 100, False),
        (PROTECTED, 0, False, 0, True, 100, False),
        (PROTECTED, 3, True, 0, True, 100, False),
        (Protection(), 3, True, 0, True, 100, None),
        (PROTECTED, 0, False, 1e6, False, 2 * RENEW_SECONDS, None),  # it has run out
        (Protection(next_call=1_005.0, failures=1), 1, False, 0, False, 4, None),
        (Protection(next_call=1_005.0, failures=1), 1, False, 0, False, 5, True),
        (PROTECTED._replace(next_call=1_105.0, failures=1), 0, False, 1e6, False, 100, None),
        (PROTECTED._replace(next_call=1_105.0, failures=1), 0, False, 1e6, True, 100, False),
    ],
)
def test_protection_is_asked_for_renewed_and_given_up(protection, in_hand, is_long, idle_for, ending, after, wish):
    now = 1_000.0 + after
    assert protection.wish(in_hand, is_long, now - idle_for, ending, now) is wish


@pytest.mark.parametrize(
    ("after", "idle_for", "covered"),
    [
        (100, IDLE_SECONDS, True),  # it is given up first
        (2 * RENEW_SECONDS, IDLE_SECONDS - 1, True),
        (2 * RENEW_SECONDS, IDLE_SECONDS, False),
    ],
)
def test_after_an_idle_minute_the_next_message_is_the_first_one_again(after, idle_for, covered):
    assert PROTECTED.idle(1_000.0 + after - idle_for, 1_000.0 + after).covered is covered


def test_calls_that_fail_are_made_again_after_growing_waits_and_change_nothing_else():
    protection, waits = PROTECTED, []
    for _ in range(6):
        protection = protection.after(True, True, 1_000.0)
        waits.append(protection.next_call - 1_000.0)
    assert waits == [FIRST_WAIT_SECONDS, 10.0, 20.0, 40.0, MOST_WAIT_SECONDS, MOST_WAIT_SECONDS]
    assert protection.until == PROTECTED.until
    assert protection.after(False, False, 1_000.0) == Protection()
    assert Protection().after(True, False, 1_000.0) == Protection(1_000.0 + PROTECTED_MINUTES * 60, covered=True)


# A whole process on a virtual clock


class Agent:
    """Notes what it is asked, and when; refuses while `refuses` has a text, and answers once `answers` is set."""

    def __init__(self, clock):
        self.clock = clock
        self.calls = []
        self.refuses = ""
        self.answers = Event()
        self.answers.set()

    def protect(self, minutes):
        self._take(minutes)

    def give_up(self):
        self._take(0)

    def keep_open(self):
        if self.refuses:
            raise ProtectionRefused(self.refuses)

    def _take(self, minutes):
        self.calls.append((self.clock.now() - 1_000.0, minutes))
        self.answers.wait()
        if self.refuses:
            raise ProtectionRefused(self.refuses)


@pytest.fixture
def protected(process, clock):
    """protected(handlers, **settings) -> a running process, and its agent."""

    def make(*handlers, **settings):
        one = process(*handlers, start=False, **settings)
        one.agent = Agent(clock)
        one.protection = TaskProtection(one.core, one.agent)
        one.protection.start()
        one.start(followers=[one.protection])
        return one

    return make


def test_protection_is_asked_for_when_a_message_comes_and_given_up_when_idle_for_a_while(protected, clock):
    gate = Gate()
    one = protected({"job": gate}, timeout=1e6)
    clock.advance(5.5)
    assert one.agent.calls == []
    one.rig.put("job", {}, 3)
    clock.advance(0.1)
    ((when, minutes),) = one.agent.calls
    assert (round(when, 1), minutes) == (5.5, PROTECTED_MINUTES)
    clock.advance(20)
    gate.event.set()
    clock.advance(IDLE_SECONDS - 1)
    assert len(one.agent.calls) == 1
    clock.advance(10)
    assert [minutes for _, minutes in one.agent.calls] == [PROTECTED_MINUTES, 0]


def test_what_comes_within_the_while_costs_no_call_and_so_it_is_two_calls_a_minute_at_most(protected, clock):
    one = protected({"job": fine})
    for _ in range(100):
        one.rig.put("job")
        clock.advance(IDLE_SECONDS / 2)
    assert [minutes for _, minutes in one.agent.calls] == [PROTECTED_MINUTES]
    for _ in range(10):
        clock.advance(3 * IDLE_SECONDS)
        one.rig.put("job")
        clock.advance(0.1)
    times = [when for when, _ in one.agent.calls]
    assert min(later - earlier for earlier, later in zip(times, times[2:], strict=False)) >= IDLE_SECONDS


def test_protection_is_renewed_while_a_message_is_in_hand(protected, clock):
    one = protected({"job": Gate()}, timeout=1e6)
    one.rig.put("job")
    clock.advance(3 * RENEW_SECONDS + 60)
    assert [round(when / RENEW_SECONDS) for when, minutes in one.agent.calls if minutes] == [0, 1, 2, 3]


def test_a_worker_that_is_never_idle_holds_up_a_deployment_for_ten_minutes_and_as_long_as_a_long_handler(
    protected, clock
):
    gate = Gate()
    one = protected({"job": fine, "long": gate}, timeout=1e6, drain_seconds=30.0)
    for minute in range(40):
        if minute == 20:
            one.rig.put("long")
        if minute == 35:
            gate.event.set()
        one.rig.put("job")
        clock.advance(60 - 1)
        one.rig.put("job")
        clock.advance(1)
    assert {minutes for _, minutes in one.agent.calls} == {PROTECTED_MINUTES}
    assert [int(when / 60) for when, _ in one.agent.calls] == [0, 20, 25, 30]  # each five minutes after 20.5


def test_what_waits_for_a_slot_has_not_run_for_long(protected, clock):
    one = protected({"job": Gate()}, concurrency=1, prefetch=5, timeout=1e6, drain_seconds=30.0)
    one.rig.put("job", {}, 3)
    clock.advance(20)
    assert (one.rig.consumer.in_hand, one.rig.consumer.ready) == (3, 2)
    assert not one.protection._is_long(clock.now())
    clock.advance(11)
    assert one.protection._is_long(clock.now())


def test_a_drain_is_protected_and_its_end_is_not(protected, clock):
    gate = Gate()
    one = protected({"job": gate}, drain_seconds=LONG)
    one.rig.put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(30)
    assert len(one.agent.calls) == 1
    gate.event.set()
    clock.advance(1)
    assert one.exit_code == FINISHED
    assert [minutes for _, minutes in one.agent.calls] == [PROTECTED_MINUTES, 0]


def test_no_message_and_no_exit_waits_for_an_agent_that_does_not_answer(protected, clock):
    one = protected({"job": fine})
    one.agent.answers.clear()
    (message_id,) = one.rig.put("job")
    clock.advance(1)
    assert one.rig.queue.deleted == {message_id: 1}
    one.signal(SIGTERM)
    clock.advance(22)
    assert one.exit_code == FINISHED


def test_an_agent_that_refuses_is_one_warning_and_the_work_goes_on(protected, clock, caplog):
    caplog.set_level("INFO")
    one = protected({"job": Gate()}, timeout=1e6)
    one.agent.refuses = "ECS refuses: AccessDeniedException"
    one.rig.put("job")
    clock.advance(600)
    assert 10 <= len(one.agent.calls) <= 16
    said = [record for record in caplog.records if getattr(record, "event", "").startswith("protection.")]
    assert [record.getMessage() for record in said] == [
        "cannot protect this task: ECS refuses: AccessDeniedException; the work goes on, and it is tried again"
    ]
    one.agent.refuses = ""
    clock.advance(120)
    assert [name for name in events(caplog) if name.startswith("protection.")] == [
        "protection.failed",
        "protection.resumed",
    ]


# The agent, over a real socket


def answer(body: object, status: str = "200 OK") -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        status.encode(),
        len(text),
        text,
    )


def state(enabled: bool) -> bytes:
    date = "2026-11-26T14:00:00Z" if enabled else None
    arn = "arn:aws:ecs:us-west-2:111122223333:task/1234567890abcdef0"
    return answer({"protection": {"ExpirationDate": date, "ProtectionEnabled": enabled, "TaskArn": arn}})


@pytest.fixture
def stand_in():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def agent(stand_in):
    one = EcsAgent(f"{stand_in.url}/api/1234")
    yield one
    one._connection.close()


def wishes(stand_in):
    return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in stand_in.requests]


def test_the_agent_is_asked_as_ecs_documents_it_over_one_connection(agent, stand_in):
    stand_in.script += [state(True), state(False)]
    agent.keep_open()
    agent.protect(60)
    agent.give_up()
    assert wishes(stand_in) == [{"ProtectionEnabled": True, "ExpiresInMinutes": 60}, {"ProtectionEnabled": False}]
    first, *lines = stand_in.requests[0].decode().split("\r\n")
    assert first == "PUT /api/1234/task-protection/v1/state HTTP/1.1"
    assert "Content-Type: application/json" in lines
    assert stand_in.connections == 1


def test_a_connection_that_the_agent_has_closed_is_opened_again_at_the_next_look(agent, stand_in):
    stand_in.script += [[state(True), HANG_UP], state(False)]
    agent.protect(60)
    with gevent.Timeout(5):
        stand_in.wait_until_open(0)
        agent.keep_open()
        stand_in.wait_until_open(1)
    agent.give_up()
    assert len(stand_in.requests) == stand_in.connections == 2


def test_a_call_that_finds_its_connection_closed_is_made_once_more(agent, stand_in):
    stand_in.script += [[state(True), HANG_UP], [HANG_UP], state(False)]
    agent.protect(60)
    stand_in.wait_until_open(0)
    with pytest.raises(ProtectionRefused, match="cannot ask the ECS agent"):
        agent.give_up()
    agent.give_up()


ARN = "arn:aws:ecs:us-west-2:555555555555:task/my-cluster-name/1234567890abcdef0"
DENIED = {"Arn": ARN, "Code": "AccessDeniedException", "Message": "User: x is not authorized to perform: y"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (answer({"failure": {"Arn": ARN, "Detail": None, "Reason": "TASK_NOT_VALID"}}), "ECS refuses: TASK_NOT_VALID"),
        (
            answer({"requestID": "12345", "error": DENIED}, "400 Bad Request"),
            "ECS refuses: AccessDeniedException: User: x is not authorized to perform: y",
        ),
        (
            answer({"error": {"Arn": ARN, "Code": "RequestCanceled", "Message": "Timed out"}}, "504 Gateway Timeout"),
            "ECS refuses: RequestCanceled: Timed out",
        ),
        (state(False), "ECS refuses: without a reason"),
        (answer({"protection": "yes"}), "ECS refuses: without a reason"),
        (answer({"failure": "no"}), "ECS refuses: without a reason"),
        (answer([]), "the answer of the ECS agent is not what it should be"),
        (answer({"failure": 7}), "the answer of the ECS agent is not what it should be"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno!", "the answer of the ECS agent is not what it should be"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "the answer of the ECS agent is not what it should be"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "cannot ask the ECS agent: BadStatusLine: SSH-2.0-OpenSSH"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{", HANG_UP], "cannot ask the ECS agent: "),
    ],
)
def test_whatever_else_the_agent_says_is_a_refusal_with_its_reason(agent, stand_in, said, reason):
    stand_in.script.append(said)
    with pytest.raises(ProtectionRefused) as caught:
        agent.protect(60)
    assert str(caught.value).startswith(reason)


def test_an_agent_that_is_not_there_or_does_not_answer_is_a_refusal_in_time(stand_in, monkeypatch):
    monkeypatch.setattr(ecs_agent, "AGENT_SECONDS", 0.1)
    held = Event()
    stand_in.script.append([held.wait])
    with pytest.raises(ProtectionRefused, match="TimeoutError"):
        EcsAgent(stand_in.url).protect(60)
    held.set()
    stand_in.close()
    for call in (EcsAgent(stand_in.url).keep_open, EcsAgent(stand_in.url).give_up):
        with pytest.raises(ProtectionRefused, match="cannot ask the ECS agent: ConnectionRefusedError"):
            call()


@pytest.mark.parametrize("uri", ["", "169.254.170.2/api", "https://169.254.170.2/api", "http:///api", "http://a:b/"])
def test_a_uri_that_is_none_is_refused(uri):
    with pytest.raises(ValueError, match=r"ECS_AGENT_URI|Port"):
        EcsAgent(uri)


# A real process


HANDLERS = """
import os, time, urllib.request
from millpond import handler

def mark(what):
    urllib.request.urlopen(os.environ["MARKS"] + what, b"mark").read()

@handler("job", timeout=600)
def job(seconds: float) -> None:
    mark("/began")
    time.sleep(seconds)
    mark("/ended")
"""


class EcsStandIn(Server):
    """Protects whoever asks; what the job marks is among its requests."""

    def _answer(self, sock, step):
        head, _, body = self.requests[-1].partition(b"\r\n\r\n")
        super()._answer(sock, state(json.loads(body)["ProtectionEnabled"]) if head.startswith(b"PUT") else step)


@pytest.fixture
def ecs():
    server = EcsStandIn()
    yield server
    server.close()


@pytest.mark.slow
def test_a_job_that_outlasts_sigterm_has_protection_on_before_it_begins_and_off_after_it_has_ended(tmp_path, ecs):
    with local_sqs(tmp_path) as queues:
        url = queues.create("q")
        config = f"""
            [worker]
            handlers = ["jobs"]
            drain_seconds = 110
            [queues.q]
            url = "{url}"
            wait_seconds = 1
            [platform]
            task_protection = "auto"
        """
        folder = write_project(tmp_path / "project", HANDLERS, config)
        place = {"ECS_AGENT_URI": f"{ecs.url}/api/1", "MARKS": ecs.url}
        with WorkerProcess(folder, **place) as worker:
            worker.expect("worker.ready")
            queues.send("q", "job", JOB_SECONDS)
            with gevent.Timeout(20):
                while len(ecs.requests) < 2:
                    gevent.sleep(0.01)
            worker.signal(SIGTERM)
            worker.expect("worker.draining", in_hand=1)
            assert [paths(ecs), wishes_of_puts(ecs)] == [["state", "began"], [True]]
            assert worker.exit_code(JOB_SECONDS + 20) == 0
    assert paths(ecs) == ["state", "began", "ended", "state"]
    assert wishes_of_puts(ecs) == [True, False]


def paths(ecs: Server) -> list[str]:
    return [re.split(r"[ /]", request.decode().partition(" HTTP")[0])[-1] for request in ecs.requests]


def wishes_of_puts(ecs: Server) -> list[bool]:
    puts = [request for request in ecs.requests if request.startswith(b"PUT")]
    return [json.loads(request.partition(b"\r\n\r\n")[2])["ProtectionEnabled"] for request in puts]
