"""`worker.py status`, `top` and the commands that steer: which workers they find, what they print, their exit codes."""

import socket

import gevent
import msgspec
import pytest
from msgspec.structs import replace

from millpond.commands import steer
from millpond.commands.cli import main
from millpond.commands.status_page import MAX_SHOWN_RUNNING, status_page
from millpond.commands.steer import FoundWorker, fetch_snapshot
from millpond.observe.last_hour import MinuteSummary
from millpond.process.control import ControlAnswer
from millpond.process.failure_groups import FailureGroup
from millpond.process.snapshot import RunningSnapshot, snapshot_json
from tests.http_server import Server
from tests.process.snapshots import FULL

RUNNING = RunningSnapshot(
    event_type="email.send",
    event_id="e-1",
    message_id="m-1",
    queue="emails",
    attempt=2,
    seconds=12.3,
    limit_seconds=60.0,
    lease_seconds_left=48.0,
    interrupted=False,
    stands_at="handlers/email.py:12 in send_email",
)


def worker(pid, name):
    return replace(FULL, worker=replace(FULL.worker, pid=pid, name=name))


@pytest.fixture
def workers(monkeypatch):
    """Two workers that run, and what each was asked for: [(address, order)]."""
    found = [FoundWorker("one", worker(11, "a")), FoundWorker("two", worker(22, "b"))]
    orders = []

    def ask(address, order):
        orders.append((address, order.do, order.queue, order.value))
        return ControlAnswer(done=order.queue != "nowhere", text=f"{address} says so")

    monkeypatch.setattr(steer, "find_workers", lambda: list(found))
    monkeypatch.setattr(steer, "ask", ask)
    orders.append(found)
    return found, orders


def test_where_several_run_one_is_to_be_chosen(workers, capsys):
    _, orders = workers
    assert main(["quiet"]) == 3
    err = capsys.readouterr().err
    assert "2 workers run here: choose by --worker ID, or all by --all" in err
    assert "  11  a" in err
    assert len(orders) == 1  # none was asked


@pytest.mark.parametrize("which", ["22", "b"])
def test_one_is_chosen_by_its_process_id_or_its_name(workers, capsys, which):
    _, orders = workers
    assert main(["level", "debug", "--worker", which]) == 0
    assert orders[1:] == [("two", "level", "", "debug")]
    assert capsys.readouterr().out == "pid 22: two says so\n"


def test_all_are_asked_by_all_and_one_refusal_is_exit_1(workers):
    found, orders = workers
    assert main(["weight", "emails", "3", "--all"]) == 0
    assert orders[1:] == [("one", "weight", "emails", "3"), ("two", "weight", "emails", "3")]
    assert main(["quiet", "nowhere", "--all"]) == 1
    del found[1]
    assert main(["resume"]) == 0  # the only one need not be chosen


def test_a_worker_that_has_just_ended_is_exit_1(workers, monkeypatch, capsys):
    def gone(address, order):
        raise ConnectionRefusedError("gone")

    monkeypatch.setattr(steer, "ask", gone)
    assert main(["dump", "--worker", "11"]) == 1
    assert "pid 11 does not answer: gone" in capsys.readouterr().err


def test_where_none_runs_it_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(steer, "find_workers", list)
    for arguments in (["status"], ["quiet"], ["top"]):
        assert main(arguments) == 1
        assert "no worker answers on this machine" in capsys.readouterr().err


def test_a_mistyped_worker_is_met_by_those_that_run(workers, capsys):
    for command in (["status"], ["dump"]):
        assert main([*command, "--worker", "c"]) == 1
        assert capsys.readouterr().err == "no worker c runs here; there are: a, b\n"


def test_the_workers_of_one_parent_are_chosen_by_the_name_of_their_settings(workers, capsys):
    found, orders = workers
    found[:] = [FoundWorker(f"at {name}", worker(1, name)) for name in ("web-1", "web-2", "web-2b", "webs-1")]
    assert main(["quiet", "--worker", "web"]) == 0
    assert [order[0] for order in orders[1:]] == ["at web-1", "at web-2"]
    capsys.readouterr()
    assert main(["status", "--worker", "web-2", "--json"]) == 0  # the whole name comes first
    [line] = capsys.readouterr().out.splitlines()
    assert msgspec.json.decode(line)["worker"]["name"] == "web-2"


def test_workers_are_listed_by_their_names_with_a_line_between(monkeypatch, capsys):
    names = ["web-10", "web-2", "b"]
    answers = {name: ControlAnswer(True, "", worker(1, name)) for name in names}
    monkeypatch.setattr(steer, "addresses", lambda: names)
    monkeypatch.setattr(steer, "ask", lambda address, order: answers[address])
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = [index for index, line in enumerate(lines) if " (pid 1, " in line]
    assert [lines[index].split()[0] for index in first] == ["b", "web-2", "web-10"]
    assert [lines[index - 1] for index in first[1:]] == ["", ""]


