"""What README and docs/ name is there, and what README tells a reader to type works as it stands."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from chaos.mutants import MUTANTS
from chaos.scenarios.__main__ import SCENARIOS
from chaos.simulation.rules import RULES
from millpond import Message, errors
from millpond.commands.cli import EXAMPLES
from tests.between import between
from tests.fuzz.test_fuzz import CASES
from tests.worker_process import CLIENT, WorkerProcess, embedded_queues, local_sqs, write_project

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
LIFE = (ROOT / "docs/life-of-a-message.md").read_text()
#: Whatever is written for a reader, and what is written for one beside the code.
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "bench/README.md"]
PROSE = [*PAGES, ROOT / "config.toml", ROOT / ".env.example"]
CODE = "".join(path.read_text() for folder in ("millpond", "handlers") for path in (ROOT / folder).rglob("*.py"))
#: Files that a page tells its reader to write.
READERS_OWN = {ROOT / "README.md": ["tests/test_invoice.py"]}
#: Of the engine; the embedded queue is a house of its own.
FILES = {path.stem for path in ROOT.glob("millpond/**/*.py") if "local" not in path.parts}
#: No message and no reader of the page meets these.
ASIDE = {"__init__", "__main__"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(language: str) -> list[str]:
    """README's blocks of code in this language; "" for what is typed into a shell."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


# --- what is named is there


@each_page
def test_each_link_leads_to_a_file(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page
def test_each_file_that_is_named_is_there(page):
    names = re.findall(r"`([\w/.-]+\.(?:py|toml|json|md))`", page.read_text())
    folders = [ROOT, page.parent, ROOT / "millpond", ROOT / "tests"]
    missing = {name for name in names if not any((folder / name).exists() for folder in folders)}
    assert missing <= {*READERS_OWN.get(page, [])}  # whoever has followed the page has those too


@pytest.mark.parametrize("name", sorted(FILES - ASIDE))
def test_each_file_of_the_engine_has_its_place_in_the_life_of_a_message(name):
    assert re.search(rf"\b{name}\.py\b", LIFE)


@each_page
def test_each_target_of_make_and_each_module_that_is_named_is_there(page):
    text = page.read_text()
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", text, re.MULTILINE)) - targets == set()
    modules = re.findall(r"python -m ([a-z_.]+[a-z_])", text)
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@each_page
def test_each_event_that_is_named_is_emitted(page):
    emitted = set(re.findall(r'"([a-z_]+\.[a-z_]+)"', CODE))
    kinds = {event.partition(".")[0] for event in re.findall(r'\bevent\(\w*\.?\w+, "([a-z_.]+)"', CODE)} - {"local"}
    named = [name.split(".") for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", page.read_text())]
    events = {".".join(name) for name in named if name[0] in kinds and name[1] != "py"}
    assert events - emitted - {f"message.{name}" for name in dir(Message)} == set()


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_key_that_is_named_is_in_config_toml(page):
    content = tomllib.loads((ROOT / "config.toml").read_text())
    tables = {**content, **content["queues"], **content["handlers"]}
    keys = {key for table in tables.values() for key in table}
    text = page.read_text()
    assert {key for key in re.findall(r"`(\w+_seconds)\b", text) if key not in keys | OF_HANDLERS} == set()
    of_tables = re.findall(r"\[(?:handlers\.)?(\w+)\]`? `?([a-z]+_[a-z_]+)\b", text)
    assert [(table, key) for table, key in of_tables if key not in tables.get(table, ())] == []


#: What a handler finds on its message.
OF_HANDLERS = {name for name in dir(Message) if name.endswith("_seconds")}


@each_page
def test_each_option_of_a_command_that_is_named_is_one(page):
    text = page.read_text()
    commands = re.findall(r"python (-m [\w.]+|worker\.py)((?: [^`\n]*)?)", text)
    by_make = {name: program for program, name in re.findall(r"(-m [\w.]+) \$\((\w+)\)", MAKEFILE)}
    commands += [
        (by_make[name], f" {rest}") for name, rest in re.findall(r'\b([A-Z]+)="([^"]*)"', text) if name in by_make
    ]
    for program, rest in commands:
        if options := re.findall(r"(?<= )--[a-z-]+", rest):
            assert set(options) <= set(re.findall(r"--[a-z-]+", help_of(program))), program


@cache
def help_of(program: str) -> str:
    command = [sys.executable, *program.split(), "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


# --- how it is started


def test_the_procfile_starts_what_readme_says():
    assert (ROOT / "Procfile").read_text() == "worker: python worker.py -c config.toml\n"
    assert "the Procfile starts: python worker.py -c config.toml" in README


def test_every_package_is_installed_where_millpond_is():
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("millpond/**/__init__.py")}
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]) == packages


