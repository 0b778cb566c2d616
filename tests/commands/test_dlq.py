"""`worker.py dlq`: what it prints, what it does, its exit codes."""

from __future__ import annotations

import itertools
import json
import os
import pty
import stat
import sys
from pathlib import Path

import gevent
import msgspec
import pytest

from millpond.commands import cli, dlq, dlq_looks
from millpond.commands.dlq_editor import payload_of, with_payload
from millpond.commands.dlq_pages import age, letter_page
from millpond.dead_letters import move_task, sweep
from millpond.dead_letters.dead_letter_queue import DeadLetterQueue
from millpond.errors import AccessDenied, Unanswered
from millpond.local import LocalSqs
from millpond.local import server as local_server
from millpond.sqs.queue import MISSING, Attribute, Failure
from millpond.sqs.sqs_queue import SqsQueue
from tests.dead_letters.letters import Letters, body_of, letter
from tests.worker_process import ROOT, write_project

FULL = Path("/dev/full")
NUMBERS = itertools.count()
JOBS = """
import msgspec
from millpond import handler

class Mail(msgspec.Struct):
    to: str

@handler("email.send")
def send(mail: Mail) -> None:
    pass
"""


@pytest.fixture
def letters(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "test-1")
    monkeypatch.delenv("DYNO", raising=False)
    monkeypatch.setattr(sweep, "WAIT_SECONDS", 0)
    monkeypatch.setattr(move_task, "TASK_ASK_SECONDS", 0.05)
    monkeypatch.setattr(local_server, "STOP_SECONDS", 0)
    server = LocalSqs(port=0)
    server.start()
    letters = Letters(server)
    monkeypatch.chdir(tmp_path)
    package = f"dlq_jobs{next(NUMBERS)}"
    write_project(
        tmp_path, JOBS, f'[worker]\nhandlers = ["{package}"]\n[queues.emails]\nurl = "{letters.url}"\n', package
    )
    yield letters
    server.stop()


@pytest.fixture
def run(capsys, letters):
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(["dlq", *arguments])
        except SystemExit as ended:  # argparse's
            code = ended.code
        said = capsys.readouterr()
        # A worker that an earlier test has left in this process may still log what it counted.
        err = [line for line in said.err.splitlines(keepends=True) if '"event":"message.succeeded"' not in line]
        return code, said.out, "".join(err)

    return run


@pytest.fixture
def editor(monkeypatch, tmp_path):
    """Makes $EDITOR a program that does this with the `text` of its file."""

    def editor(step: str) -> None:
        path = tmp_path / "editor.py"
        code = f"import sys; p = sys.argv[1]; text = open(p).read(); {step}; open(p, 'w').write(text)"
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("EDITOR", str(path))
        monkeypatch.delenv("VISUAL", raising=False)

    return editor


def test_ls_has_type_attempts_age_reason_and_the_first_line_of_the_error(run, letters):
    letters.put(2, error="ValueError: no ann@example.com\nsecond line")
    code, out, err = run("ls")
    assert code == 0
    assert out.split()[:6] == ["id", "type", "attempts", "age", "reason", "error"]
    assert "email.send  7         0 s  failed 7 times  ValueError: no ***" in out
    assert "second line" not in out
    assert err == "2 dead letters; looked at 2 of about 2\n"


def test_ls_counts_groups_and_says_how_much_it_saw(run, letters):
    letters.put(6, error="KeyError: 'x'")
    letters.put(6, error="KeyError: 'y'", first=50)
    letters.put(3, first=100, error="timed out after 3 s")
    _, out, err = run("ls", "--group", "--limit", "13")
    assert [line.split()[0] for line in out.splitlines()] == ["count", "12", "1"]
    assert "KeyError: <text>" in out
    assert err == "13 dead letters; looked at 13 of about 15\n"


def test_ls_prints_json_for_scripts_and_nothing_where_there_is_nothing(run, letters):
    assert run("ls", "--json")[:2] == (0, "")
    letters.put(1)
    found = json.loads(run("ls", "--json")[1])
    assert (found["type"], found["event_id"], found["attempts"], found["queue"]) == ("email.send", "e0000", 7, "emails")
    group = json.loads(run("ls", "--json", "--group")[1])
    assert (group["count"], group["error"], group["text"]) == (1, "ValueError: no", "ValueError: no")