def test_a_worker_whose_hub_is_held_up_is_named_beside_the_others(monkeypatch, capsys):
    def ask(address, order):
        if "held" in address:
            raise TimeoutError("timed out")
        return ControlAnswer(True, "", worker(1, "well"))

    monkeypatch.setattr(steer, "addresses", lambda: ["\0millpond-control-0/4711-held", "well"])
    monkeypatch.setattr(steer, "ask", ask)
    assert main(["status"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("well (pid 1, ")
    said = "pid 4711 has not answered in 5 s: a handler holds up its hub; `kill -QUIT 4711` writes into its log"
    assert err.startswith(said)


def test_status_is_a_sentence_and_tables_or_json(workers, capsys):
    assert main(["status", "--worker", "a"]) == 0
    text = capsys.readouterr().out
    assert "a (pid 11, version 1) is running, up for 1000 s: 20 of 100 slots busy, 25 messages in hand" in text
    assert main(["status", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [msgspec.json.decode(line)["worker"]["pid"] for line in lines] == [11, 22]


def test_the_tables_have_what_waits_what_is_dead_the_breaker_and_what_runs():
    [queue] = FULL.queues
    queue = replace(queue, depth=replace(queue.depth, asked=FULL.taken - 41))
    lines = status_page(replace(FULL, queues=[queue], running=[RUNNING], running_number=1))
    by_word = {line.split()[0]: line for line in lines if line}
    assert by_word["emails"].split()[-7:] == ["970", "0", "900", "3", "41", "s", "ago"]  # SQS was asked then
    assert "open: down" in "\n".join(lines)
    assert lines[-1].split() == [
        "email.send",
        "emails",
        "e-1",
        "2",
        "12.3",
        "48",
        "s",
        "handlers/email.py:12",
        "in",
        "send_email",
    ]


def test_the_times_of_the_last_minute_are_shown_where_the_page_is_on():
    numbers = {"ended": 150, "failed": 3, "failed_percent": 1.0, "wait_p50": None, "wait_p95": None}
    minute = MinuteSummary(seconds=30.0, run_p50=0.024, run_p95=12.04, **numbers)
    [kind] = FULL.types
    other = replace(kind, event_type="other")
    lines = status_page(replace(FULL, types=[replace(kind, minute=minute), other]))
    by_word = {line.split()[0]: line for line in lines if line}
    assert by_word["email.send"].split()[4:11] == ["300", "1.0", "%", "0.024", "s", "12.0", "s"]
    assert by_word["other"].split()[4:6] == ["0", "0"]
    assert "p95" in by_word["type"]
    assert "p95" not in "\n".join(status_page(FULL))


def test_what_has_failed_stands_between_the_types_and_what_runs():
    group = FailureGroup(
        "email.send", "KeyError: <text>", "failed", 3, 0.0, FULL.taken - 7, "e-9", "KeyError: 'x'", "emails"
    )
    lines = status_page(replace(FULL, running=[RUNNING], running_number=1, failures=[group] * 6))
    first = next(index for index, line in enumerate(lines) if line.startswith("failing "))
    assert lines[first].split() == ["failing", "queue", "count", "last", "example", "error"]
    assert lines[first + 1].split() == ["email.send", "emails", "3", "7", "s", "ago", "e-9", "KeyError:", "'x'"]
    assert [lines[first - 1], lines[first + 6], lines[first + 7].split()[0]] == ["", "", "running"]


def test_what_failed_of_a_queue_is_what_the_page_and_the_error_rate_count():
    """Rejected and undecodable ones were left out: with every message refused the column said 0."""
    causes = {"failed": 1, "timed_out": 20, "rejected": 300, "undecodable": 4_000, "unavailable": 50_000}
    lines = status_page(replace(FULL, queues=[replace(FULL.queues[0], causes=causes)]))
    [head] = [line for line in lines if line.startswith("queue ")]
    [row] = [line for line in lines if line.startswith("emails ")]
    assert row[head.index("failed") :].split()[0] == "4,321"


def test_rates_are_of_the_time_between_two_looks():
    later = replace(FULL, taken=FULL.taken + 2.0, queues=[replace(FULL.queues[0], outcomes={"succeeded": 990})])
    [row] = [line for line in status_page(later, FULL) if line.startswith("emails")]
    assert " 10.0 " in row


def test_what_is_not_listed_is_counted():
    many = replace(FULL, running=[RUNNING] * 50, running_number=60)
    assert status_page(many)[-1] == f"and {60 - MAX_SHOWN_RUNNING} more"


@pytest.fixture
def page():
    server = Server()
    yield server
    server.close()


def answer(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("end", ["", "/", "/status"])
def test_a_worker_elsewhere_is_asked_by_its_page(page, end):
    page.script.append(answer(snapshot_json(FULL)))
    assert gevent.spawn(fetch_snapshot, page.url + end).get(timeout=5) == FULL
    assert page.requests[0].startswith(b"GET /status HTTP/1.1")


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b""])
def test_what_is_no_page_of_a_worker_is_named_and_exit_1(page, capsys, body):
    page.script.append(answer(body))
    assert main(["status", "--url", page.url]) == 1
    assert f"{page.url} does not answer as the page of a worker does" in capsys.readouterr().err


def test_a_refused_connection_is_named_without_its_number(capsys):
    with socket.socket() as nobody:  # bound, and it does not listen
        nobody.bind(("127.0.0.1", 0))
        assert main(["status", "--url", f"127.0.0.1:{nobody.getsockname()[1]}"]) == 1
    said = capsys.readouterr().err
    assert "Connection refused" in said
    assert "Errno" not in said


def test_a_url_of_another_scheme_is_not_opened(capsys):
    assert main(["status", "--url", "file:///etc/passwd"]) == 1
    assert "a URL begins with http:// or https://" in capsys.readouterr().err
