"""docs/reference/ and the code say the same, in both directions: nothing is missing there, and nothing is stale."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec
import pytest

import millpond
from millpond import Message, Producer, errors, handler, producer, testing
from millpond.app import config
from millpond.app.dead_letter import ATTRIBUTE, MAX_VALUE_BYTES, ReasonAttribute
from millpond.app.routing import routes
from millpond.app.type_settings import TypeSettings
from millpond.commands.command_line import command_line_parser
from millpond.commands.help_texts import EXAMPLES
from millpond.commands.steer_options import STEERING_COMMANDS
from millpond.engine import books
from millpond.hub import signals
from millpond.mail import Attachment, Email
from millpond.mail import Settings as EmailSettings
from millpond.message import Cause, Outcome, OutcomeName
from millpond.observe.metric_table import METRICS
from millpond.process.gauges import reading_of
from tests import metrics_page
from tests.process.snapshots import FULL
from tests.worker_process import local_sqs

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"
SOURCES = [path for folder in ("millpond", "handlers") for path in sorted((ROOT / folder).rglob("*.py"))]
CONFIG = tomllib.loads((ROOT / "config.toml").read_text())

Row = dict[str, str]


def tables(page: str) -> dict[str, list[Row]]:
    """The first table below each heading of a page: its rows, by the names of their columns."""
    found: dict[str, list[Row]] = {}
    for part in re.split(r"^#+ ", (REFERENCE / page).read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        lines = [line for line in text.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        if cells:
            found[heading.strip("`")] = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return found


def rows(page: str) -> list[Row]:
    return [row for table in tables(page).values() for row in table]


def named(cell: str) -> list[str]:
    """What stands in backticks."""
    return [name.replace("\\|", "|") for name in re.findall(r"`([^`]+)`", cell)]


def name_of(row: Row) -> str:
    """The name that a row is about: the first in its first cell."""
    return named(next(iter(row.values())))[0]


def by_name(table: list[Row]) -> dict[str, Row]:
    names = [name_of(row) for row in table]
    assert sorted(names) == sorted(set(names)), "a name stands there twice"
    return dict(zip(names, table, strict=True))


@pytest.mark.parametrize("page", sorted(path.name for path in REFERENCE.glob("*.md")))
def test_no_cell_of_a_table_is_empty(page):
    assert [row for row in rows(page) if "" in row.values()] == []


# --- settings


def settings_types() -> dict[str, type[msgspec.Struct]]:
    """The Struct that each table of config.toml is read into."""
    hints = typing.get_type_hints(config.AllSettings)
    found = {f"[{name}]": hints[name] for name in config.TABLES if name not in ("queues", "types", "handlers")}
    of_names = {"[queues.<name>]": config.QueueSettings, "[types.<type>]": TypeSettings}
    return {**found, **of_names, "[handlers.email]": EmailSettings}


def test_each_table_of_config_toml_has_its_section():
    assert set(tables("settings.md")) == {*settings_types(), "Environment variables"}


@pytest.mark.parametrize("name", settings_types())
def test_each_key_is_listed_with_its_type_default_and_limits(name):
    fields = {field.encode_name: field for field in msgspec.structs.fields(settings_types()[name])}
    listed = by_name(tables("settings.md")[name])
    assert set(listed) == set(fields)
    for key, row in listed.items():
        field = fields[key]
        if row["default"] == "as `@handler` says":  # in the code: an empty value
            assert not field.default, key
        else:
            default = tomllib.loads(f"x = {named(row['default'])[0]}")["x"]
            assert default == (list(field.default) if isinstance(field.default, tuple) else field.default), key
        assert row["type"] == type_of(field.type), key
        assert (row["unit"] == "s") == key.endswith("_seconds"), key
        if allowed := allowed_by(field.type):
            assert row["allowed"] == allowed, key


def type_of(wanted: Any) -> str:
    """A key's type as a person says it."""
    if get_origin(wanted) is typing.Annotated:
        return type_of(get_args(wanted)[0])
    if get_origin(wanted) in (typing.Union, types.UnionType):
        return " or ".join(type_of(one) for one in get_args(wanted) if one is not type(None))
    if get_origin(wanted) is Literal:
        return " or ".join(f"`{json.dumps(one)}`" for one in get_args(wanted))
    kinds = {str: "text", int: "whole number", float: "number", tuple: "list of texts"}
    return {**kinds, bool: "true or false", dict: "table"}[get_origin(wanted) or wanted]


