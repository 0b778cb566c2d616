"""The command line: the entry and its patch, options, the demo, `send`, and what each says when it cannot."""

from __future__ import annotations

import email
import email.policy
import io
import itertools
import json
import logging
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from email.utils import getaddresses
from pathlib import Path
from types import SimpleNamespace

import gevent
import msgspec
import pytest
from gevent.server import StreamServer

import millpond
from millpond import installed
from millpond.app.config import QueueSettings
from millpond.commands import cli, sample_mails, send
from millpond.commands.command_line import command_line_parser, read_command_line
from millpond.errors import MISCONFIGURED, ConfigError, Throttled
from millpond.hub import patch
from millpond.hub.clock import SystemClock
from millpond.local import LocalSqs
from millpond.mail.job import Email
from millpond.observe import screen
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.queue import Entry, Failure
from tests.fakes import FakeQueue
from tests.worker_process import ROOT, LocalQueues, WorkerProcess, local_queues, with_client, write_project

REAL = "https://sqs.eu-west-1.amazonaws.com/1/mails"
NUMBERS = itertools.count()
JOBS = """
from millpond import handler

@handler("ok")
def ok(payload: dict) -> None:
    pass
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one queue: its folder, as the current one; `url` and more of config.toml are up to the test."""
    monkeypatch.chdir(tmp_path)

    def project(url: str = "local", more: str = "") -> Path:
        queues = f'[queues.emails]\nurl = "{url}"\nwait_seconds = 1\n'
        package = f"jobs{next(NUMBERS)}"  # handlers that were loaded in this process stay
        worker = f'[worker]\nhandlers = ["{package}"]\ndrain_seconds = 2\n'
        return write_project(tmp_path, JOBS, worker + queues + more, package)

    return project


@pytest.fixture
def main(monkeypatch):
    """main(*arguments) -> exit code, in this process; what it sets up for the whole process is undone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for name in ("AWS_ENDPOINT_URL", "SQS_QUEUE_URL", "DYNO"):
        monkeypatch.delenv(name, raising=False)
    yield lambda *arguments: cli.main(arguments)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def server():
    server = LocalSqs(port=0)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def emails(server):
    """The queue that `send` finds where `url = "local"` and [local] is `config`; empty."""
    queues = LocalQueues(server.url)
    queues.sqs.delete_queue(QueueUrl=server.create_queue("emails"))
    server.create_queue("emails")
    queues.config = f"[local]\nport = {server.url.rpartition(':')[2]}\n"
    return queues


def ended(*command: str, **environ: str) -> tuple[int, str]:
    """Exit code and standard error of a Python program at the root of the project."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr


# --- the entry


@pytest.mark.parametrize("entry", [["worker.py"], ["-m", "millpond"]])
@pytest.mark.parametrize("module", ["ssl", "urllib3"])
def test_a_worker_refuses_to_start_where_ssl_or_urllib3_came_before_the_patch(entry, module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(f"import {module}\n")
    paths = f"{tmp_path}:{ROOT}"
    code, said = ended("-W", "ignore", *entry, "check", PYTHONPATH=paths)  # gevent itself warns of urllib3
    assert code == 3
    assert re.fullmatch(rf".*\b{module} came before gevent's patch .*\n", said)


@pytest.mark.parametrize("entry", [["worker.py"], ["-m", "millpond"]])
def test_a_python_without_gevent_is_a_sentence_and_exit_3(entry, tmp_path):
    command = [sys.executable, "-S", *entry, "check"]  # without site-packages
    for part in ("millpond", "worker.py"):
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    packages = ", ".join(installed.PACKAGES)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"{sys.executable} has no {packages}: `make run` builds a .venv that has it, or ")
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    typed = " ".join(command[1:])
    assert done.stderr == f"{sys.executable} has no {packages}: type .venv/bin/python {typed}\n"