# --- README


def test_readme_is_short():
    assert len(README.splitlines()) < 150


def test_the_figures_that_readme_tells_are_those_of_the_bench():
    bench = (ROOT / "bench/README.md").read_text()
    table = bench.partition("### TLS, millpond.local, 100 at once")[2].partition("###")[0]
    cost = {
        row[0]: f"{int(row[1]):,}"
        for row in re.findall(r"^\| ([^|]+) \| \*\*[\d.]+\*\* \| (\d+) ", table, re.MULTILINE)
    }
    claim = " ".join(README.partition("- **Cheap.** ")[2].partition("- **Loses")[0].split())
    for words, consumer in (
        ("{} us of CPU a message over TLS", "Millpond"),
        ("fanferro's Rust core takes {}", "fanferro (Rust core)"),
        ("sqs-consumer on Node {}", "sqs-consumer (Node)"),
        ("the usual boto3 loop {}", "boto3 + gevent, one delete a message"),
        ("Celery {};", "Celery -P gevent"),
    ):
        assert words.format(cost[consumer]) in claim
    mails = re.findall(r"by median: (\d+) us of CPU.* Celery ([\d,]+)", " ".join(bench.split()))[0]
    assert "an e-mail over SMTP {} us, where Celery takes {}.".format(*mails) in claim
    assert f"| Millpond | {re.findall(r'([0-9]+) in an idle hour', claim)[0]} |" in bench


def test_the_cheapest_that_was_measured_is_millpond_in_every_table():
    assert "The cheapest we measured" in README
    ratios = re.findall(r"^\| ([^|]+) \| \*\*([\d.]+)\*\* \|", (ROOT / "bench/README.md").read_text(), re.MULTILINE)
    assert len(ratios) > 10
    assert [(name, ratio) for name, ratio in ratios if float(ratio) <= 1 and name != "Millpond"] == []


def test_readme_and_help_tell_the_same_exit_codes():
    told = dict(re.findall(r"(\d) ([a-z]+(?: [a-z]+)*)", README.partition("Exit codes: ")[2].partition("\n\n")[0]))
    helped = dict(re.findall(r"(\d) ([a-z]+(?: [a-z]+)*)", EXAMPLES.partition("exit codes: ")[2]))
    codes = {str(code) for code in (errors.STOPPED, errors.LEFT, errors.CRASHED, errors.MISCONFIGURED)}
    assert set(told) == set(helped) == codes
    assert {code: words.split()[-1] for code, words in told.items() if code != "1"} == {
        code: words.split()[-1] for code, words in helped.items() if code != "1"
    }


def test_each_default_that_readme_tells_is_config_tomls():
    content = tomllib.loads((ROOT / "config.toml").read_text())
    content["queues.<name>"] = content["queues"]["emails"]
    content["handlers.<module>"] = content["handlers"]["email"]
    rows = re.findall(r"^\| (`\[.*?) \|.*\| (.*) \|$", README, re.MULTILINE)
    assert len(rows) >= 6
    for names, keys in rows:
        tables = [content[name] for name in re.findall(r"\[([^\]]+)\]", names)]
        for key, default in re.findall(r"`([a-z_]+)`(?: \((\d+))?", keys.partition("for e-mail: ")[2] or keys):
            written = [table[key] for table in tables if key in table]
            assert written or key in ("wire", "boto3"), key
            if default:
                assert re.sub(r"\$\{\w+:-(\d+)\}", r"\1", str(written[0])) == default, key


