"""The test kit, as the tests of an application use it."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from urllib.parse import urlsplit

import pytest
from gevent import monkey

from millpond import testing
from millpond.errors import ConfigError
from millpond.message import Outcome
from millpond.sqs.clients import connect
from millpond.sqs.redrive import read_redrive
from millpond.testing import configure, deliver

ROOT = Path(__file__).parent.parent
local_queue = testing.local_queue
_numbers = itertools.count(1)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes an application's files and makes deliver find them. The folder of its handlers has a name of its own."""
    name = f"kit{next(_numbers)}"
    monkeypatch.setattr(testing, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    testing._project.cache_clear()

    def project(config: str = "", **files: str) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        for file, text in files.items():
            (tmp_path / name / f"{file}.py").write_text(dedent(text))
        text = f'[worker]\nhandlers = ["{name}"]\n[queues.q]\nurl = "local"\n{dedent(config)}'
        (tmp_path / "config.toml").write_text(text)
        return name

    yield project
    testing._project.cache_clear()
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


GREET = """
from millpond import Message, Retry, handler
import msgspec

class Greeting(msgspec.Struct):
    to: list[str]

@handler("greet")
def greet(greeting: Greeting, message: Message) -> None:
    seen.append(message)
    if greeting.to == ["later"]:
        raise Retry("not now", after=7)
    if greeting.to == ["never"]:
        raise RuntimeError("broken")

seen = []
"""


def test_a_payload_reaches_its_handler_decoded(project):
    name = project(greet=GREET)
    assert deliver("greet", {"to": ["you"]}) == Outcome("succeeded")
    [message] = sys.modules[f"{name}.greet"].seen
    assert (message.event_type, message.attempt, message.queue, message.attributes) == ("greet", 1, "test", {})
    assert json.loads(message.body)["event_id"] == message.event_id


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("patched", [True, False])
def test_a_handler_in_a_thread_may_start_processes(project, tmp_path, patched, code):
    project(
        job="""
        import asyncio, subprocess, sys
        from millpond import handler

        @handler("job", thread=True)
        def job(code: int) -> None:
            asyncio.run(start(code))
            subprocess.run([sys.executable, "-c", f"raise SystemExit({code})"], check=True)

        async def start(code):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", f"raise SystemExit({code})")
            assert await process.wait() == code
        """
    )
    patch = "from gevent import monkey; monkey.patch_all()" if patched else ""
    program = f"{patch}\nfrom millpond.testing import deliver\nprint(deliver('job', {code}))"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"name='{'retried' if code else 'succeeded'}'" in ended.stdout
    assert ("returned non-zero exit status 3" in ended.stdout) is bool(code)


def test_a_type_that_a_prefix_takes_has_its_module_set_up(project):
    name = project(
        pictures="""
        import msgspec
        from millpond import Message, handler

        class Settings(msgspec.Struct): ...

        def setup(settings: Settings):
            seen.append("set up")

        @handler("s3:ObjectCreated:*")
        def picture(record: dict, message: Message) -> None:
            seen.append(message.event_type)

        seen = []
        """
    )
    assert deliver("s3:ObjectCreated:Put", {}) == Outcome("succeeded")
    assert sys.modules[f"{name}.pictures"].seen == ["set up", "s3:ObjectCreated:Put"]
    assert deliver("s3:ObjectRemoved:Delete", {}).cause == "undecodable"


def test_the_message_is_what_the_test_says(project):
    name = project(greet=GREET)
    deliver("greet", {"to": []}, attempt=3, event_id="order-7", attributes={"tenant": "a", "key": b"\0"})
    [message] = sys.modules[f"{name}.greet"].seen
    assert (message.attempt, message.event_id) == (3, "order-7")
    assert message.attributes == {"tenant": "a", "key": b"\0"}


def test_a_verdict_is_the_outcome(project):
    project(greet=GREET)
    assert deliver("greet", {"to": ["later"]}) == Outcome("retried", "failed", "not now", delay_seconds=7)


def test_retry_of_config_toml_counts(project):
    project("[retry]\nmax_attempts = 2\nbase_seconds = 3\nmax_seconds = 3", greet=GREET)
    first, last = deliver("greet", {"to": ["never"]}), deliver("greet", {"to": ["never"]}, attempt=2)
    assert (first.name, first.cause, first.error) == ("retried", "failed", "RuntimeError: broken")
    assert 2 <= first.delay_seconds <= 3
    assert (last.name, last.reason) == ("dead_lettered", "failed 2 times; max_attempts = 2")


WAITING = """
import ssl
from millpond import TooFast, Unavailable, Wait, handler

@handler("call", rate="14/s")
def call(how: str) -> None:
    if how == '"fast"':
        raise TooFast("429", after=2.5)
    if how == '"down"':
        raise Unavailable("no bank")
    if how == '"busy"':
        raise Wait("a busy domain", after=0.5)
    raise ssl.SSLError("no")
"""


def test_what_waits_for_the_other_side_is_seen_in_the_outcome(project):
    project(call=WAITING)
    fast, down, busy, error = (deliver("call", how, attempt=50) for how in ("fast", "down", "busy", "error"))
    assert (fast.cause, fast.reason, fast.other_side, fast.asked_seconds) == ("too_fast", "429", True, 2.5)
    assert (down.cause, down.reason, down.other_side, down.asked_seconds) == ("unavailable", "no bank", True, None)
    assert (busy.cause, busy.other_side, busy.asked_seconds) == ("waiting", False, 0.5)
    assert (error.cause, error.other_side) == ("failed", True)
    assert [outcome.name for outcome in (fast, down, busy)] == ["retried"] * 3


def test_a_type_of_config_toml_that_no_handler_takes_is_an_error(project):
    project('[types.cal]\nrate = "5/s"', call=WAITING)
    with pytest.raises(ConfigError, match="did you mean call"):
        deliver("call", "fast")


def test_an_unknown_type_is_the_dead_letter_that_the_worker_makes(project):
    project(greet=GREET)
    assert deliver("greeet", {}) == Outcome("dead_lettered", "undecodable", "no handler for type 'greeet'")


def test_a_payload_that_does_not_fit_names_the_path(project):
    project(greet=GREET)
    outcome = deliver("greet", {"to": [5]})
    assert (outcome.name, outcome.cause) == ("dead_lettered", "undecodable")
    assert outcome.reason == "Expected `str`, got `int` - at `$.payload.to[0]`"


def test_each_deliver_tells_of_a_returned_value_and_of_a_traceback(project, caplog):
    code = """
    from millpond import handler
    @handler("value")
    def value(payload: dict):
        return False
    @handler("error")
    def error(payload: dict):
        raise RuntimeError
    """
    project(code=code)
    for _ in range(2):
        deliver("value", {})
        assert "RuntimeError" in deliver("error", {}).traceback
    assert len([record for record in caplog.records if "returned a bool" in record.getMessage()]) == 2


def test_a_handler_that_waits_too_long_is_timed_out(project):
    code = """
    from time import sleep
    from millpond import handler
    @handler("slow", timeout=0.01)
    def slow(payload: dict):
        sleep(30)
    """
    project(code=code)
    outcome = deliver("slow", {})
    assert (outcome.name, outcome.cause) == ("retried", "timed_out")


# --- where the handlers come from


def test_without_a_config_toml_the_folder_handlers_is_loaded_with_default_settings(user_project):
    user_project(
        **{
            "handlers/greet.py": """
                import msgspec
                from millpond import Reject, handler
                class Settings(msgspec.Struct):
                    word: str = "hello"
                def setup(settings: Settings, local: bool):
                    assert local
                    global word
                    word = settings.word
                @handler("greet")
                def greet(payload: dict):
                    raise Reject(word)
                """,
            "tests/test_greet.py": """
                from millpond.testing import deliver
                def test_greet():
                    assert deliver("greet", {}).reason == "hello"
                    assert deliver("greet", {}, attempt=5).reason == "hello"
                """,
        }
    ).passes(1)


def test_a_folder_with_neither_says_where_it_looked(project, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path} has neither config.toml nor a folder handlers/")):
        deliver("greet", {})


def test_handlers_that_cannot_be_loaded_are_an_error_at_each_deliver(project):
    project(wrong="import nothing_of_this_name")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"wrong cannot be loaded: ModuleNotFoundError: .*nothing_of_this_name"):
            deliver("greet", {})