def test_show_has_all_of_one_and_hides_secrets_unless_asked(run, letters):
    letters.put_bare(
        body_of("e1", to="ann@example.com", api_key="k-1234567890", amount=12345678901234567890),
        MessageAttributes={"auth_token": {"DataType": "String", "StringValue": "t-secret-1"}},
    )
    code, out, _ = run("show", "e1")
    assert code == 0
    assert '"amount": 12345678901234567890' in out
    assert "put here by           another program" in out
    assert not [secret for secret in ("ann@example.com", "k-1234567890", "t-secret-1") if secret in out]
    revealed = run("show", "e1", "--reveal")[1]
    assert all(secret in revealed for secret in ("ann@example.com", "k-1234567890", "t-secret-1"))


def test_a_letter_can_do_nothing_to_the_terminal():
    one = letter("e1", error="\x1b[2J", attributes={"na\x1bme": Attribute("String", "v\x1b]0;x\x07")})
    for reveal in (False, True):
        assert "\x1b" not in letter_page(one, 0.0, reveal)


@pytest.mark.parametrize("arguments", [["show", "nosuch"], ["replay", "nosuch"], ["discard", "nosuch", "--yes"]])
def test_an_id_that_is_none_is_exit_code_1(run, letters, arguments):
    letters.put(1)
    code, _, err = run(*arguments)
    assert code == 1
    assert "nosuch: no such dead letter was found" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay"], "replay: which letters? Name ids, a filter such as --type TYPE, or --all"),
        (["discard"], "discard: which letters?"),
        (["replay", "--all", "--type", "x"], "--all means every letter"),
        (["show"], "show: name the ID of a letter"),
        (["ls", "--older", "soon"], "soon: an age is a whole number"),
        (["replay", "--all", "--to", "nowhere"], "--to nowhere: no such queue, and no URL of one; there are: emails"),
        (["discard", "--all"], "asks first: where nobody can answer, add --yes"),
        (["ls", "--queue", "email"], "--queue email: no such queue; did you mean emails?"),
        (["list"], "dlq: list: there is no such action; did you mean ls?"),
        (["discard", "--yes", ""], "an ID is empty: is a variable of the shell not set?"),
        (["discard", "--yes", "--newer", "1h", ""], "an ID is empty"),
        (["discard", "--yes", "--newer", "1h", "--reason", ""], "argument --reason: it is empty"),
        (["discard", "--yes", "--newer", "1h", "--text", " "], "argument --text: it is empty"),
        (["discard", "--yes", "--type", "*", "--older", ""], "argument --older: it is empty"),
        (["replay", "--all", "--to", ""], "argument --to: it is empty"),
        (["import", "--type", "x"], "--type is an option of "),
        (["import", "e0001"], "import takes every line: leave out ids and filters"),
        (["import", "--dry-run"], "--dry-run is an option of dlq replay, dlq discard, and of no other command"),
        (
            ["export", "--all", "--dry-run"],
            "--dry-run is an option of dlq replay, dlq discard, and of no other command",
        ),
        (["ls", "--limit", "0"], "0: a whole number, 1 or more"),
        (["import", "--file", "nosuch"], "--file nosuch: cannot be read"),
        (["export", "--all", "--file", "config.toml"], "--file config.toml: cannot be written: File exists"),
    ],
)
def test_what_cannot_be_begun_is_exit_code_3_and_moves_nothing(run, letters, arguments, said):
    letters.put(3)
    code, _, err = run(*arguments)
    assert code == 3
    assert said in err
    assert letters.counts(letters.dead_url) == (3, 0)


def test_a_replay_to_a_queue_that_is_gone_deletes_nothing(run, letters):
    letters.put(3)
    code, _, err = run("replay", "--all", "--to", f"{letters.url}-gone")
    assert (code, letters.counts(letters.dead_url)) == (3, (3, 0))
    assert "the destination cannot be used: GetQueueAttributes: The specified queue does not exist" in err


def test_replay_sends_what_is_meant_and_says_what_stays(run, letters):
    letters.put(3)
    letters.put_bare("of another program")
    assert run("replay", "e0001") == (0, "1 letter replayed\n", "")
    code, out, err = run("replay", "--all")
    assert (code, out) == (1, "2 letters replayed\n")
    assert "1 letter not replayed: came from no queue of these settings" in err
    counts = json.loads(run("replay", "--all", "--json", "--to", "emails")[1])
    assert (counts["moved"], counts["kept"], counts["stopped"]) == (1, [], "")