def test_an_old_python_is_a_sentence_and_exit_3(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(SystemExit) as caught:
        installed.require_packages()
    assert (caught.value.code, installed.NOT_INSTALLED) == (MISCONFIGURED, MISCONFIGURED)
    assert capsys.readouterr().err == "this is Python 3.9.2, and a worker needs 3.11 or newer\n"


def test_windows_is_a_sentence_and_exit_3(monkeypatch, capsys):
    monkeypatch.setattr(installed, "os", SimpleNamespace(name="nt"))
    with pytest.raises(SystemExit) as caught:
        installed.require_packages()
    assert caught.value.code == MISCONFIGURED
    assert capsys.readouterr().err.endswith("on Windows run it in WSL, or in Docker\n")


def test_what_must_be_installed_is_what_pyproject_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tuple(re.match(r"\w+", one)[0] for one in project["dependencies"]) == installed.PACKAGES
    assert project["requires-python"] == f">={'.'.join(map(str, installed.OLDEST_PYTHON))}"


def test_a_worker_refuses_to_start_unpatched():
    code, said = ended("-c", "import sys, millpond.commands.cli as cli; sys.exit(cli.main(['check']))")
    assert code == 3
    assert "the process is not patched" in said
    assert "monkey.patch_all()" in said


def test_this_process_is_patched_as_a_worker_is():
    assert patch.wrong_with_process() == ""


def test_the_version_is_printed_and_stands_in_one_place(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"millpond {millpond.__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "millpond.__version__"}


@pytest.mark.parametrize("version", ["25.4.1", "25.4.1.post1", "25.5.0", "26.9.0", "26.1.dev0"])
def test_gevent_from_25_4_1_on_is_new_enough(version):
    assert patch.wrong_with_version(version) == ""


@pytest.mark.parametrize("version", ["25.4.0", "24.11.1", "1.3a2"])
def test_an_older_gevent_is_refused(version):
    assert patch.wrong_with_version(version) == f"gevent {version} is too old: 25.4.1 or newer is needed"


def test_urllib3_between_the_patch_and_the_worker_is_fine():
    order = ["gevent.monkey", "gevent.socket", "ssl", "gevent.ssl", "urllib3"]
    assert patch.imported_before_patch(order) == []
    assert patch.imported_before_patch(["urllib3", *order[:-1]]) == ["urllib3"]
    assert patch.imported_before_patch(["ssl", "gevent.socket", "gevent.ssl"]) == ["ssl"]


@pytest.mark.slow
def test_python_m_millpond_is_the_same_command():
    code, said = ended("-m", "millpond", "sned")
    command = f"{sys.executable} -m millpond"  # as it was typed
    meant = "sned: there is no such command; did you mean send?"
    assert (code, said) == (3, f"{command}: {meant}\n`{command} --help` says more\n")
    code, said = ended("-m", "millpond", "-c", "nowhere.toml")
    assert (code, said) == (3, "nowhere.toml: cannot be read: No such file or directory\n")


def test_rich_is_loaded_by_nothing_that_does_not_draw():
    modules = "millpond.process.boot, millpond.commands.check, millpond.commands.demo, millpond.commands.send"
    patched = f"from gevent import monkey; monkey.patch_all(); import sys, millpond.commands.cli, {modules}"
    assert ended("-c", f"{patched}; sys.exit('rich' in sys.modules)") == (0, "")


def test_a_command_that_asks_aws_nothing_does_not_wait_for_botocore():
    patched = "from gevent import monkey; monkey.patch_all(); import sys, millpond.commands.cli, millpond.testing"
    assert ended("-c", f"{patched}; sys.exit('botocore' in sys.modules)") == (0, "")


# --- options


@pytest.mark.parametrize("command", [[], ["check"], ["send"]])
def test_help_tells_the_options_and_is_exit_0(main, capsys, command):
    with pytest.raises(SystemExit) as caught:
        main(*command, "--help")
    assert caught.value.code == 0
    assert "--config PATH" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "more", "code"),
    [
        (["check"], "", 0),
        (["check"], "[handlers.nobodys]\n", 3),
        (["check", "--help"], "", 0),
        (["send", "ok", "{}"], "", 0),
    ],
    ids=str,
)
def test_a_reader_that_leaves_changes_no_exit_code_and_nothing_is_said(project, server, arguments, more, code):
    folder = project(LocalQueues(server.url).create("emails"), more)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(ROOT / "worker.py"), *arguments]
    ended = subprocess.run(command, cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (code, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "--nonsense: there is no such option\n"),
        (["--until"], "--until: there is no such option; did you mean --until-empty?\n"),
        (["--demo", "0"], "argument --demo: 0: a whole number, 1 or more"),
        (["--demo", "many"], "argument --demo: many: a whole number, 1 or more"),
        (["fly"], "fly: there is no such command; there are: check, send, run, "),
        (["send", "ok"], "the following arguments are required: PAYLOAD"),
        (["send", "ok", "1", "--count", "0"], "argument --count: 0: a whole number, 1 or more"),
        (["--demo", "3", "check"], "--until-empty, --demo and --reload are for running, not for check"),
        (["--until-empty", "send", "ok", "1"], "are for running, not for send"),
    ],
)
def test_a_wrong_command_line_is_exit_3_not_2_which_is_a_crash(main, capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        main(*arguments)
    assert caught.value.code == 3
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sned"], "sned: there is no such command; did you mean send?"),
        (["config.toml"], "config.toml: there is no such command; did you mean -c config.toml?"),
        (["--confg", "a.toml", "check"], "--confg: there is no such option; did you mean --config?"),
        (
            ["-ca.toml", "-c", "b.toml", "--until-empty", "--demmo", "3"],
            "--demmo: there is no such option; did you mean --demo?",
        ),
        (["send", "ok", "1", "--queu", "emails"], "send: --queu: there is no such option; did you mean --queue?"),
        (["send", "ok", "1", "--queu=emails"], "send: --queu: there is no such option; did you mean --queue?"),
        (["level", "DEBUG"], "level: DEBUG: there is no such level; did you mean debug?"),
        (["check", "--platform", "herok"], "check: --platform herok: there is no such platform; did you mean heroku?"),
        (["claims", "shw", "e1"], "claims: shw: there is no such action; did you mean show?"),
        (["dlq", "delete"], "dlq: delete: there is no such action; there are: ls, show, replay, discard, "),
        (["dlq", "ls", "--typ", "x"], "dlq ls: --typ: there is no such option; did you mean --type?"),
    ],
)
def test_a_mistyped_name_is_met_by_one_sentence_with_what_was_meant(main, capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        main(*arguments)
    sentence, more = capsys.readouterr().err.splitlines()
    assert (caught.value.code, said in sentence, more.endswith("--help` says more")) == (3, True, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dlq", "ls", "--reveal"], "dlq ls: --reveal is an option of dlq show, and of no other command"),
        (["status", "--demo", "3"], "status: --demo is an option of the worker itself, and of no other command"),
        (["send", "ok", "{a:", "1}"], "send: 1}: too many arguments; in a shell a text with spaces"),
        (["send", "ok", "1", "--delay", "5m"], "argument --delay: 5m: a whole number of seconds"),
        (["top", "--seconds", "nan"], "argument --seconds: nan: a number of seconds above 0"),
        (["dlq", "--group"], "dlq: the following arguments are required: action"),
        (["run"], "one message by hand; a worker starts without `run`"),
    ],
)
def test_what_does_not_belong_here_is_named_below_the_usage(main, capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        main(*arguments)
    text = capsys.readouterr().err
    assert (caught.value.code, text[:7], said in text) == (3, "usage: ", True)


@pytest.mark.parametrize(
    "parser", list(command_line_parser().parsers()), ids=lambda parser: parser.prog.split(".py")[-1]
)
def test_the_help_of_each_command_has_examples_and_its_exit_codes(parser):
    text = parser.format_help()
    assert re.search(r"\n\nexamples:\n(  .*\n)+", text)
    assert re.search(r"\n\nexit codes: 0 \w", text)
    assert "3 " in text.partition("exit codes: ")[2] or "no worker answers" in text
    assert max(map(len, text.replace(parser.prog, "python worker.py").splitlines())) <= 120


@pytest.mark.parametrize("arguments", [["-c", "mine.toml", "check"], ["check", "-c", "mine.toml"]])
def test_the_settings_file_can_be_named_before_and_after_the_command(main, project, capsys, arguments):
    (project() / "config.toml").rename("mine.toml")
    assert main(*arguments) == 0
    assert "queues: emails" in capsys.readouterr().out


def test_config_toml_is_the_default(main, project):
    project()
    assert main("check") == 0


def test_every_finding_on_the_settings_is_a_line_on_standard_error(main, project, capsys):
    project("nonsense", "[retry]\nmax_attempts = 0\n")
    assert main("check") == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["config.toml", '[queues.emails] url = "nonsense"'],
        ["config.toml", "[retry] max_attempts = 0"],
    ]