def test_a_wrong_config_toml_is_an_error(project):
    project("[retry]\nmax_attempts = 0", greet=GREET)
    with pytest.raises(ConfigError, match="max_attempts = 0: a whole number, 1 or more"):
        deliver("greet", {"to": []})


# --- settings

POST = """
import msgspec
from millpond import Reject, handler

class Settings(msgspec.Struct):
    key: str
    url: str = "default"

told = []

def setup(settings: Settings) -> None:
    told.append(settings)

def teardown() -> None:
    told.append("teardown")

@handler("post")
def post(payload: dict) -> None:
    told.append("post")
"""


def told(name: str, module: str = "post") -> list[object]:
    return [getattr(entry, "key", entry) for entry in sys.modules[f"{name}.{module}"].told]


def test_a_module_is_set_up_from_config_toml_once_before_its_first_message(project):
    name = project('[handlers.post]\nkey = "k"\nurl = "u"', post=POST)
    deliver("post", {})
    deliver("post", {})
    assert told(name) == ["k", "post", "post"]
    assert sys.modules[f"{name}.post"].told[0].url == "u"


def test_settings_of_another_module_are_not_asked_for(project):
    name = project(post=POST, greet=GREET)
    assert deliver("greet", {"to": []}).name == "succeeded"
    assert told(name) == []
    with pytest.raises(ConfigError, match=r"\[handlers.post\] key: is missing"):
        deliver("post", {})


