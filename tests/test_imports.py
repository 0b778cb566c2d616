"""The house: imports point down, and what stands apart stays apart. Read from the source, functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import millpond

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "millpond"

#: A file imports only from floors below its own. `__init__` is not on a floor: it loads the others when asked.
FLOORS = [
    {"errors"},
    {"foreign", "home"},
    {"message", "clock", "metrics", "outlet", "pool", "patch", "samples", "screen", "stream", "sigv4"},
    {
        "backoff",
        "queue",
        "routing",
        "log",
        "tables",
        "permits",
        "countdown",
        "pulse",
        "codes",
        "connection",
        "dial",
        "aws",
    },
    {"config", "envelope", "bounded", "batch", "poller", "connections", "credentials", "shapes", "trouble"},
    {"lease", "discovery", "boto", "wire", "misfit"},
    {"sqs", "watchdog", "ending"},
    {"producer", "lifeline", "children"},
    {"delivery", "threads", "loops"},
    {"processor", "deadletter", "groups", "kept"},
    {"settler"},
    {"account"},
    {"consumer", "testing"},
    {"service"},
    {"boot", "check_queue", "send"},
    {"check", "demo"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}
#: What an application loads that only sends; `sqs`, and botocore with it, at its first send.
UNPATCHED = {
    "__init__",
    "aws",
    "backoff",
    "boto",
    "codes",
    "connection",
    "connections",
    "credentials",
    "dial",
    "errors",
    "foreign",
    "home",
    "message",
    "producer",
    "queue",
    "routing",
    "shapes",
    "sigv4",
    "sqs",
    "stream",
    "wire",
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


def needed(path: Path) -> set[str]:
    """The files of the engine that this one imports; `local` for all that is in the folder."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("millpond.")}
    return {name for name in names if name in STEMS or name == "local"}


FILES = sorted(ENGINE.glob("*.py"))
STEMS = [path.stem for path in FILES if path.stem != "__init__"]


def test_every_file_has_its_floor_and_every_name_on_a_floor_its_file():
    assert sorted(name for floor in FLOORS for name in floor) == sorted(STEMS)


@pytest.mark.parametrize("name", STEMS)
def test_imports_point_down(name):
    below = {other for floor in FLOORS[: FLOOR_OF[name]] for other in floor}
    assert needed(ENGINE / f"{name}.py") - {"local"} - below == set()


def test_only_what_starts_the_embedded_queue_or_looks_for_it_knows_it():
    assert {name for name in STEMS if "local" in needed(ENGINE / f"{name}.py")} == {"boot", "send"}


@pytest.mark.parametrize("path", sorted((ENGINE / "local").glob("*.py")), ids=lambda path: path.stem)
def test_the_embedded_queue_knows_nothing_of_the_engine(path):
    ours = {name for name in imports(path) if name.partition(".")[0] == "millpond"}
    assert {name for name in ours if not name.startswith("millpond.local")} <= {"millpond"}


@pytest.mark.parametrize("path", sorted((ROOT / "handlers").glob("*.py")), ids=lambda path: path.stem)
def test_handlers_import_the_standard_library_msgspec_millpond_and_each_other(path):
    allowed = {*sys.stdlib_module_names, "msgspec", "millpond", "handlers"}
    assert {name.partition(".")[0] for name in imports(path)} <= allowed
    engine = {name for name in imports(path) if name.startswith("millpond.")}
    public = {f"millpond.{name}" for name in millpond.__all__} | {"millpond.errors"}
    assert {name for name in engine if name not in public and not name.startswith("millpond.errors.")} == set()


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda path: str(path.relative_to(ENGINE)))
def test_the_engine_never_imports_handlers_or_tests(path):
    assert {name.partition(".")[0] for name in imports(path)} & {"handlers", "tests", "bench", "worker"} == set()


@pytest.mark.parametrize(("package", "where"), [("boto3", {"boto"}), ("botocore", {"aws", "boto", "credentials"})])
def test_only_what_asks_the_sdk_knows_it(package, where):
    assert {path.stem for path in ENGINE.rglob("*.py") if package in {n.split(".")[0] for n in imports(path)}} == where


@pytest.mark.parametrize("name", sorted(UNPATCHED))
def test_what_a_web_process_loads_imports_no_gevent(name):
    assert {"gevent", "greenlet"} & {one.partition(".")[0] for one in imports(ENGINE / f"{name}.py")} == set()
    assert needed(ENGINE / f"{name}.py") <= UNPATCHED


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