def test_a_move_says_that_another_program_holds_letters(run, letters):
    """Two replays at once: each moves a part, and neither alone may look as if it were all."""
    letters.put(15)
    letters.receive(letters.dead_url)
    code, out, err = run("replay", "--all")
    assert (code, out) == (0, "5 letters replayed\n")
    assert "looked at 5 of about 15: another program holds the others, or took them meanwhile" in err
    letters.put(3)
    code, _, err = run("export", "--all")
    assert (code, "looked at 3 of about 13: another program holds the others" in err) == (0, True)


def test_a_replay_by_id_says_nothing_of_letters_that_it_did_not_look_at(run, letters):
    letters.put(30)
    wanted = json.loads(run("ls", "--json")[1].splitlines()[-1])["id"]
    assert run("replay", wanted) == (0, "1 letter replayed\n", "")


def test_ids_may_stand_behind_options(run, letters):
    letters.put(3)
    assert run("replay", "e0000", "--queue", "emails", "e0001")[:2] == (0, "2 letters replayed\n")
    assert run("show", "--queue", "emails", "e0002")[0] == 0
    code, _, err = run("replay", "--all", "--nosuch")
    assert (code, "dlq replay: --nosuch: there is no such option" in err) == (3, True)


@pytest.fixture
def several(letters):
    """A second queue, `bills`, with one dead letter; `more` has the dead letters of `emails`."""
    bills = Letters(letters.server, name="bills")
    bills.put(1, event_type="bill.made")
    letters.put(2)
    redrive = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:emails-dead", "maxReceiveCount": 3}
    more = letters.server.create_queue("more", {"RedrivePolicy": json.dumps(redrive)})
    queues = {"bills": bills.url, "more": more}
    with open("config.toml", "a") as config:
        config.writelines(f'[queues.{name}]\nurl = "{url}"\n' for name, url in queues.items())


def test_where_there_are_several_queues_ls_and_show_look_at_all(run, several):
    code, out, err = run("ls")
    table = [line.split()[:3:2] for line in out.splitlines()]
    assert (code, table) == (0, [["queue", "type"], *[["emails", "email.send"]] * 2, ["bills", "bill.made"]])
    assert err.splitlines() == [
        "emails: 2 dead letters; looked at 2 of about 2",  # `more` has the same ones
        "bills: 1 dead letter; looked at 1 of about 1",
    ]
    assert {json.loads(line)["type"] for line in run("ls", "--json")[1].splitlines()} == {"email.send", "bill.made"}
    assert [line.split()[0] for line in run("ls", "--group")[1].splitlines()] == ["queue", "emails", "bills"]
    assert run("ls", "--queue", "bills")[1].startswith("id ")
    assert run("show", "e0001")[0] == 0
    code, _, err = run("show", "event-9999")
    said = "no such dead letter was found; emails: looked at 2 of about 2; bills: looked at 1 of about 1"
    assert (code, err) == (1, f"event-9999: {said}\n")
    assert run("replay", "--all")[::2] == (
        3,
        "--queue is needed, since there are several queues: emails, bills, more\n",
    )


def test_a_queue_that_cannot_be_looked_at_hides_no_other(run, letters, several):
    with open("config.toml", "a") as config:
        config.write(f'[queues.gone]\nurl = "{letters.url}-gone"\n')
    code, out, err = run("ls")
    assert (code, len(out.splitlines())) == (3, 4)
    assert err.splitlines()[-1].startswith("dead letters of gone: GetQueueAttributes: The specified queue does not")


def test_where_a_fifo_queue_shows_a_part_of_a_group_it_is_said(run, letters):
    fifo = Letters(letters.server, ".fifo", name="bills")
    with open("config.toml", "a") as config:
        config.write(f'[queues.bills]\nurl = "{fifo.url}"\n')
    fifo.put(14, group_id="a", error="KeyError: 'x'")
    reach = "looked at 10 of about 14 (a FIFO queue shows the first ten of each group)"
    assert run("ls", "--queue", "bills")[2] == f"10 dead letters; {reach}\n"
    code, out, err = run("replay", "--queue", "bills", "e0001", "e0012")
    assert (code, out) == (1, "1 letter replayed\n")
    assert "e0012: no such dead letter was found" in err
    assert "looked at 10 of about 14: a FIFO queue shows the first ten of each group; the others stayed" in err
    assert run("replay", "--queue", "bills", "--all") == (0, "13 letters replayed\n", "")


