"""What README and docs/ name is there, and what README tells a reader to type works as it stands."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from chaos.planted import MUTANTS
from chaos.scenarios.__main__ import SCENARIOS
from chaos.simulation.rules import RULES
from millpond import Breaker, Message, errors
from millpond.commands.command_line import command_line_parser
from millpond.commands.help_texts import EXAMPLES
from millpond.message import Outcome, OutcomeName
from millpond.observe.metric_table import METRICS
from tests.fuzz.test_fuzz import CASES
from tests.test_imports import MAY_IMPORT
from tests.worker_process import CLIENT, WorkerProcess, local_queues

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
#: Whatever is written for a reader, and what is written for one beside the code.
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "bench/README.md",
            "chaos/README.md",
        )
    ),
    *sorted(ROOT.glob("docs/**/*.md")),
]
PROSE = [*PAGES, ROOT / "config.toml", ROOT / ".env.example"]
CODE = "".join(path.read_text() for folder in ("millpond", "handlers") for path in (ROOT / folder).rglob("*.py"))
#: Files that whoever has followed a page has.
READERS_OWN = {ROOT / "README.md": ["tests/test_invoice.py"], ROOT / "chaos/README.md": ["w3.toml"]}
WHERE = (ROOT / "docs/where-a-change-goes.md").read_text()
FILES = {path.relative_to(ROOT / "millpond").as_posix() for path in ROOT.glob("millpond/**/*.py")}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(language: str) -> list[str]:
    """README's blocks of code in this language; "" for what is typed into a shell."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


# --- one word for one thing

#: What is not said, and what is instead: docs/glossary.md has the words.
BANNED = {
    r"tak(?:en?|es|ing)[ _]over|took over": "redelivered, visible again",
    r"bur(?:y|ied|ies)": "dead-lettered",
    r"(?<!max_bytes_)in_flight": "in_hand",  # the setting has the name that others have for it
    r"put(?:s|ting)? back": "given back, put off",
    r"hand(?:s|ed|ing)? out": "delivered",
    r"(?:is|are|was|were) told": "is logged, is named",
    r"hears? of": "is called with",
    r"so many": "this many, or the number itself",
    r"embedded": "local (SQS, queue)",
}
#: SQS's own count of messages that are in flight, as the places that read it and the pages call it.
SQS_OWN = {
    r"(?<!max_bytes_)in_flight": (
        "millpond/local/",
        "check_queue.py",
        "report.py",
        "snapshot.py",
        "log-events.md",
        "depths.py",
        "gauges.py",
        "gauge_metrics.py",
        "metrics.md",
        "scaling.md",
        "troubleshooting.md",
    )
}
SPOKEN = [path for path in PROSE if path.name != "CHANGELOG.md"]


