"""The house: imports point down, and what stands apart stays apart. Read from the source, functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import millpond

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "millpond"

#: A wing, or a file at the top -> what it may import of ours besides itself. `__init__` loads others when asked.
MAY_IMPORT = {
    "errors": "",
    "foreign": "errors",
    "observe": "errors foreign",
    "message": "errors foreign sqs",
    "hub": "errors foreign observe",
    "sqs": "errors foreign hub",
    "claims": "errors foreign observe message hub sqs",
    "large_bodies": "errors foreign hub sqs",
    "app": "errors foreign observe message hub sqs claims",
    "dead_letters": "errors foreign observe message hub sqs app",
    "engine": "errors foreign observe message hub sqs claims large_bodies app",
    "local": "patched",
    "http": "errors foreign observe",
    "healthcheck": "",
    "process": "errors foreign observe message hub sqs claims large_bodies app dead_letters engine local http",
    "invocations": "errors foreign observe message hub sqs claims large_bodies app engine process",
    "lambda_": "patched errors hub app observe invocations",
    "producer": "errors foreign message hub sqs",
    "testing": "errors foreign observe message hub sqs claims large_bodies app engine",
    "commands": "errors foreign observe message hub sqs claims large_bodies app dead_letters engine local http process "
    "producer",
    "mail": "errors",
    "installed": "",
    "patched": "",
    "__main__": "installed patched commands",
}
#: What an application loads that only sends; `sqs.clients`, and botocore with it, at its first send.
UNPATCHED = {
    "__init__",
    "app.envelope",
    "app.handler_options",
    "app.routing",
    "errors",
    "foreign.number",
    "foreign.scrub",
    "foreign.secrets",
    "foreign.spans",
    "foreign.text",
    "foreign.trace",
    "foreign.trace_context",
    "hub.backoff",
    "hub.home",
    "message",
    "producer",
    "sqs.answers",
    "sqs.boto",
    "sqs.clients",
    "sqs.codes",
    "sqs.connection_pool",
    "sqs.credentials",
    "sqs.credentials_advice",
    "sqs.dial",
    "sqs.endpoint",
    "sqs.entries",
    "sqs.http_connection",
    "sqs.limits",
    "sqs.queue",
    "sqs.queue_url",
    "sqs.redrive",
    "sqs.requests",
    "sqs.salvage",
    "sqs.shapes",
    "sqs.signed_calls",
    "sqs.sigv4",
    "sqs.sqs_queue",
    "sqs.stream",
    "sqs.wire",
}


@cache
def imports(path: Path) -> frozenset[str]:
    """The full names that a file imports, those inside functions too; `from a import b` is both a and a.b."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = [*path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module(path: Path) -> str:
    """Below `millpond`: "engine.lease"; "engine" for the wing's own page."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


FILES = sorted(HOUSE.rglob("*.py"))
MODULES = {module(path): path for path in FILES}
PUBLIC = {*millpond.__all__}
#: The wings' own pages, which say what is in them; `local`'s also loads it.
PAGES = {module(path) for path in FILES if path.name == "__init__.py"} - {"local"}


def needed(path: Path) -> set[str]:
    """The files of ours that this one imports, "engine.lease"; a public name of `millpond` is nobody's file."""
    names = {name.removeprefix("millpond.") for name in imports(path) if name.startswith("millpond.")}
    return {name for name in names if name in MODULES and name not in PUBLIC | PAGES}


def wing(name: str) -> str:
    return name.partition(".")[0]


def test_every_wing_has_its_row_and_every_row_its_wing():
    assert {wing(name) for name in MODULES} - {"__init__"} == {*MAY_IMPORT}


def test_no_row_lets_two_wings_import_each_other():
    rows = {name: set(allowed.split()) for name, allowed in MAY_IMPORT.items()}
    assert [(one, other) for one in rows for other in rows[one] if one in rows[other]] == []


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"__init__"}))
def test_imports_point_down(name):
    allowed = {wing(name), *MAY_IMPORT[wing(name)].split()}
    assert {other for other in needed(MODULES[name]) if wing(other) not in allowed} == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_two_files_import_each_other(name):
    assert {other for other in needed(MODULES[name]) - {"local"} if name in _below(other)} == set()


@cache
def _below(name: str) -> frozenset[str]:
    """What a file of ours needs, and what those need."""
    found, ahead = set(), [name]
    while ahead:
        more = needed(MODULES[ahead.pop()]) - found - {"local"}
        found |= more
        ahead += more
    return frozenset(found)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name in MAY_IMPORT and "." not in name))