def test_a_look_at_the_first_300_says_how_to_see_all(run, letters, monkeypatch):
    monkeypatch.setattr(dlq_looks, "LOOK_LETTERS", 2)
    letters.put(3)
    assert run("ls")[2] == "2 dead letters; looked at 2 of about 3; --all looks at the whole queue\n"
    assert run("ls", "--all")[2] == "3 dead letters; looked at 3 of about 3\n"
    assert run("ls", "--limit", "2")[2] == "2 dead letters; looked at 2 of about 3\n"


def test_an_id_that_is_too_short_is_told_from_one_that_is_none(run, letters):
    letters.put(1)
    needed = "abc: no such dead letter was found (the beginning of an id has 8 characters at least)"
    assert [run(action, "abc")[2].splitlines()[0].partition(";")[0] for action in ("show", "replay")] == [needed] * 2


def test_a_dry_run_moves_nothing(run, letters):
    letters.put(3)
    for action in ("replay", "discard"):
        code, out, err = run(action, "--type", "email.*", "--dry-run")
        assert (code, len(out.splitlines())) == (0, 4)
        assert "3 letters would be" in err
    assert letters.counts(letters.dead_url) == (3, 0)


@pytest.mark.parametrize(("answer", "left", "code"), [("yes", 0, 0), ("y", 3, 1), ("", 3, 1)])
def test_discard_asks_first(run, letters, monkeypatch, answer, left, code):
    letters.put(3)
    monkeypatch.setattr(dlq.sys.stdin, "isatty", lambda: True, raising=False)
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
    assert run("discard", "--all")[0] == code
    assert asked == ["3 of them are meant (looked at 3 of about 3). Delete all that are meant, for good? Type yes: "]
    assert letters.counts(letters.dead_url) == (left, 0)


@pytest.mark.slow
@pytest.mark.parametrize("typed", [b"\x03", b"\x04"])
def test_ctrl_c_and_ctrl_d_at_the_question_delete_nothing_and_end_at_once(letters, tmp_path, typed):
    letters.put(3)
    command = [sys.executable, str(ROOT / "worker.py"), "dlq", "discard", "--all"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT)})
    said = b""
    while b"Type yes: " not in said:
        said += gevent.get_hub().threadpool.apply(os.read, (terminal, 4_096))
    with gevent.Timeout(20):
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            os.write(terminal, typed)  # once more: a signal between the question and the read ends no read
            gevent.sleep(1)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(ended[1]) == 1
    assert letters.counts(letters.dead_url) == (3, 0)


def test_discard_with_yes_does_not_ask(run, letters):
    letters.put(3)
    assert run("discard", "--all", "--yes")[:2] == (0, "3 letters deleted\n")


def test_a_letter_that_cannot_be_deleted_is_not_called_deleted(run, letters, monkeypatch):
    def denied(self, handles):
        raise AccessDenied("sqs:DeleteMessage is not allowed")

    letters.put(3)
    monkeypatch.setattr(SqsQueue, "delete", denied)
    code, out, err = run("discard", "--all", "--yes")
    assert (code, out) == (1, "0 letters deleted\n")
    assert err.startswith("could not be deleted: still dead letters: ")


def test_an_edited_payload_is_sent_and_the_rest_of_the_envelope_is_kept(run, letters, editor):
    letters.put(1)
    editor("""text = '{"to": "bo@example.com"}'""")
    assert run("replay", "e0000", "--edit")[0] == 0
    [message] = letters.take(letters.url)
    assert json.loads(message["Body"]) == {
        "event_type": "email.send",
        "event_id": "e0000",
        "payload": {"to": "bo@example.com"},
    }


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("text = '{}'", "Object missing required field `to` - at `$.payload`"),
        ("text = 'no JSON'", "the message names no type"),
        ("sys.exit(1)", "not edited"),
    ],
)
def test_what_does_not_fit_its_type_is_not_sent(run, letters, editor, step, said):
    letters.put(1)
    editor(step)
    code, _, err = run("replay", "e0000", "--edit")
    assert code == 1
    assert said in err
    assert letters.counts(letters.dead_url) == (1, 0)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("import os; os.unlink(p); os._exit(0)", "the editor left no text: [Errno 2] No such file or directory"),
        (
            "open(p, 'wb').write(b'\\xe4'); import os; os._exit(0)",
            "the editor left no text: 'utf-8' codec can't decode",
        ),
    ],
)
def test_an_editor_that_leaves_no_text_leaves_the_letter(run, letters, editor, step, said):
    letters.put(1)
    editor(step)
    code, _, err = run("replay", "e0000", "--edit")
    assert (code, letters.counts(letters.dead_url)) == (1, (1, 0))
    assert said in err


