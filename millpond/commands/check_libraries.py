"""What `check` finds on handlers: whether they outlast the drain, and load libraries that do not fit greenlets."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

from millpond.app.config import AllSettings
from millpond.app.routing import Route
from millpond.commands.finding import Finding
from millpond.process.drain import reserve_seconds

HANDLERS = "handlers"
#: What waits in C, where no greenlet can be switched: docs/libraries.md.
WAITS_IN_C = {
    "MySQLdb": "mysqlclient",
    "pyodbc": "pyodbc",
    "cx_Oracle": "cx_Oracle",
    "ibm_db": "ibm_db",
    "pymssql": "pymssql",
    "confluent_kafka": "confluent-kafka",
    "pylibmc": "pylibmc",
    "pycurl": "pycurl",
    "sqlite3": "sqlite3",
}
#: The methods of a loop that a handler runs itself; asyncio.run has a thread of its own.
_OWN_LOOP = ("run_until_complete", "run_forever")
_THREAD = "@handler(..., thread=True) for the handlers that use it"


def check_libraries(routes: Mapping[str, Route], loaded: Mapping[str, ModuleType] = sys.modules) -> Iterator[Finding]:
    """Yield a warning for each library that holds up all greenlets while it waits; none where all have threads."""
    modules = {route.call.__module__ for route in routes.values() if not route.thread}
    if not modules:
        return
    held = "all other messages and their heartbeats wait while it waits"
    for name, package in WAITS_IN_C.items():
        # Of the standard library's it counts only what the handlers' own modules import: others load it unasked.
        if name in (_imports(modules, loaded) if name in sys.stdlib_module_names else loaded):
            text = f"{package} waits in C, where no greenlet can be switched"
            yield Finding("warning", HANDLERS, text, why=held, mend=_THREAD)
    yield from _psycopg2(loaded, held)
    yield from _own_loops(loaded)
    for name in sorted({route.call.__module__ for route in routes.values() if _runs_loop(route)} & modules):
        text = f"{name} runs an asyncio loop of its own in a greenlet"
        why = "it holds up all others, and a second one in the same thread fails"
        yield Finding("warning", HANDLERS, text, why=why, mend="call asyncio.run(), which has a thread of its own here")


def check_drain(settings: AllSettings, routes: Mapping[str, Route]) -> Iterator[Finding]:
    """Yield which handlers may run for longer than the drain waits for them."""
    seconds = settings.worker.drain_limit - reserve_seconds(settings.worker.drain_limit)
    for thread in (True, False):
        longer = [
            name for name, one in sorted(routes.items()) if one.thread == thread and one.timeout_seconds > seconds
        ]
        if longer:
            text = f"handlers that may run for longer than the drain waits ({seconds:.3g} s): {', '.join(longer)}"
            why = "at a deploy they are stopped, and their messages run again"
            if thread:
                why = "at a deploy their messages are given back and run again, while their threads go on to the end"
            mend = "raise drain_seconds with the platform's grace period, or make them idempotent"
            yield Finding("warning" if thread else "note", HANDLERS, text, why=why, mend=mend)


def _imports(names: set[str], loaded: Mapping[str, ModuleType]) -> set[str]:
    """The modules that these modules have as their own names."""
    values = [value for name in names if name in loaded for value in vars(loaded[name]).values()]
    return {value.__name__.partition(".")[0] for value in values if isinstance(value, ModuleType)}


def _psycopg2(loaded: Mapping[str, ModuleType], held: str) -> Iterator[Finding]:
    extensions = loaded.get("psycopg2.extensions")
    if extensions is not None and extensions.get_wait_callback() is None:
        text = "psycopg2 has no wait callback, so it waits in C"
        mend = f"psycogreen.gevent.patch_psycopg() in the handlers' module, psycopg 3, or {_THREAD}"
        yield Finding("warning", HANDLERS, text, why=held, mend=mend)


def _own_loops(loaded: Mapping[str, ModuleType]) -> Iterator[Finding]:
    if "grpc" in loaded and "grpc.experimental.gevent" not in loaded:
        text = "grpc has threads and a loop of its own that know no greenlets"
        mend = "grpc.experimental.gevent.init_gevent() before the first channel, or a process of its own"
        yield Finding("warning", HANDLERS, text, why="a call can hang, or hold up all other messages", mend=mend)
    if "uvloop" in loaded:
        text = "uvloop brings a loop that knows no greenlets"
        yield Finding("warning", HANDLERS, text, why="it holds up all others", mend="leave it out: asyncio.run works")


def _runs_loop(route: Route) -> bool:
    code = getattr(route.call, "__code__", None)
    return code is not None and any(name in code.co_names for name in _OWN_LOOP)