def test_an_unexpected_error_is_exit_2_with_its_traceback_in_the_log(main, project, capsys, monkeypatch):
    def load(path, environ):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "load", load)
    assert main("check") == 2
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["message"]) == ("worker.crashed", "RuntimeError: a bug")
    assert "in load" in line["traceback"]


def test_commands_leave_the_signals_as_they_are(main, project):
    project()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert main("check") == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


# --- the demo


def demo_project(folder: Path, more: str = "") -> Path:
    config = f'[queues.emails]\nurl = "local"\n[local]\nport = 0\n[handlers.email]\nfrom = "a@example.com"\n{more}'
    folder.mkdir()
    (folder / "config.toml").write_text(with_client(config))
    (folder / "handlers").symlink_to(ROOT / "handlers")
    return folder


@pytest.mark.slow
def test_the_demo_puts_sample_mails_into_the_outbox_and_ends_with_a_table(tmp_path):
    folder = demo_project(tmp_path / "demo")
    with WorkerProcess(folder, "--demo", "12", "--until-empty") as worker:
        assert worker.exit_code() == 0, worker.output()
        assert worker.expect("demo.sent")["message"] == "12 sample e-mails sent; they go to the folder outbox"
        assert worker.expect("worker.stopped")["succeeded"] == 12
        table = [re.split(r"\s{2,}", line["message"]) for line in worker.all("")]
        assert worker.stderr == ""
    assert table[0] == ["e-mails"]
    assert ["succeeded", "12"] in table
    assert ["mails", "the folder outbox"] in table
    [rate] = [row[1] for row in table if row[0] == "messages per second"]
    assert int(rate.replace(",", "")) > 0
    mails = [
        email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        for file in (folder / "outbox").glob("*.eml")
    ]
    assert len(mails) == 12
    assert {part.get_filename() for mail in mails for part in mail.iter_attachments()} == {
        "week-1002.csv",
        "week-1007.csv",
    }
    assert any("Zoë Müller" in mail["to"] for mail in mails)