@pytest.mark.parametrize("command", ["vi 'x", "  ", "/nonexistent/editor"])
def test_an_editor_that_is_no_command_is_exit_code_3(run, letters, monkeypatch, command):
    letters.put(1)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", command)
    code, _, err = run("replay", "e0000", "--edit")
    assert (code, "--edit: " in err) == (3, True)


def test_no_editor_is_exit_code_3(run, letters, monkeypatch):
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    assert "set EDITOR" in run("replay", "--all", "--edit")[2]


def test_what_is_edited_keeps_numbers_as_they_are():
    body = '{"event_type":"t","payload":{"n":12345678901234567890123,"x":1.10},"event_id":"e"}'
    text = payload_of(body)
    assert json.loads(text)["n"] == 12345678901234567890123
    assert '"n":12345678901234567890123,"x":1.10' in with_payload(body, text)
    assert payload_of("no JSON") == "no JSON"
    assert with_payload("no JSON", "other") == "other"


def test_an_export_comes_back_by_an_import(run, letters, tmp_path):
    letters.put(12)
    letters.put_bare("x", MessageAttributes={"b": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}})
    code, _, err = run("export", "--all", "--file", "letters.jsonl")
    assert (code, err) == (0, "13 letters exported; each is still in the queue\n")
    assert letters.counts(letters.dead_url) == (13, 0)
    before = {one["Body"]: one.get("MessageAttributes") for one in letters.take(letters.dead_url)}
    assert run("import", "--file", "letters.jsonl")[:2] == (0, "13 letters imported\n")
    after = {one["Body"]: one.get("MessageAttributes") for one in letters.take(letters.dead_url)}
    assert before == after


def test_an_export_that_cannot_begin_makes_no_file(run, letters):
    """Or the next try would be refused for that file."""
    letters.server.create_queue("last")
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:last", "maxReceiveCount": 2}
    letters.sqs.set_queue_attributes(QueueUrl=letters.dead_url, Attributes={"RedrivePolicy": json.dumps(policy)})
    code, _, err = run("export", "--all", "--file", "letters.jsonl")
    assert (code, "a redrive policy of its own" in err) == (3, True)
    assert not Path("letters.jsonl").exists()


def test_an_export_to_a_disk_that_is_full_says_so_and_gives_the_letters_back(run, letters, monkeypatch):
    letters.put(30)
    monkeypatch.setattr(dlq, "open", lambda path, mode: FULL.open("wb"), raising=False)
    code, _, err = run("export", "--all", "--file", "letters.jsonl")
    assert (code, err) == (3, "--file letters.jsonl: cannot be written: No space left on device\n")
    assert letters.counts(letters.dead_url) == (30, 0)


def test_an_export_names_the_ids_that_are_none_and_the_letters_that_cannot_be_read_whole(run, letters, monkeypatch):
    letters.put(2)
    code, out, err = run("export", "e0000", "nosuch")
    assert (code, len(out.splitlines())) == (1, 1)
    assert "nosuch: no such dead letter was found" in err
    read = DeadLetterQueue.read

    def flawed(self, *arguments):
        for one in read(self, *arguments):
            yield msgspec.structs.replace(one, received=msgspec.structs.replace(one.received, flaw="cut"))

    monkeypatch.setattr(DeadLetterQueue, "read", flawed)
    code, out, err = run("export", "--all")
    assert (code, out, err.count("not exported: it cannot be read whole (cut)")) == (1, "", 2)


