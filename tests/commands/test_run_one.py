"""`worker.py run`: one message by hand."""

import itertools
import logging
import signal

import pytest

from millpond.commands.cli import main
from tests.worker_process import WorkerProcess, write_project

NUMBERS = itertools.count()
HANDLERS = """
import time
import msgspec
from millpond import Message, Reject, Retry, Unavailable, handler

class Settings(msgspec.Struct):
    pass

def setup(settings: Settings) -> None:
    print("set up")

def teardown() -> None:
    print("torn down")

@handler("ok")
def ok(number: int, message: Message) -> None:
    print("number", number, "attempt", message.attempt, "event", message.event_id)

@handler("reject")
def reject(number: int) -> None:
    raise Reject("never")

@handler("later")
def later(number: int) -> None:
    raise Retry("not now", after=60)

@handler("fails")
def fails(number: int) -> None:
    raise ValueError("boom")

@handler("slow", timeout=0.2)
def slow(number: int) -> None:
    time.sleep(30)

@handler("follows")
def follows(number: int, message: Message) -> None:
    message.follow_up({"next": number})

@handler("once", idempotent=True, thread=True)
def once(number: int) -> None:
    print("once", number)
"""


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """run(type, payload, ...) -> the exit code, and what was printed."""
    package = f"run_one_{next(NUMBERS)}"
    config = f'[worker]\nhandlers = ["{package}"]\n[queues.q]\nurl = "local"\n'
    monkeypatch.chdir(write_project(tmp_path, HANDLERS, config, package))
    monkeypatch.setattr("millpond.commands.run_one.prepare_process", lambda: None)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(*arguments):
        code = main(["run", *arguments])
        root.handlers[:] = handlers
        root.setLevel(level)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_message_runs_by_hand_with_setup_and_teardown(run):
    code, out, _ = run("ok", "7", "--attempt", "3", "--event-id", "e-1")
    assert code == 0
    lines = out.splitlines()
    assert lines[:3] == ["set up", "number 7 attempt 3 event e-1", "torn down"]
    assert lines[3].startswith("ok: succeeded in 0.0")


@pytest.mark.parametrize(
    ("event_type", "said"),
    [
        ("reject", "reject: dead_lettered (rejected)"),
        ("later", "a worker would make it visible again in 60 seconds"),
        ("fails", "error: ValueError: boom"),
        ("slow", "slow: retried (timed_out)"),
    ],
)
def test_what_does_not_succeed_is_exit_1_and_says_why(run, event_type, said):
    code, out, _ = run(event_type, "7")
    assert code == 1
    assert said in out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_traceback_after_the_teardown(tmp_path, number):
    code = HANDLERS.replace("time.sleep(30)", 'print("begun", flush=True); time.sleep(30)').replace("0.2", "60")
    folder = write_project(tmp_path, code, '[worker]\nhandlers = ["jobs"]\n[queues.q]\nurl = "local"\n', "jobs")
    with WorkerProcess(folder, "run", "slow", "7") as process:
        process.expect("", message="begun")
        process.signal(number)
        assert process.exit_code() == 1
    assert process.lines[-1]["message"] == "torn down"
    assert process.stderr == "slow: interrupted, its handler had not ended\n"


def test_the_traceback_of_a_failure_is_on_standard_error(run):
    assert 'raise ValueError("boom")' in run("fails", "1")[2]


def test_a_follow_up_is_shown_and_not_sent(run):
    code, out, _ = run("follows", "4")
    assert code == 0
    assert 'follow-up, which is not sent: {"event_type"' in out


def test_an_idempotent_handler_runs_without_a_claim_each_time(run):
    for _ in range(2):
        code, out, _ = run("once", "5")
        assert (code, "once 5" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing", "1"), "no handler takes nothing; there are: fails, follows, later"),
        (("folow", "1"), "no handler takes folow; did you mean follows?"),
        (("ok", "{"), "PAYLOAD is not valid JSON"),
        (("ok", "@nowhere.json"), "cannot be read"),
    ],
)
def test_what_cannot_run_is_exit_3(run, arguments, said):
    code, _, err = run(*arguments)
    assert code == 3
    assert said in err


def test_a_payload_that_does_not_fit_says_where(run):
    code, out, _ = run("ok", '"seven"')
    assert (code, "Expected `int`, got `str`" in out) == (1, True)