@pytest.mark.parametrize("word", BANNED)
@pytest.mark.parametrize("page", SPOKEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_page_uses_another_word_than_the_glossarys(page, word):
    assert not (match := said(page, word)), f"{match[0]}: say {BANNED[word]}"


@pytest.mark.parametrize("word", BANNED)
def test_no_log_text_name_or_comment_uses_another_word_than_the_glossarys(word):
    sources = [path for folder in ("millpond", "handlers") for path in (ROOT / folder).rglob("*.py")]
    found = [f"{path.relative_to(ROOT)}: {match[0]}" for path in sources if (match := said(path, word))]
    assert found == [], f"say {BANNED[word]}"


def said(path: Path, word: str) -> re.Match[str] | None:
    if any(place in path.as_posix() for place in SQS_OWN.get(word, ())):
        return None
    return re.search(rf"(?<![a-z])(?:{word})(?![a-z])", path.read_text(), re.IGNORECASE)


def test_the_glossary_is_in_order():
    words = re.findall(r"^\| \*\*([^*]+)\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert len(words) >= 20
    assert words == sorted(words)


# --- what is named is there


@each_page
def test_each_link_leads_to_a_file(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page
def test_each_link_into_a_page_leads_to_a_heading(page):
    links = re.findall(r"\]\(([\w./-]*)#([^)]+)\)", page.read_text())
    pages = [(page.parent / link if link else page, anchor) for link, anchor in links]
    assert [(path.name, anchor) for path, anchor in pages if path.suffix == ".md" and anchor not in anchors(path)] == []


@cache
def anchors(page: Path) -> set[str]:
    """The headings of a page, as a link names them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_each_file_that_is_named_is_there(page):
    names = re.findall(r"`([\w/.-]+\.(?:py|toml|json|md))`", page.read_text())
    folders = [ROOT, page.parent, ROOT / "millpond", ROOT / "tests", ROOT / "handlers"]
    if page.parent.name == "chaos":  # its map names the files of a folder
        folders += [path for path in page.parent.rglob("*") if path.is_dir()]
    missing = {name for name in names if not any((folder / name).exists() for folder in folders)}
    assert missing <= {*READERS_OWN.get(page, [])}  # whoever has followed the page has those too


# --- where a change goes

#: What is wanted, the files of it, and the names to look for in them.
ROWS = [line.split(" | ") for line in WHERE.splitlines() if re.match(r"\| .*\.(?:py|json)`.* \| `", line)]


def test_each_file_of_the_house_has_its_row():
    files = {name for row in ROWS for name in re.findall(r"`([\w/.-]+)`", row[1])}
    assert {name for name in FILES if not name.endswith("/__init__.py")} - files == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("| "))
def test_each_name_to_look_for_is_in_a_file_of_its_row(row):
    places = [ROOT / folder / name for name in re.findall(r"`([\w/.-]+)`", row[1]) for folder in ("millpond", "")]
    text = "".join(place.read_text() for place in places if place.exists())
    names = re.findall(r"`(\w+)`", row[2])
    assert names
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_each_name_among_the_edits_is_in_the_code():
    names = re.findall(r"`(_?[A-Za-z]\w+)`", WHERE.partition("## How many edits")[2].partition("## ")[0])
    assert len(names) >= 10
    assert [name for name in names if name != "none" and not re.search(rf"\b{name}\b", CODE)] == []


def test_each_states_enum_is_on_the_page_with_its_file():
    page = (ROOT / "docs/life-of-a-message.md").read_text()
    rows = {(enum, file) for enum, file in re.findall(r"\| `(\w+)` \| `(engine/\w+\.py)` \|", page)}
    assert rows == {
        (enum, f"engine/{path.name}")
        for path in (ROOT / "millpond/engine").glob("*.py")
        for enum in re.findall(r"^class (\w+)\(Enum\):", path.read_text(), re.MULTILINE)
    }


def test_each_method_of_a_table_of_transitions_is_there():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "millpond/engine").glob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = {(one.name, node.name) for one in classes for node in one.body if isinstance(node, ast.FunctionDef)}
    methods |= {("", node.name) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    tables = [doc for one in classes if "| from " in (doc := ast.get_docstring(one) or "")]
    assert len(tables) >= 5
    assert set(re.findall(r"`(?:(\w+)\.)?(\w+)`", "".join(tables))) - methods == set()


def test_the_map_of_the_wings_is_the_table_of_their_imports():
    section = WHERE.partition("## The wings")[2].partition("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", section, re.MULTILINE)
    assert {wing: " ".join(re.findall(r"`(\w+)`", allowed)) for wing, allowed in rows} == MAY_IMPORT


@each_page
def test_each_target_of_make_and_each_module_that_is_named_is_there(page):
    text = page.read_text()
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", text, re.MULTILINE)) - targets == set()
    modules = re.findall(r"python -m ([a-z_.]+[a-z_])", text)
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@each_page
def test_each_event_that_is_named_is_emitted(page):
    emitted = {*re.findall(r'"([a-z_]+\.[a-z_]+)"', CODE), *(f"message.{name}" for name in get_args(OutcomeName))}
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
    others = OF_HANDLERS.union(re.findall(r"def (\w+_seconds)\(", CODE), OF_TERRAFORM, OF_METRICS)
    assert {key for key in re.findall(r"`(\w+_seconds)\b", text) if key not in keys | others} == set()
    of_tables = re.findall(r"\[(?:handlers\.)?(\w+)\]`? `?([a-z]+_[a-z_]+)\b", text)
    assert [(table, key) for table, key in of_tables if key not in tables.get(table, ())] == []


#: What a handler finds on its message and gives to its Breaker, a test in an outcome, and a reader in the log.
OF_HANDLERS = {name for name in (*dir(Message), *dir(Outcome), *dir(Breaker)) if name.endswith("_seconds")}
OF_METRICS = {name for row in METRICS.values() for name in (row.name, row.short_name, row.prometheus_name)}
OF_TERRAFORM = {
    name
    for path in ROOT.glob("deploy/terraform/*/variables.tf")
    for name in re.findall(r'^variable "(\w+)"', path.read_text(), re.MULTILINE)
}


@pytest.mark.slow
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
            assert set(options) <= set(re.findall(r"--[a-z-]+", help_of(program, rest))), (program, rest)


def help_of(program: str, rest: str) -> str:
    """What --help of the program says, or of its command that is named first."""
    top, *parsers = command_line_parser().parsers()
    if program not in ("worker.py", "-m millpond"):
        return help_of_program(program)
    words = [one for one in rest.split() if re.fullmatch("[a-z]+", one)]
    titles = {one.prog.removeprefix(top.prog).strip(): one for one in parsers}
    return (titles.get(" ".join(words[:2])) or titles.get("".join(words[:1])) or top).format_help()


@cache
def help_of_program(program: str) -> str:
    command = [sys.executable, *program.split(), "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


# --- the pages for operators

OPERATORS = [ROOT / f"docs/{name}.md" for name in ("operating", "troubleshooting", "scaling")]
REFERENCE = {path.stem: path.read_text() for path in ROOT.glob("docs/reference/*.md")}
#: Words in backticks that are no names of ours: fields of AWS and of Kubernetes, files, tools, parts of commands.
OF_OTHERS = {
    *(
        "perMessageGroupId",
        "messageGroup",
        "DeduplicationScope",
        "FifoThroughputLimit",
        "CustomizedMetricSpecification",
    ),
    *(
        "maxReplicaCount",
        "policy.json",
        "awslogs",
        "tracemalloc",
        "Host",
        "except:",
        "web.1",
        "web.1-1",
        "web.1-2",
        "nohup",
    ),
    *("emails", "reports", "report.make"),
}

each_operators_page = pytest.mark.parametrize("page", OPERATORS, ids=lambda page: page.stem)


def names_of_ours() -> set[str]:
    """Metrics, log events and their fields, keys and variables of config.toml, options of handlers: what the tables of
    the reference have in backticks, which are compared with the code; and causes, outcomes and scenarios."""
    tables = "\n".join(line for text in REFERENCE.values() for line in text.splitlines() if line.startswith("|"))
    named = {word for text in re.findall(r"`([^`]+)`", tables) for word in re.findall(r"[\w.]+", text)}
    return named | OF_METRICS | {*get_args(OutcomeName), *SCENARIOS, *vars(errors)} | OF_HANDLERS


@each_operators_page
def test_each_name_on_a_page_for_operators_is_in_a_table_of_the_code(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    words = set(re.findall(r"`([A-Za-z_][\w.-]*)(?:\(\)| = [^`]*)?`", text))
    known = names_of_ours() | OF_OTHERS | commands_of_ours()
    assert sorted(word for word in words if word not in known and f"{word}.md" not in known) == []


def commands_of_ours() -> set[str]:
    text = REFERENCE["commands"]
    return {word for name in re.findall(r"^## `([\w.]+)`", text, re.MULTILINE) for word in (name, name.split(".")[-1])}


@each_operators_page
def test_each_command_on_a_page_for_operators_is_one(page):
    text = page.read_text()
    commands = commands_of_ours()
    typed = re.findall(r"worker\.py(?: -c config\.toml)? ([a-z]+)\b", text)
    typed += re.findall(r"`(check|send|claims|dlq|run|status|top|quiet|resume|level|weight|dump)\b", text)
    assert [name for name in typed if name not in commands] == []
    actions = set(re.findall(r"\bdlq ([a-z]+)\b", text))
    assert actions <= set(re.findall(r"`(\w+)`", REFERENCE["commands"].partition("## `dlq`")[2].partition("| `ID`")[0]))
    for command, options in re.findall(
        r"`(?:python worker\.py (?:-c config\.toml )?)?(dlq|status|check|run|send) ([^`]*)`", text
    ):
        assert set(re.findall(r"--[a-z-]+", options)) <= set(re.findall(r"--[a-z-]+", help_text(command))), options


def help_text(command: str) -> str:
    return REFERENCE["commands"].partition(f"## `{command}`")[2].partition("\n## ")[0]


@each_operators_page
def test_each_finding_that_is_quoted_is_one_of_check(page):
    folders = ("millpond/commands/check*.py", "millpond/app/redrive_advice.py")
    trees = [ast.parse(path.read_text()) for folder in folders for path in ROOT.glob(folder)]
    parts = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value]
    texts = "\n".join(part for part in parts if isinstance(part, str))
    quoted = re.findall(r"“([^”]+)”", page.read_text())
    fragments = [part.strip() for text in quoted for part in text.split("…")]
    assert [part for part in fragments if part not in texts and part != "quoted so"] == []


def test_the_page_of_symptoms_quotes_findings_and_events():
    text = OPERATORS[1].read_text()
    assert len(re.findall(r"“[^”]+”", text)) > 20
    assert len(set(re.findall(r"`((?:worker|workers|message|queue|receive|settle|breaker)\.[a-z_]+)`", text))) > 30


# --- how it is started


def test_the_procfile_starts_what_readme_says():
    lines = (ROOT / "Procfile").read_text().splitlines()
    assert lines[-1] == "worker: python worker.py -c config.toml"
    assert "the Procfile starts: python worker.py -c config.toml" in README


def test_every_package_is_installed_where_millpond_is():
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("millpond/**/__init__.py")}
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]) == packages


# --- README


def test_readme_is_short():
    assert len(README.splitlines()) < 150


def test_the_figures_that_readme_gives_are_those_of_the_bench():
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


def test_readme_and_help_name_the_same_exit_codes():
    named = dict(re.findall(r"(\d) ([a-z]+(?: [a-z]+)*)", README.partition("Exit codes: ")[2].partition(".\n")[0]))
    helped = dict(re.findall(r"(\d) ([a-z]+(?: [a-z]+)*)", EXAMPLES.partition("exit codes: ")[2]))
    codes = {str(code) for code in (errors.FINISHED, errors.LEFT, errors.CRASHED, errors.MISCONFIGURED)}
    assert set(named) == set(helped) == codes
    assert {code: words.split()[-1] for code, words in named.items() if code != "1"} == {
        code: words.split()[-1] for code, words in helped.items() if code != "1"
    }


def test_each_default_that_readme_gives_is_config_tomls():
    content = tomllib.loads((ROOT / "config.toml").read_text())
    content = {**content, "queues.<name>": content["queues"]["emails"], "handlers.email": content["handlers"]["email"]}
    named = re.findall(r"`\[([\w.<>]+)\]`: ([^;\n]*)", README.partition("## Settings\n")[2].partition("## More")[0])
    assert len(named) >= 5
    for table, keys in named:
        for key, default in re.findall(r"`([a-z_]+)`(?: \((\d+))?", keys):
            written = content[table][key]
            if default:
                assert re.sub(r"\$\{\w+:-(\d+)\}", r"\1", str(written)) == default, key


@pytest.mark.slow
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


@pytest.mark.slow
def test_messages_are_sent_to_the_running_demo_as_readme_says(tmp_path):
    [send] = re.findall(r"^\.venv/bin/python (worker\.py send .*)$", README, re.MULTILINE)
    _, _, produce = blocks("python")
    (tmp_path / "handlers").symlink_to(ROOT / "handlers")
    (tmp_path / "config.toml").write_text((ROOT / "config.toml").read_text().replace("port = 9324", "port = 0"))
    environ = {"SQS_CLIENT": CLIENT, "LOG_SUCCEEDED_PER_SECOND": "1000"}
    with WorkerProcess(tmp_path, "-c", "config.toml", "--demo", "25", **environ) as worker:
        queues = local_queues(worker)
        port = queues.endpoint.rpartition(":")[2]
        (tmp_path / "config.toml").write_text(f'[queues.emails]\nurl = "local"\n[local]\nport = {port}\n')
        output_of(tmp_path, *shlex.split(send))
        output_of(tmp_path, "-c", produce.replace("9324", port))
        for _ in range(27):
            worker.expect("message.succeeded")
        output_of(tmp_path, "worker.py", "send", "nobody.knows", "{}")
        dead = {"QueueUrl": queues.url("emails-dead"), "VisibilityTimeout": 0, "WaitTimeSeconds": 20}
        [letter] = queues.sqs.receive_message(**dead, MessageAttributeNames=["All"])["Messages"]
    assert len(list(tmp_path.glob("outbox/*.eml"))) == 27
    assert "nobody.knows" in letter["MessageAttributes"]["millpond"]["StringValue"]


def output_of(folder: Path, *arguments: str) -> str:
    """What Python says when it is called so in `folder`, which has all but worker.py."""
    program = [str(ROOT / word) if word == "worker.py" else word for word in arguments]
    with WorkerProcess(folder, *program, program=()) as process:
        assert process.exit_code() == 0, process.output()
        return "\n".join(line["message"] for line in process.lines if not line["event"])


# --- what reliability.md counts


def test_the_bugs_rules_scenarios_and_inputs_that_are_counted_are_those_that_are_tried():
    text = (ROOT / "docs/reliability.md").read_text()
    assert f"plants {len(MUTANTS)} bugs" in text
    assert f"judged by {len(RULES)} rules" in text
    assert f"tries {CASES:,} of them" in text
    assert set(re.findall(r"^\| `(\w+)`: ", text, re.MULTILINE)) == set(SCENARIOS)