def test_the_first_handler_and_its_test_work_as_they_are_written(tmp_path):
    handler, test, _ = blocks("python")
    (tmp_path / "handlers").mkdir()
    (tmp_path / handler.splitlines()[0].removeprefix("# ")).write_text(handler)
    (tmp_path / "test_invoice.py").write_text(test + RETRIED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_invoice.py"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


#: What the handler's comment says of the third verdict.
RETRIED = """

def test_a_closed_ledger_is_asked_again_in_a_minute():
    outcome = deliver("invoice.created", {"number": "A-2", "cents": 100})
    assert (outcome.name, outcome.delay_seconds) == ("retried", 60)
    assert deliver("invoice.created", {"number": "A-2", "cents": 100}, attempt=2).name == "succeeded"
"""


def test_a_message_is_sent_to_the_running_demo_and_a_dead_letter_is_found_as_readme_says(tmp_path):
    [send] = re.findall(r"^\.venv/bin/python (worker\.py send .*)$", README, re.MULTILINE)
    [look] = re.findall(r"^\.venv/bin/python -c '(.*?)'$", README, re.MULTILINE | re.DOTALL)
    _, _, produce = blocks("python")
    (tmp_path / "handlers").symlink_to(ROOT / "handlers")
    config = (ROOT / "config.toml").read_text().replace("succeeded_per_second = 10", "succeeded_per_second = 1000")
    (tmp_path / "config.toml").write_text(config.replace("port = 9324", "port = 0"))
    with WorkerProcess(tmp_path, "-c", "config.toml", "--demo", "25", SQS_CLIENT=CLIENT) as worker:
        queues = embedded_queues(worker)
        port = queues.endpoint.rpartition(":")[2]
        (tmp_path / "config.toml").write_text(f'[queues.emails]\nurl = "local"\n[local]\nport = {port}\n')
        told(tmp_path, *shlex.split(send))
        told(tmp_path, "-c", produce.replace("9324", port))
        for _ in range(27):
            worker.expect("message.succeeded")
        told(tmp_path, "worker.py", "send", "nobody.knows", "{}")
        dead = {"QueueUrl": queues.url("emails-dead"), "VisibilityTimeout": 0, "WaitTimeSeconds": 20}
        assert queues.sqs.receive_message(**dead)["Messages"]
        [letter] = ast.literal_eval(told(tmp_path, "-c", look.replace("9324", port)))
    assert len(list(tmp_path.glob("outbox/*.eml"))) == 27
    assert "nobody.knows" in letter["MessageAttributes"]["millpond"]["StringValue"]


def told(folder: Path, *arguments: str) -> str:
    """What Python says when it is called so in `folder`, which has all but worker.py."""
    program = [str(ROOT / word) if word == "worker.py" else word for word in arguments]
    with WorkerProcess(folder, *program, program=()) as process:
        assert process.exit_code() == 0, process.output()
        return "\n".join(line["message"] for line in process.lines if not line["event"])


FOLLOWED = """
from millpond import Message, Reject, Retry, handler

@handler("job")
def job(payload: dict, message: Message) -> None:
    if payload["last"]:
        raise Reject("never")
    if message.attempt == 1:
        raise Retry("later", after=1)
    message.follow_up({"last": True})
"""
#: A batch needs the right to its single call.
RIGHTS = {f"{call}Batch": call for call in ("SendMessage", "DeleteMessage", "ChangeMessageVisibility")}


def test_the_rights_that_readme_names_are_those_that_a_worker_uses(tmp_path):
    config = """
        [worker]
        handlers = ["jobs"]
        [queues.q]
        url = "{}/000000000000/q"
        visibility_seconds = 3
    """
    with local_sqs(tmp_path) as queues, between(queues.endpoint) as proxy:
        queues.create("q")
        write_project(tmp_path / "worker", FOLLOWED, config.format(proxy.url))
        environ = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
        with WorkerProcess(tmp_path / "worker", **environ) as worker:
            queues.send("q", "job", {"last": False})
            worker.expect("message.dead_lettered")
            worker.signal(signal.SIGTERM)
            assert worker.exit_code() == 0, worker.output()
    used = {(RIGHTS.get(call, call), queue) for call, queue in proxy.calls}
    rights = README.partition("The rights it\nneeds: ")[2].partition(". More load")[0]
    own, _, dead = rights.partition("on the dead-letter queue")
    for queue, text in (("q", own), ("q-dead", dead)):
        assert {call for call, its in used if its == queue} == set(re.findall(r"`(?:sqs:)?(\w+)`", text))


# --- what reliability.md counts


def test_the_bugs_rules_scenarios_and_inputs_that_are_told_are_those_that_are_tried():
    text = (ROOT / "docs/reliability.md").read_text()
    assert f"plants {len(MUTANTS)} bugs" in text
    assert f"judged by {len(RULES)} rules" in text
    assert f"tries {CASES:,} of them" in text
    assert set(re.findall(r"^\| `(\w+)`: ", text, re.MULTILINE)) == set(SCENARIOS)