def allowed_by(wanted: Any) -> str:
    """As the finding on a wrong value says it; "" where the module itself says what it takes."""
    descriptions = [meta.description for meta in getattr(wanted, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    return next(filter(None, descriptions), "")


def test_each_variable_of_config_toml_is_listed_with_its_key():
    listed = {name: row["key"] for name, row in by_name(tables("settings.md")["Environment variables"]).items()}
    assert listed == dict(_variables(CONFIG, ""))
    assert set(listed) == set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def _variables(table: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _variables(value, f"{path}.{key}" if path else key)
        elif isinstance(value, str) and (found := re.match(r"\$\{(\w+)", value)):
            yield found[1], f"`[{path}] {key}`"


# --- handlers


def test_each_option_of_the_decorator_is_listed_with_its_default():
    options = parameters(handler)
    assert defaults_listed("handlers.md", "@handler") == options


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Their defaults by their names."""
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.name != "self"}


def defaults_listed(page: str, heading: str) -> dict[str, Any]:
    return {name: _default_listed(row["default"]) for name, row in by_name(tables(page)[heading]).items()}


def _default_listed(cell: str) -> Any:
    return ast.literal_eval(named(cell)[0]) if named(cell) else inspect.Parameter.empty


def test_each_verdict_is_listed_with_what_it_takes():
    listed = by_name(tables("handlers.md")["Verdicts"])
    assert set(listed) == {verdict.__name__ for verdict in errors.Verdict.__subclasses__()}
    for name, row in listed.items():
        verdict = getattr(errors, name)
        assert named(row["arguments"]) == [f"{key}={value!r}" for key, value in parameters(verdict).items()], name


def test_each_interrupt_is_listed():
    listed = by_name(tables("handlers.md")["Interrupts"])
    assert set(listed) == {interrupt.__name__ for interrupt in errors.Interrupt.__subclasses__()}


def test_each_part_of_a_message_is_listed():
    fields = [name for name in Message.__struct_fields__ if not name.startswith("_")]
    others = [name for name in vars(Message) if not name.startswith("_") and name not in Message.__struct_fields__]
    listed = {re.match(r"\w+", name)[0]: name for name in map(name_of, tables("handlers.md")["Message"])}
    assert set(listed) == {*fields, *others}
    assert listed["follow_up"] == f"follow_up({_call(Message.follow_up)})"


def _call(function: Callable[..., Any]) -> str:
    return ", ".join(
        name if default is inspect.Parameter.empty else f"{name}={default!r}"
        for name, default in parameters(function).items()
    )


def test_each_kind_of_payload_is_decoded_as_its_page_says(monkeypatch):
    module = types.ModuleType("a_page")
    monkeypatch.setitem(sys.modules, "a_page", module)
    exec(python_of("handlers.md", "Payloads"), vars(module))
    found = routes(["a_page"])
    for event_type, payload in (
        ("order.created", b'{"number": "A-1"}'),
        ("order.changed", b'{"cents": 5}'),
        ("order.imported", b'"A-1"'),
    ):
        found[event_type].call(found[event_type].decode(payload))
    assert module.SEEN == ["A-1", ["cents"], '"A-1"']


@pytest.mark.slow
def test_the_module_with_settings_works_with_the_test_of_its_page(tmp_path):
    (tmp_path / "handlers").mkdir()
    module = python_of("handlers.md", "Settings, setup, teardown")
    (tmp_path / "handlers/invoice.py").write_text(f"{CONNECT}\n{module}")
    (tmp_path / "test_invoice.py").write_text(python_of("producer.md", "Test kit"))
    run_pytest(tmp_path, "test_invoice.py")


def run_pytest(folder: Path, file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


CONNECT = """
from unittest.mock import MagicMock


def connect(database, pool):
    return MagicMock()
"""


def python_of(page: str, heading: str) -> str:
    """The first Python block below a heading."""
    text = re.split(rf"^#+ `?{re.escape(heading)}`?$", (REFERENCE / page).read_text(), flags=re.MULTILINE)[1]
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]


# --- e-mail


@pytest.mark.parametrize(("heading", "struct"), [("The payload", Email), ("An attachment", Attachment)])
def test_each_field_of_an_email_is_listed(heading, struct):
    listed = [name_of(row) for row in tables("email.md")[heading]]
    assert listed == [field.encode_name for field in msgspec.structs.fields(struct)]


@pytest.mark.slow
def test_the_mail_handler_of_its_page_works(tmp_path):
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers/joined.py").write_text(python_of("email.md", "A mail handler of your own"))
    (tmp_path / "test_joined.py").write_text(JOINED)
    run_pytest(tmp_path, "test_joined.py")
    assert len([*tmp_path.glob("outbox/*.eml")]) == 1


JOINED = """
from millpond.testing import deliver


def test_the_team_gets_a_mail():
    assert deliver("team.joined", {"team": ["ann@example.com"], "name": "Bo"}).name == "succeeded"
"""


# --- dead letters


def test_each_key_of_a_dead_letters_reason_is_listed():
    text = " ".join((REFERENCE / "dead-letters.md").read_text().split())
    keys = [name_of(row) for row in tables("dead-letters.md")["What they keep"]]
    assert keys == list(ReasonAttribute.__struct_fields__)
    assert f"The attribute `{ATTRIBUTE}` (a String) is JSON of at most {MAX_VALUE_BYTES} bytes" in text


def test_dead_letters_are_seen_and_sent_back_as_its_page_says(tmp_path, monkeypatch, capsys):
    with local_sqs(tmp_path) as queues:
        queues.create("emails")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            monkeypatch.setenv(name, "test-1")
        reason = {
            "reason": "timed out",
            "error": "",
            "attempt": 7,
            "queue": "emails",
            "failed_at": "2026-11-26T12:00:00Z",
        }
        mark = {ATTRIBUTE: {"DataType": "String", "StringValue": json.dumps(reason)}}
        kept = {"tenant": {"DataType": "String", "StringValue": "acme"}}
        body = '{"event_type": "email.send", "event_id": "1", "payload": {}}'
        queues.sqs.send_message(
            QueueUrl=queues.url("emails-dead"), MessageBody=body, MessageAttributes={**mark, **kept}
        )
        code = python_of("dead-letters.md", "Look, mend, send back")
        exec(code.replace("https://sqs.eu-west-1.amazonaws.com/123456789012/emails", queues.url("emails")), {})
        seen = capsys.readouterr().out
        assert "email.send timed out" in seen
        assert "moved=1" in seen
        [message] = queues.sqs.receive_message(QueueUrl=queues.url("emails"), MessageAttributeNames=["All"])["Messages"]
        assert message["Body"] == body
        assert message["MessageAttributes"]["tenant"]["StringValue"] == "acme"
        assert queues.counts("emails-dead") == (0, 0, 0)


# --- producer and test kit


@pytest.mark.parametrize(
    ("heading", "function"),
    [
        ("Producer", Producer.__init__),
        ("send", Producer.send),
        ("send_many", Producer.send_many),
        ("deliver", testing.deliver),
        ("configure", testing.configure),
    ],
)
def test_each_parameter_of_the_producer_and_of_the_test_kit_is_listed_with_its_default(heading, function):
    values = parameters(function) | ({"timeout": producer.TIMEOUT_SECONDS} if heading == "Producer" else {})
    assert defaults_listed("producer.md", heading) == values


def test_each_field_of_an_outgoing_message_and_of_an_outcome_is_listed():
    assert [name_of(row) for row in tables("producer.md")["Outgoing"]] == list(producer.Outgoing._fields)
    assert [name_of(row) for row in tables("producer.md")["Outcome"]] == list(Outcome.__struct_fields__)


def test_each_error_of_a_send_is_listed():
    kinds = [
        error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.QueueError)
    ]
    names = {error.__name__ for error in kinds} - {"QueueError"}
    assert {name_of(row) for row in tables("producer.md")["Errors"]} == names | {"SendError", "ConfigError"}


def test_each_public_name_is_on_a_page():
    text = "".join(path.read_text() for path in REFERENCE.glob("*.md"))
    assert [name for name in millpond.__all__ if not re.search(rf"`[^`]*\b{name}\b[^`]*`", text)] == []
    own = [name for name, value in vars(testing).items() if getattr(value, "__module__", "") == testing.__name__]
    kit = {name for name in own if not name.startswith("_")} | {"local_queue"}
    assert [name for name in kit if f"`{name}" not in (REFERENCE / "producer.md").read_text()] == []


# --- metrics


def test_the_page_of_metrics_is_made_from_their_table():
    made = metrics_page.page()
    assert metrics_page.PAGE.read_text() == made, "write it anew: python -m tests.metrics_page"
    assert all(key == row.name for key, row in METRICS.items())
    assert len({row.prometheus_name for row in METRICS.values()}) == len(METRICS)


def test_each_metric_that_is_counted_timed_or_read_is_in_the_table_with_its_type_and_no_other():
    assert dict(metrics_sent()) == {name: row.kind for name, row in METRICS.items()}


def metrics_sent() -> Iterator[tuple[str, str]]:
    """Each name of a metric that the source counts, times or reads; and its type."""
    reading = reading_of(FULL)
    yield from ((key.name, "gauge") for key in reading.gauges)
    yield from ((key.name, "counter") for key in reading.totals)
    for name in (*get_args(OutcomeName), *filter(None, get_args(Cause))):
        yield name, "counter"
    for name in ("duration", "latency"):  # of Books
        yield name, "timer"
    for node in (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if _called(node) == "count" and isinstance(node.args[0].value, str):
                yield node.args[0].value, "counter"
            elif _called(node) == "MetricKey":
                yield node.args[0].value, METRICS[node.args[0].value].kind


def _texts(expressions: list[ast.expr]) -> Iterator[str]:
    """The texts in them; {} for what is filled in."""
    for node in (node for expression in expressions for node in ast.walk(expression)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


# --- log events


class Emit(NamedTuple):
    """One place that logs an event. `name`: {} for what is filled in, by one of `words`; a field of `may` can be left
    out; None of `levels`: it is not said at the call."""

    where: str
    name: str
    words: frozenset[str]
    levels: frozenset[str]
    fields: frozenset[str]
    may: frozenset[str]

    def is_of(self, event: str) -> bool:
        found = re.fullmatch(re.escape(self.name).replace(r"\{\}", "([a-z_]+)"), event)
        return found is not None and set(found.groups()) <= self.words


EVENT = re.compile(r"[a-z_{}]+\.[a-z_{}]+")


@cache
def emits() -> tuple[Emit, ...]:
    return tuple(emit for path in SOURCES for emit in _emits_of(path))


def _emits_of(path: Path) -> Iterator[Emit]:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]  # the outer ones first
    function_of = {node: function for function in functions for node in ast.walk(function)}
    words = frozenset(_constants(ast.walk(tree)))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = function_of.get(call)
        for name, level, fields in _events_of(call, function, tree):
            must, may = _fields_of(fields, function)
            levels = _levels(level) or _levels(function) or _levels(tree)
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            yield Emit(where, name, words, levels, frozenset(must) - {"traceback"}, frozenset(may))


def _constants(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _events_of(
    call: ast.Call, function: ast.FunctionDef | None, tree: ast.Module
) -> Iterator[tuple[str, ast.AST | None, list[ast.keyword]]]:
    """The events of a call: the name, what says its level, and the fields."""
    called = _called(call)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if called in ("event", "from_thread", "on_demand") and len(call.args) >= 2:
        yield from ((name, call.args[0], call.keywords) for name in _names(call.args[1], function, tree))
    elif called == "dump_line":
        yield call.args[0].value, _Level("info"), call.keywords
    elif isinstance(extra := given.get("extra"), ast.Dict):
        fields = _as_keywords(extra)
        yield from ((one.value.value, _Level(called), fields) for one in fields if one.arg == "event")
    elif called == "record_of" and isinstance(call.args[1], ast.Constant):
        yield call.args[1].value, call.args[0], _as_keywords(call.args[3])


class _Level(ast.Attribute):
    """`logging.WARNING`, of a logger's `warning`."""

    def __init__(self, method: str) -> None:
        super().__init__(ast.Name("logging"), method.upper())


def _as_keywords(fields: ast.AST) -> list[ast.keyword]:
    pairs = zip(getattr(fields, "keys", ()), getattr(fields, "values", ()), strict=True)
    return [ast.keyword(key.value, value) for key, value in pairs if isinstance(key, ast.Constant)]


def _names(node: ast.expr, function: ast.FunctionDef | None, tree: ast.Module) -> list[str]:
    """The texts that a name can be; of a parameter, those that its callers in the file give."""
    if isinstance(node, ast.Name) and function is not None:
        calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and function.name in ast.dump(call.func)]
        return [text for call in calls for text in _texts(call.args) if EVENT.fullmatch(text)]
    return [text for text in _texts([node]) if EVENT.fullmatch(text)][:1]


def _levels(node: ast.AST | None) -> frozenset[str]:
    inside = [one for one in ast.walk(node) if isinstance(one, ast.Attribute)] if node is not None else []
    attributes = {one.attr for one in inside if getattr(one.value, "id", "") == "logging"}
    return frozenset(attribute.lower() for attribute in attributes & {*LEVELS})


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _fields_of(keywords: list[ast.keyword], function: ast.FunctionDef | None) -> tuple[set[str], set[str]]:
    """Fields that are there in any case, and those that can be: what `**` brings is looked for in what makes it."""
    must = {keyword.arg for keyword in keywords if keyword.arg is not None and keyword.arg != "event"}
    may: set[str] = set()
    for keyword in keywords:
        if keyword.arg is None:
            may |= _reached(keyword.value, function)
    return must, may


def _reached(node: ast.AST, function: ast.FunctionDef | None) -> set[str]:
    """Whatever text stands in an expression, in the function where a variable of it is made, and in what makes it."""
    inside = [*ast.walk(node)]
    if any(isinstance(one, ast.Name) and one.id not in ("self", "delivery") for one in inside) and function is not None:
        inside += ast.walk(function)
    seen: set[ast.FunctionDef] = set()
    for one in inside:  # which grows
        for maker in makers().get(_called(one), ()):
            if maker not in seen:
                seen.add(maker)
                inside += ast.walk(maker)
    texts = _constants(inside)
    counted = {one.attr for one in inside if isinstance(one, ast.Attribute)}
    texts |= {*get_args(OutcomeName)} if "outcomes" in counted else set()
    texts |= {*get_args(Cause)} if "causes" in counted else set()
    return {text for text in texts if re.fullmatch(r"[a-z][a-z0-9_]*", text)}


def _called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@cache
def makers() -> dict[str, list[ast.FunctionDef]]:
    """The functions that return fields by their names, by theirs."""
    found: dict[str, list[ast.FunctionDef]] = {}
    for node in (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.FunctionDef) and node.returns is not None and "dict[str" in ast.unparse(node.returns):
            found.setdefault(node.name, []).append(node)
    return found


def events_listed() -> dict[str, Row]:
    return by_name(rows("log-events.md"))


@pytest.mark.slow
def test_each_event_that_is_logged_is_listed():
    listed = events_listed()
    assert [emit[:2] for emit in emits() if not any(map(emit.is_of, listed))] == []
    assert {f"message.{name}" for name in get_args(OutcomeName)} <= set(listed)


def test_each_event_of_its_page_is_logged():
    assert [name for name in events_listed() if not any(emit.is_of(name) for emit in emits())] == []


def test_no_event_has_an_empty_message():
    calls = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    events = [call for call in calls if _called(call) in ("event", "from_thread") and call.args]
    assert len(events) > 20
    assert [ast.unparse(one) for one in events if len(one.args) < 3 or not getattr(one.args[2], "value", True)] == []


@pytest.mark.parametrize("name", sorted(events_listed()))
def test_each_event_has_the_level_and_the_fields_that_are_listed(name):
    row, places = events_listed()[name], [emit for emit in emits() if emit.is_of(name)]
    levels, fields = set(row["level"].split(", ")), set(named(row["fields"]))
    assert levels <= set().union(*(emit.levels for emit in places))
    if all(len(emit.levels) == 1 for emit in places):
        assert levels == set().union(*(emit.levels for emit in places))
    assert set().union(*(emit.fields for emit in places)) - fields == set()
    assert fields - set().union(*(emit.fields | emit.may for emit in places)) == set()


@pytest.mark.parametrize("name", get_args(OutcomeName))
def test_each_outcome_has_the_level_of_its_page(name):
    level = {20: "info", 30: "warning", 40: "error"}[books.LEVELS[name]]
    listed = events_listed()[f"message.{name}"]["level"]
    assert listed == ("info, warning" if name == "retried" else level)  # a put-off is no failure


# --- commands


PARSERS = list(command_line_parser().parsers())


@pytest.mark.parametrize("heading", ["check", "send", "claims", "dlq", "run", *STEERING_COMMANDS])
def test_each_option_of_each_command_is_listed(heading):
    helped = [one.format_help() for one in PARSERS if f"{one.prog} ".startswith(f"{PARSERS[0].prog} {heading} ")]
    assert sorted(listed_options(heading)) == sorted({option for text in helped for option in options_in(text)})


def test_each_option_of_a_worker_is_listed():
    assert sorted(listed_options("worker.py")) == sorted(options_in(PARSERS[0].format_help()))


@pytest.mark.parametrize("program", ["millpond.local", "millpond.healthcheck"])
def test_each_option_of_each_further_program_is_listed(program):
    command = [sys.executable, "-m", program, "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(listed_options(program)) == sorted(options_in(text))


def listed_options(heading: str) -> list[str]:
    """What the table below this heading of commands.md lists."""
    return [name for row in tables("commands.md")[heading] for name in named(next(iter(row.values())))]


def options_in(text: str) -> list[str]:
    """As --help lists them: "--port PORT", "PAYLOAD", "check"; but for --help itself."""
    lists = text.partition("\n\n")[2].partition("\nexamples:")[0]
    entries = re.findall(r"^ {2,4}([-\w{][^\n]*?)(?: {2,}.*)?$", lists, re.MULTILINE)
    names = [re.sub(r"^-\w(?: [A-Z]+)?, ", "", entry) for entry in entries]
    return [
        name for name in names if name != "--help" and not name.startswith(("Millpond,", "{")) and name != "command"
    ]


def test_each_exit_code_is_listed():
    codes = {str(code) for code in (errors.FINISHED, errors.LEFT, errors.CRASHED, errors.MISCONFIGURED)}
    assert set(by_name(tables("commands.md")["Exit codes"])) == codes
    assert all(f"{code} " in EXAMPLES for code in codes)


def test_each_signal_is_listed():
    listed = {name for row in tables("commands.md")["Signals"] for name in named(row["signal"])}
    assert listed == {number.name for number in (*signals.NUMBERS, *signals.STEERING_NUMBERS)}