def test_an_import_with_a_bad_line_sends_nothing(run, letters, tmp_path):
    (tmp_path / "l.jsonl").write_text('{"id": "1", "body": "b"}\n{"id": 1}\n\nno JSON\n{"id": "2", "body": ""}\n')
    code, _, err = run("import", "--file", "l.jsonl")
    assert code == 3
    assert [line.partition(":")[0] for line in err.splitlines()] == ["line 2", "line 4", "line 5"]
    assert letters.counts(letters.dead_url) == (0, 0)


def test_an_import_calls_nothing_undone_that_may_have_been_done(run, letters, monkeypatch):
    send = SqsQueue.send

    def lost(self, entries):
        failures = send(self, entries)
        if len(entries) == 5:
            raise Unanswered("no answer in 10 s")
        return failures if entries[0].body == "b0" else [*failures[:8], MISSING, Failure("Refused", "no", True)]

    monkeypatch.setattr(SqsQueue, "send", lost)
    Path("l.jsonl").write_text("".join(f'{{"id": "{n}", "body": "b{n}"}}\n' for n in range(25)))
    code, out, err = run("import", "--file", "l.jsonl")
    assert (code, out) == (1, "18 letters imported\n")
    perhaps = "perhaps imported, for no answer came: line"
    assert [line[: len(perhaps) + 3] for line in err.splitlines()] == [
        f"{perhaps} 19",
        "not imported: line 20: Refused: no"[: len(perhaps) + 3],
        *(f"{perhaps} {number}" for number in range(21, 26)),
    ]
    Path("l.jsonl").write_text("".join(f'{{"id": "{n}", "body": "b{n}"}}\n' for n in range(5)))
    code, out, err = run("import", "--file", "l.jsonl")
    assert (code, out, err.count(perhaps)) == (1, "0 letters imported\n", 5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (9e5, "10 d")]
)
def test_an_age_has_one_unit(seconds, text):
    assert age(seconds) == text


def spent(letters, number, first=0):
    """Messages that SQS itself moves to the dead letters: they were received too often."""
    for index in range(first, first + number):
        letters.sqs.send_message(QueueUrl=letters.url, MessageBody=body_of(f"s{index}"))
    for _ in range(10):
        letters.receive(letters.url, seconds=0)
    while letters.counts(letters.url)[0]:
        letters.receive(letters.url, seconds=0)


def test_a_whole_queue_of_sqss_own_letters_goes_back_by_its_own_move(run, letters):
    spent(letters, 12)
    assert letters.counts(letters.dead_url) == (12, 0)
    code, out, err = run("replay", "--all")
    assert (code, out) == (0, "12 letters replayed\n")
    assert "moved by SQS itself" in err
    assert letters.event_ids(letters.url) == sorted(f"s{n}" for n in range(12))
    [task] = letters.sqs.list_message_move_tasks(SourceArn="arn:aws:sqs:us-east-1:000000000000:emails-dead")["Results"]
    assert task["Status"] == "COMPLETED"


def test_a_limit_counts_for_sqss_own_letters_too(run, letters):
    spent(letters, 5)
    assert run("replay", "--all", "--limit", "2")[:2] == (0, "2 letters replayed\n")
    assert letters.counts(letters.dead_url) == (3, 0)


def test_letters_of_sqs_are_edited_before_they_go_back_too(run, letters, editor):
    spent(letters, 1)
    editor("""text = '{"to": "bo@example.com"}'""")
    assert run("replay", "--all", "--edit")[0] == 0
    [message] = letters.take(letters.url)
    assert json.loads(message["Body"])["payload"] == {"to": "bo@example.com"}


def test_letters_of_a_worker_among_them_are_moved_by_the_command(run, letters):
    spent(letters, 3)
    letters.put(4)
    code, out, err = run("replay", "--all")
    assert (code, out) == (0, "7 letters replayed\n")
    assert "moved by SQS itself" not in err


def test_what_sqs_cannot_move_after_all_is_moved_by_the_command(run, letters, monkeypatch):
    spent(letters, 3)
    letters.put(4)
    monkeypatch.setattr(DeadLetterQueue, "suits_sqs", lambda self: True)  # the sample saw none of the workers'
    code, _, err = run("replay", "--all")
    assert code == 0
    assert "CouldNotDetermineMessageSource" in err
    assert letters.counts(letters.dead_url) == (0, 0)
    assert len(letters.event_ids(letters.url)) == 7