def drawn_on_a_terminal(draw: Callable[[], object]) -> str:
    """What `draw` writes where standard output is a terminal."""
    master, slave = pty.openpty()
    with pytest.MonkeyPatch.context() as patched, os.fdopen(slave, "w") as terminal:
        patched.setenv("TERM", "xterm")
        patched.setattr(sys, "stdout", terminal)
        draw()
    drawn = b""
    with os.fdopen(master, "rb", buffering=0) as reader, suppress(OSError):  # the terminal's end is an error on Linux
        while data := reader.read(10_000):
            drawn += data
    return drawn.decode()


def test_on_a_terminal_the_table_is_drawn_and_names_in_brackets_are_kept():
    row = ("error", "[queues.emails] is\nwrong [bold]")
    drawn = drawn_on_a_terminal(lambda: screen.table(["", "where"], [row], {"error": "red"}))
    assert "[queues.emails] is wrong [bold]" in drawn
    assert "\x1b[31m" in drawn


def test_on_a_terminal_progress_is_a_bar():
    def draw() -> None:
        with screen.progress("to [emails]", 3) as advance:
            advance(3)

    drawn = drawn_on_a_terminal(draw)
    assert "to [emails]" in drawn
    assert "3/3" in drawn


def test_an_id_is_whole_in_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    row = ("3f2a91c0", "invoice.created", "7", "failed 7 times", "ValueError: no such customer")
    drawn = drawn_on_a_terminal(lambda: screen.table(["id", "type", "attempts", "reason", "error"], [row]))
    assert "3f2a91c0" in drawn