def test_what_setup_raises_comes_out_and_the_next_deliver_tries_again(project):
    code = POST.replace("told.append(settings)", "told.append(settings); raise OSError(settings.key)")
    name = project('[handlers.post]\nkey = "k"', post=code)
    for _ in range(2):
        with pytest.raises(OSError, match="k"):
            deliver("post", {})
    assert told(name) == ["k", "k"]


def test_a_secret_that_is_kept_in_aws_is_its_reference_and_nothing_calls_aws(project, monkeypatch):
    monkeypatch.setattr("millpond.app.secret_calls.SecretReader", None)
    name = project('[handlers.post]\nkey = "ssm:/prod/key"', post=POST)
    deliver("post", {})
    assert told(name) == ["ssm:/prod/key", "post"]


def test_configure_puts_its_settings_over_those_of_config_toml(project):
    name = project('[handlers.post]\nkey = "real"\nurl = "real"', post=POST)
    configure("post", key="made up")
    deliver("post", {})
    assert told(name) == ["made up", "post"]
    assert sys.modules[f"{name}.post"].told[0].url == "real"


def test_configure_without_settings_goes_back_to_config_toml(project):
    name = project('[handlers.post]\nkey = "real"', post=POST)
    configure("post", key="made up", url="made up")
    configure("post", key="another")
    configure("post")
    first, _, second, _, third = sys.modules[f"{name}.post"].told
    assert (first.key, first.url) == ("made up", "made up")
    assert (second.key, second.url) == ("another", "default")
    assert (third.key, third.url) == ("real", "default")


def test_configure_tears_down_what_was_set_up_before(project):
    name = project('[handlers.post]\nkey = "real"', post=POST)
    deliver("post", {})
    configure("post", key="made up")
    configure("post", key="another")
    assert told(name) == ["real", "post", "teardown", "made up", "teardown", "another"]


def test_settings_that_do_not_fit_leave_the_module_as_it_was(project):
    name = project('[handlers.post]\nkey = "real"', post=POST)
    deliver("post", {})
    with pytest.raises(ConfigError, match=r"\[handlers.post\] kay: no such key; did you mean key"):
        configure("post", kay="made up")
    deliver("post", {})
    assert told(name) == ["real", "post", "post"]


def test_configure_of_a_module_that_does_not_exist_names_the_nearest(project):
    project(post=POST)
    with pytest.raises(ConfigError, match="no such handlers module; did you mean post"):
        configure("pots", key="k")


@pytest.mark.parametrize(("url", "local"), [("local", True), ("https://sqs.eu-west-1.amazonaws.com/1/q", False)])
def test_setup_is_told_whether_the_queues_are_local(project, tmp_path, url, local):
    code = POST.replace("setup(settings: Settings)", "setup(settings: Settings, local: bool)")
    name = project('[handlers.post]\nkey = "k"', post=code.replace("told.append(settings)", "told.append(local)"))
    text = (tmp_path / "config.toml").read_text().replace('url = "local"', f'url = "{url}"')
    (tmp_path / "config.toml").write_text(text)
    deliver("post", {})
    assert told(name) == [local, "post"]