def test_every_wing_says_what_it_is_for_and_what_it_may_import(name):
    page = HOUSE / name / "__init__.py"
    if page.exists() and name != "local":
        assert "may import" in (ast.get_docstring(ast.parse(page.read_text())) or "")


def test_only_what_starts_the_local_queue_or_looks_for_it_knows_it():
    users = {name for name, path in MODULES.items() if wing(name) != "local" and "local" in map(wing, needed(path))}
    assert users == {"process.boot", "commands.send"}


@pytest.mark.parametrize("path", sorted((ROOT / "handlers").glob("*.py")), ids=lambda path: path.stem)
def test_handlers_import_the_standard_library_msgspec_millpond_and_each_other(path):
    allowed = {*sys.stdlib_module_names, "msgspec", "millpond", "handlers"}
    assert {name.partition(".")[0] for name in imports(path)} <= allowed
    assert {wing(name) for name in needed(path)} <= {"errors", "mail"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_engine_never_imports_handlers_or_tests(name):
    roots = {other.partition(".")[0] for other in imports(MODULES[name])}
    assert roots & {"handlers", "tests", "chaos", "bench", "worker"} == set()


@pytest.mark.parametrize(
    ("package", "where"),
    [
        ("boto3", {"sqs.boto"}),
        (
            "botocore",
            {
                "app.secret_calls",
                "claims.table_boto",
                "claims.table_endpoint",
                "commands.check_rights",
                "large_bodies.s3_bodies",
                "sqs.boto",
                "sqs.credentials",
                "sqs.endpoint",
            },
        ),
        ("opentelemetry", {"foreign.spans"}),
    ],
)
def test_only_what_asks_the_sdk_knows_it(package, where):
    assert {name for name, path in MODULES.items() if package in map(wing, imports(path))} == where


@pytest.mark.parametrize("name", sorted(UNPATCHED))
def test_what_a_web_process_loads_imports_no_gevent(name):
    assert {"gevent", "greenlet"} & {wing(one) for one in imports(MODULES[name])} == set()
    wings = {name for name in MODULES if "." not in name}
    assert needed(MODULES[name]) - wings <= UNPATCHED


def ours() -> list[Path]:
    """The files of the library and the handlers; `mail/handler.py` is a link to one of these."""
    return [path for path in (*FILES, *(ROOT / "handlers").glob("*.py")) if not path.is_symlink()]


def twice(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def module_names(path: Path) -> Iterator[tuple[str, str]]:
    """What a module gives a name at its top, and the text of the value: ("MAX_BATCH", "10")."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                values = node.value.elts if isinstance(node.value, ast.Tuple) else None
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                for index, name in enumerate(names):
                    one = values[index] if values and len(names) == len(values) > 1 else node.value
                    yield ast.unparse(name), ast.unparse(one)


def is_alias(name: str, value: str) -> bool:
    return name[:1].isupper() and not name.isupper() and not value.startswith("TypeVar(")


def test_no_two_classes_share_a_name_nor_do_two_aliases_of_types():
    classes, aliases = [], set()
    for path in ours():
        classes += [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        aliases |= {item for item in module_names(path) if is_alias(*item)}
    assert twice([*classes, *(name for name, _ in aliases)]) == set()


def test_no_constants_name_has_two_values():
    """Equal copies may stand apart: `local`, which imports nothing of ours, has its own."""
    values = {
        (name, value) for path in ours() for name, value in module_names(path) if name.isupper() and name[0] != "_"
    }
    assert twice(name for name, _ in values) == set()


def test_no_two_files_share_a_name():
    assert twice(path.stem for path in ours()) - {"__init__", "__main__"} == set()


def test_every_public_name_is_loaded_from_its_home_when_it_is_first_used():
    code = """
import sys, millpond
ours = lambda: {name for name in sys.modules if name.startswith("millpond.")}
assert ours() == set(), ours()
for name in millpond.__all__:
    value = getattr(millpond, name)
    assert value.__module__ in ours() and value.__name__ == name, name
assert sorted(millpond.__all__) == sorted(millpond._HOMES) == millpond.__all__
assert not {"gevent", "boto3"} & set(sys.modules)
from millpond import *
try:
    millpond.nothing
except AttributeError as error:
    assert "no attribute 'nothing'" in str(error)
else:
    raise SystemExit("a name that is not there was found")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True, timeout=30)