def test_elsewhere_the_table_is_plain_and_progress_is_silent(capsys):
    with screen.progress("to emails", 3) as advance:
        advance(3)
    screen.table(["", "where"], [("error", "[queues.emails]"), ("ok", "a\nb")], {"error": "red"})
    assert capsys.readouterr().out == "       where\nerror  [queues.emails]\nok     a b\n"


@pytest.mark.slow
def test_the_demo_is_for_the_local_queue_only(project):
    with WorkerProcess(project(REAL), "--demo", "3") as worker:
        assert worker.exit_code() == 3
        assert worker.stderr.startswith("--demo 3: sample e-mails go into the local queue only")


@pytest.mark.slow
def test_the_demo_needs_a_handler_for_e_mails(project):
    with WorkerProcess(project(more="[local]\nport = 0\n"), "--demo", "3") as worker:
        assert worker.exit_code() == 3
        assert worker.stderr == "--demo 3: [worker] handlers has no handler for email.send\n"


def test_the_samples_are_mails_of_every_kind_to_addresses_that_nobody_has():
    mails = [msgspec.convert(sample_mails.payload(index), Email) for index in range(35)]
    addresses = [address for mail in mails for _, address in getaddresses([*mail.to, *mail.cc, mail.from_])]
    assert {address.partition("@")[2] for address in addresses} <= {"example.com", "example.org", "example.net", ""}
    assert any(mail.html for mail in mails)
    assert any(mail.attachments for mail in mails)
    assert any(not name.isascii() for mail in mails for name in mail.to)
    assert len({(*mail.to, mail.subject) for mail in mails}) == 35


# --- send


def test_send_puts_a_message_with_all_its_options_into_the_running_workers_queue(main, project, emails, capsys):
    project(more=emails.config)
    code = main(
        "send", "email.send", '{"to": ["é", 1.50]}', "--group", "acme", "--attribute", "k=v=w", "--queue", "emails"
    )
    assert code == 0
    [message] = emails.receive("emails")
    body = json.loads(message["Body"])
    assert body["event_type"] == "email.send"
    assert '"payload":{"to": ["é", 1.50]}' in message["Body"]  # as it was written
    assert message["MessageAttributes"] == {"k": {"DataType": "String", "StringValue": "v=w"}}
    assert message["Attributes"]["MessageGroupId"] == "acme"
    assert capsys.readouterr().out == f"email.send sent to emails: event_id {body['event_id']}\n"


def test_send_raw_sends_the_whole_body_as_it_is(main, project, emails, capsys):
    project(more=emails.config)
    body = '{"Records": [{"eventName": "ObjectCreated:Put"}]}  '
    assert main("send", "s3:ObjectCreated:Put", body, "--raw", "--attribute", "tenant=a") == 0
    assert capsys.readouterr().out == "s3:ObjectCreated:Put sent to emails: body 1\n"
    [message] = emails.receive("emails")
    assert (message["Body"], list(message["MessageAttributes"])) == (body, ["tenant"])
    assert main("send", "x", "no JSON", "--raw") == 0  # and no note: TYPE is not sent
    for wrong in ("", "a\x00b", "\ufffe"):
        assert main("send", "x", wrong, "--raw") == 3
        assert capsys.readouterr().err.startswith("PAYLOAD: SQS takes no empty body, and no control characters")


