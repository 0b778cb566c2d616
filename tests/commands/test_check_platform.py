"""What `check` says of the platform: grace period, memory, systemd's watchdog, task protection, the HTTP port."""

from __future__ import annotations

import socket

import pytest

from millpond.app.config import load
from millpond.commands.check_platform import check_platform
from tests.worker_process import write_project


@pytest.fixture
def found(tmp_path):
    """found(text of config.toml, **environ) -> (level, text) of each finding, by where it is."""

    def found(text: str = "", docker: bool = False, memory: str = "max", **environ: str):
        write_project(tmp_path, "", f'[queues.q]\nurl = "https://sqs.eu-west-1.amazonaws.com/1/q"\n{text}')
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text("0::/\n")
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(memory)
        if docker:
            (tmp_path / ".dockerenv").touch()
        findings = check_platform(load(tmp_path / "config.toml", environ), environ, tmp_path)
        return [(one.level, one.where, one.text) for one in findings]

    return found


@pytest.mark.parametrize(
    ("text", "environ", "level", "finding"),
    [
        ("", {}, "note", "this is neither Heroku nor ECS nor Kubernetes nor systemd nor Docker"),
        ("", {"DYNO": "worker.1"}, "ok", "Heroku kills 30 s after SIGTERM, always; drain_seconds = 25 fits into that"),
        (
            "[worker]\ndrain_seconds = 26",
            {"DYNO": "worker.1"},
            "warning",
            "Heroku kills 30 s after SIGTERM, always: drain_seconds = 26 may be too long, 25 leaves room for the end",
        ),
        (
            "[worker]\ndrain_seconds = 100",
            {"ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/x"},
            "warning",
            "ECS kills 30 s after SIGTERM, or later by stopTimeout, which Fargate takes up to 120 s: drain_seconds = "
            "100 may be too long, 25 leaves room for the end; [platform] grace_seconds says what it is, where it is "
            "longer",
        ),
        (
            "[worker]\ndrain_seconds = 100\n[platform]\ngrace_seconds = 120",
            {"ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/x"},
            "ok",
            "ECS kills 120 s after SIGTERM; drain_seconds = 100 fits into that",
        ),
        (
            "[worker]\ndrain_seconds = 116\n[platform]\ngrace_seconds = 120",
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            "warning",
            "Kubernetes kills 120 s after SIGTERM: drain_seconds = 116 may be too long, 115 leaves room for the end",
        ),
        (
            "[platform]\ngrace_seconds = 60",
            {},
            "ok",
            "the platform kills 60 s after SIGTERM; drain_seconds = 25 fits into that",
        ),
        (
            '[worker]\ndrain_seconds = "until done"',
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            "warning",
            'drain_seconds = "until done": Kubernetes kills 30 s after SIGTERM, or later by '
            "terminationGracePeriodSeconds, "
            "which may be as long as the longest handler; what is killed runs again a visibility time-out later",
        ),
        (
            "",
            {"INVOCATION_ID": "1"},
            "ok",
            "systemd kills 90 s after SIGTERM, or later by TimeoutStopSec; drain_seconds = 25 fits into that",
        ),
        (
            '[worker]\ndrain_seconds = "until done"',
            {"INVOCATION_ID": "1", "NOTIFY_SOCKET": "/run/systemd/notify"},
            "ok",
            "systemd waits as long as the drain takes, since the worker asks for more time (EXTEND_TIMEOUT_USEC)",
        ),
    ],
)
def test_the_drain_is_weighed_against_the_grace_period(found, text, environ, level, finding):
    assert found(text, **environ) == [(level, "platform", finding)]


def test_docker_alone_kills_after_ten_seconds_and_is_a_note_since_what_runs_it_is_not_known(found):
    ((level, _, text),) = found(docker=True)
    assert (level, text.partition(":")[0]) == (
        "note",
        "Docker kills 10 s after SIGTERM, or later by docker stop --timeout, or stop_grace_period of compose",
    )


@pytest.mark.parametrize(("mebibytes", "level"), [(209, "warning"), (210, "ok")])
def test_messages_that_may_not_fit_into_the_memory_are_a_warning(found, mebibytes, level):
    findings = found(memory=str(mebibytes * 2**20))
    assert (level, "memory") in [finding[:2] for finding in findings]
    assert findings[0][2] == (
        f"{mebibytes} MiB are here; a worker without messages takes 50 MiB, and large messages in hand up to 160 MiB "
        "more (max_bytes_in_flight); your handlers come on top"
    )


@pytest.mark.parametrize(("usec", "warned"), [("120000000", True), ("121000000", False), ("x", False), ("", False)])
def test_a_watchdog_of_systemd_that_comes_before_ours_is_a_warning(found, usec, warned):
    texts = [text for level, _, text in found(WATCHDOG_USEC=usec) if level == "warning"]
    assert texts == ["WatchdogSec is 120 s: make it longer than max_block_seconds, which is 120, so that the log says "
                     "which handler blocks the worker"] * warned  # fmt: skip


@pytest.mark.parametrize(("agent", "text"), [("", "does nothing here"), ("http://169.254.170.2/api/x", "UpdateTask")])
def test_task_protection_says_what_it_needs(found, agent, text):
    (finding,) = [one for one in found('[platform]\ntask_protection = "AUTO"', ECS_AGENT_URI=agent) if text in one[2]]
    assert finding[:2] == ("note", "platform")


def test_a_port_of_http_that_is_taken_is_a_note(found):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = f"listen = 0.0.0.0:{port} is in use: while that program runs, no worker can start"
        assert ("note", "http", text) in found(f'[http]\nlisten = "0.0.0.0:{port}"')


@pytest.mark.parametrize(("port", "number", "wrong"), [(65535, 1, 0), (65533, 3, 0), (65534, 3, 1), (8080, 3, 0)])
def test_processes_for_which_there_is_no_port_left_are_an_error(found, port, number, wrong):
    findings = found(f'[worker]\nprocesses = {number}\n[http]\nlisten = "127.0.0.1:{port}"')
    assert [text for level, where, text in findings if (level, where) == ("error", "http")] == [
        f"listen = 127.0.0.1:{port} leaves no port of its own to each of {number} processes"
    ] * wrong


@pytest.mark.parametrize("listen", ["8080", ":8080", "a:65536", "http://a:80", "a b:1", "fd00::1:80", "[fd00::1]"])
def test_a_place_to_listen_that_is_none_is_refused(found, listen):
    with pytest.raises(Exception, match=r'an address and a port, "127\.0\.0\.1:8080"'):
        found(f'[http]\nlisten = "{listen}"')


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:65535", ("::1", 65535)), ("localhost:80", ("localhost", 80))],
)
def test_a_place_to_listen_is_a_host_and_a_port(tmp_path, listen, address):
    folder = write_project(tmp_path, "", f'[queues.q]\nurl = "local"\n[http]\nlisten = "{listen}"')
    assert load(folder / "config.toml", {}).http.listen == listen
    assert load(folder / "config.toml", {}).http.address == address