def test_the_projects_own_email_lands_in_a_folder_of_the_test(monkeypatch, tmp_path):
    monkeypatch.setattr(testing, "FOLDER", ROOT)
    testing._project.cache_clear()
    configure("email", transport="outbox", outbox=str(tmp_path))
    monkeypatch.chdir(tmp_path)
    outcome = deliver("email.send", {"to": ["ann@example.org"], "subject": "hello", "text": "you"})
    assert outcome == Outcome("succeeded")
    [mail] = tmp_path.glob("*.eml")
    assert b"Subject: hello" in mail.read_bytes()
    assert deliver("email.send", {"to": [], "text": "you"}).reason.endswith("at `$.payload.to`")
    testing._project.cache_clear()


# --- as an application has it: pytest, nothing patched


class Run:
    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(ROOT), *sys.path])
        self.done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def passes(self, number: int) -> None:
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        assert f"{number} passed" in self.done.stdout


@pytest.fixture
def user_project(tmp_path):
    def user_project(**files: str) -> Run:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(dedent(text))
        return Run(tmp_path)

    return user_project


def test_in_an_unpatched_process_a_time_limit_acts_only_where_the_handler_waits_in_gevent(user_project):
    user_project(
        **{
            "handlers/slow.py": """
                import time
                import gevent
                from millpond import handler
                @handler("slow.stdlib", timeout=0.01)
                def stdlib(payload: dict):
                    time.sleep(0.02)
                @handler("slow.gevent", timeout=0.01)
                def waits(payload: dict):
                    gevent.sleep(30)
                """,
            "tests/test_slow.py": """
                import time
                from millpond.testing import deliver
                def test_slow(monkeypatch, tmp_path):
                    assert time.sleep.__module__ == "time"
                    monkeypatch.chdir(tmp_path)
                    assert deliver("slow.stdlib", {}).name == "succeeded"
                    assert deliver("slow.gevent", {}).cause == "timed_out"
                """,
        }
    ).passes(1)


SEND = """
from pathlib import Path
from millpond import Producer
from millpond.sqs.clients import connect
from millpond.sqs.redrive import read_redrive

def only_message(url):
    with Path("urls").open("a") as file:
        print(url, file=file)
    [one] = connect(url, wait_seconds=1, polls=1, settles=1).queue(url).receive(10, 1, 30)
    return one.body

def test_first(local_queue):
    Producer(local_queue).send("first", {})
    assert "first" in only_message(local_queue)

def test_second(local_queue):
    Producer(local_queue).send("second", {})
    assert "second" in only_message(local_queue)
"""


@pytest.mark.slow
def test_each_test_has_a_fresh_local_queue_on_one_server_that_ends_with_the_tests(user_project, tmp_path):
    conftest = 'pytest_plugins = ["millpond.testing"]'
    user_project(**{"tests/conftest.py": conftest, "tests/test_send.py": SEND}).passes(2)
    first, second = (urlsplit(url) for url in (tmp_path / "urls").read_text().split())
    assert first.path != second.path
    assert first.netloc == second.netloc
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((first.hostname, first.port), timeout=5).close()


def test_a_local_queue_has_a_dead_letter_queue(local_queue):
    queue = connect(local_queue, wait_seconds=1, polls=1, settles=1).queue(local_queue)
    attributes = queue.attributes()
    assert json.loads(attributes["RedrivePolicy"])["maxReceiveCount"] == testing.MAX_RECEIVE_COUNT
    assert queue.dead_letters(read_redrive(attributes)).url == f"{local_queue}-dead"


def test_a_process_that_has_just_ended_can_be_told_to_end():
    """The thread that waits for it has taken its exit code, and the loop has not heard of it yet."""
    process = subprocess.Popen(["/bin/false"])
    end, sleep = time.monotonic() + 30, monkey.get_original("time", "sleep")  # one that gives the loop no turn
    while Path(f"/proc/{process.pid}").exists():
        assert time.monotonic() < end
        sleep(0.001)
    process.terminate()
    assert process.wait() == 1


def test_a_local_queue_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the local queue did not start"):
        testing._LocalServer()