def test_send_delays(main, project, emails):
    project(more=emails.config)
    assert main("send", "ok", "1", "--delay", "30") == 0
    assert emails.counts("emails") == (0, 0, 1)


def test_send_count_sends_so_many_with_ids_of_their_own(main, project, emails, capsys):
    project(more=emails.config)
    assert main("send", "ok", "{}", "--count", "25") == 0
    received = [message for _ in range(3) for message in emails.receive("emails")]
    ids = {json.loads(message["Body"])["event_id"] for message in received}
    assert len(ids) == 25
    said = re.fullmatch(r"ok sent to emails: 25 messages, the first with event_id (\w+)\n", capsys.readouterr().out)
    assert said
    assert said[1] in ids


def test_a_sent_message_reaches_the_worker_that_runs_the_local_queue(main, project, tmp_path, capsys):
    folder = project(more="[local]\nport = 0\n")
    with WorkerProcess(folder) as worker:
        port = local_queues(worker).endpoint.rpartition(":")[2]
        (folder / "mine.toml").write_text(f'[queues.emails]\nurl = "local"\n[local]\nport = {port}\n')
        assert main("-c", "mine.toml", "send", "ok", "{}") == 0
        event_id = capsys.readouterr().out.split()[-1]
        worker.expect("message.succeeded", event_id=event_id)


def test_send_without_a_running_worker_says_so(main, project, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    project(more=f"[local]\nport = {port}\n")
    assert main("send", "ok", "{}") == 3
    assert f"no worker runs the local queue on port {port}: start one first" in capsys.readouterr().err


def test_send_where_somebody_else_has_the_port_says_so(main, project, capsys):
    silent = StreamServer(("127.0.0.1", 0), lambda sock, address: sock.close())
    silent.start()
    project(more=f"[local]\nport = {silent.server_port}\n")
    assert main("send", "ok", "{}") == 3
    said = f"something listens on port {silent.server_port} but does not answer: is it a worker of Millpond? ("
    assert capsys.readouterr().err.startswith(said)
    silent.stop(0)


def test_send_to_a_fifo_queue_says_what_is_wrong_with_each_option(main, project, server, capsys):
    project(f"{server.url}/000000000000/mails.fifo")
    assert main("send", "ok", "{}", "--delay", "5") == 3
    assert capsys.readouterr().err.startswith("a FIFO queue needs --group ID: ")
    assert main("send", "ok", "{}", "--group", "g", "--delay", "5") == 3
    assert capsys.readouterr().err == "--delay 5: a FIFO queue delays no single message\n"


@pytest.mark.parametrize("nothing", ["", " "])
def test_a_message_without_a_type_is_not_sent(main, project, emails, capsys, nothing):
    project(more=emails.config)
    assert main("send", nothing, "{}") == 3
    assert capsys.readouterr().err.startswith("TYPE is empty: ")
    assert emails.counts("emails") == (0, 0, 0)


def test_send_cannot_guess_a_port_that_the_worker_was_free_to_choose(main, project, capsys):
    project(more="[local]\nport = 0\n")
    assert main("send", "ok", "{}") == 3
    assert capsys.readouterr().err == "[local] port = 0: the worker took any free port; set one to send to it\n"


def test_what_hangs_at_the_exit_is_told_with_a_plain_number_of_seconds(monkeypatch, caplog):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(cli, "atexit", SimpleNamespace(_run_exitfuncs=lambda: gevent.sleep(1)))
    cli._run_exit_functions(0.0398818)
    assert "the functions of atexit have not ended within 0.0 s: the process ends without them" in caplog.text


def test_send_to_a_queue_that_does_not_exist_is_exit_3(main, project, server, capsys):
    project(f"{server.url}/000000000000/nowhere")
    assert main("send", "ok", "{}") == 3
    assert capsys.readouterr().err.startswith("[queues.emails] url: SendMessageBatch: The specified queue does not")


@pytest.mark.slow
def test_a_command_names_the_sso_session_that_is_over_without_the_tracebacks_of_the_sdk(tmp_path):
    session = "sso_session=s\nsso_account_id=1\nsso_role_name=r\nregion=eu-west-1\n"
    start = "[sso-session s]\nsso_start_url=https://x.awsapps.com/start\nsso_region=eu-west-1\n"
    (tmp_path / "aws").write_text(f"[profile mine]\n{session}{start}")
    (tmp_path / "config.toml").write_text(f'[queues.emails]\nurl = "{REAL}"\n')
    environ = {"AWS_CONFIG_FILE": str(tmp_path / "aws"), "AWS_PROFILE": "mine", "HOME": str(tmp_path)}
    code, said = ended("worker.py", "-c", str(tmp_path / "config.toml"), "dlq", "ls", **environ)
    assert (code, len(said.splitlines())) == (3, 1)
    assert said.startswith("dead letters of emails: GetQueueAttributes: credentials: Error loading SSO Token")
    assert said.endswith(": the SSO session is over: aws sso login --profile mine\n")


def test_where_there_are_several_queues_one_must_be_named(main, project, emails, capsys):
    project(more=f'[queues.other]\nurl = "{REAL}"\n{emails.config}')
    assert main("send", "ok", "{}") == 3
    assert main("send", "ok", "{}", "--queue", "mails") == 3
    assert capsys.readouterr().err.splitlines() == [
        "--queue is needed, since there are several queues: emails, other",
        "--queue mails: no such queue; did you mean emails?",
    ]
    assert main("send", "ok", "{}", "--queue", "emails") == 0


def test_a_payload_can_be_a_file_or_standard_input(tmp_path, monkeypatch):
    file = tmp_path / "payload.json"
    file.write_bytes(b'\xef\xbb\xbf{"a":\n 1}')
    assert send.read_payload(f"@{file}") == '{"a":\n 1}'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"[2]")))
    assert send.read_payload("-") == "[2]"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (
            "{to: 1}",
            "PAYLOAD is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 "
            "(char 1); in",
        ),
        ("", "PAYLOAD is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            "{number: A-1}",
            """PAYLOAD is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 """
            """(char 1); in a shell: '{"number": "A-1"}'""",
        ),
        ("NaN", "PAYLOAD is not valid JSON: NaN is not a JSON value"),
        ('{"a": "b"', "PAYLOAD is not valid JSON: Expecting ',' delimiter: line 1 column 10 (char 9)"),
        ("[" * 200_000, "PAYLOAD is nested too deeply"),
        ("@nowhere.json", "PAYLOAD @nowhere.json: cannot be read: No such file or directory"),
        ('"\udcff"', "PAYLOAD is not UTF-8"),
    ],
)
def test_a_payload_that_is_no_json_is_refused_with_its_place(payload, said):
    with pytest.raises(ConfigError) as caught:
        send.read_payload(payload)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--delay", "901"], "--delay 901: SQS delays a message by 0 to 900 seconds; EventBridge Scheduler sends"),
        (["--attribute", "k"], "--attribute k: write NAME=VALUE"),
        (["--attribute", "k="], "--attribute k=: write NAME=VALUE"),
        ([text for n in range(11) for text in ("--attribute", f"k{n}=v")], "--attribute: 11 of them, SQS takes 10"),
    ],
)
def test_what_no_queue_would_take_is_refused_before_anything_is_sent(main, project, emails, capsys, arguments, said):
    project(more=emails.config)
    assert main("send", "ok", "{}", *arguments) == 3
    assert said in capsys.readouterr().err
    assert emails.counts("emails") == (0, 0, 0)


def test_a_message_over_1_mib_is_refused(main, project, emails, capsys):
    project(more=emails.config)
    Path("big.json").write_text(f'"{"x" * MAX_BYTES}"')
    assert main("send", "ok", "@big.json") == 3
    assert "SQS takes 1,048,576" in capsys.readouterr().err


def test_large_messages_travel_fewer_to_a_call(main, project, emails):
    project(more=emails.config)
    Path("large.json").write_text(f'"{"x" * 400_000}"')
    assert main("send", "ok", "@large.json", "--count", "5") == 0
    assert emails.counts("emails") == (5, 0, 0)


def test_failed_entries_are_named_and_exit_1(main, project, capsys, monkeypatch):
    project()
    queue = FakeQueue(SystemClock())
    queue.script["send"] = [None, Failure("InternalError", "try later"), Throttled("slow down", "RequestThrottled")]
    monkeypatch.setattr(send, "connect_queue", lambda settings, name: queue)
    assert main("send", "ok", "{}", "--count", "45") == 1
    out, err = capsys.readouterr()
    assert out.startswith("ok sent to emails: 25 messages, the first with event_id ")
    lines = err.splitlines()
    assert lines[-1] == "20 of 45 were not sent"
    assert len(lines) == 11
    assert all(re.fullmatch(r"not sent: event_id \w{32}: InternalError: try later", line) for line in lines[:-1])


def test_a_first_call_that_fails_ends_it_with_exit_1_and_nothing_sent(main, project, capsys, monkeypatch):
    project(REAL)
    queue = FakeQueue(SystemClock())
    queue.script["send"] = [Throttled("slow down", "RequestThrottled")]
    monkeypatch.setattr(send, "connect_queue", lambda settings, name: queue)
    assert main("send", "ok", "{}", "--count", "45") == 1
    assert capsys.readouterr() == ("", "45 of 45 were not sent: slow down\n")
    assert queue.calls["send"] == 1


def test_ctrl_c_in_the_middle_tells_how_many_were_sent(main, project, capsys, monkeypatch):
    project()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a process begins, whatever watched it here before
    queue = FakeQueue(SystemClock())
    queue.script["send"] = [None, lambda: signal.raise_signal(signal.SIGINT)]
    monkeypatch.setattr(send, "connect_queue", lambda settings, name: queue)
    assert main("send", "ok", "{}", "--count", "500") == 1
    out, err = capsys.readouterr()
    sent = int(re.findall(r"emails: (\d+) messages", out)[0])
    assert 10 <= sent < 500
    assert f"{500 - sent} of 500 were not sent: interrupted" in err


@pytest.mark.parametrize(("envelope", "marks"), [("auto", set()), ("s3", set()), ("none", {"millpond_envelope"})])
def test_send_marks_an_envelope_of_ours_where_the_queue_takes_every_body_for_a_payload(envelope, marks):
    options = read_command_line(["send", "job", "1", "--attribute", "tenant=a"])
    [entry] = send._entries(options, ["e1"], QueueSettings(envelope=envelope))
    assert set(entry.attributes) == {"tenant", *marks}


def test_send_all_tells_what_became_of_each_entry():
    queue = FakeQueue(SystemClock())
    told: list[tuple[int, Failure | None]] = []
    told += send.send_all(queue, [Entry(str(index)) for index in range(23)])
    assert sorted(told) == [(index, None) for index in range(23)]
    assert queue.calls["send"] == 3


def test_a_full_disk_under_the_output_is_a_sentence_and_said_once(monkeypatch, capsys, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        stream = screen.outliving(full)
        with pytest.raises(screen.OutputLost):
            print("x", file=stream, flush=True)
        print("dropped", file=stream, flush=True)
    write_project(tmp_path, "", '[queues.q]\nurl = "local"\n')
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        raise screen.OutputLost(28, "No space left on device")

    monkeypatch.setattr(cli, "_run_command", run)
    assert cli.main(["send", "x", "1"]) == 1
    assert capsys.readouterr().err == "the output cannot be written: No space left on device\n"
