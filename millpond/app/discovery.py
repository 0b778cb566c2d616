"""Discovery: the folders and modules of [worker] handlers -> loaded modules, their routes and their settings."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

import millpond
from millpond.app.config import AllSettings, handler_settings
from millpond.app.routing import Route, routes
from millpond.app.type_settings import TypeSettings, with_types
from millpond.errors import ConfigError
from millpond.foreign.nearest import did_you_mean, nearest
from millpond.foreign.text import shown
from millpond.foreign.trace import describe, raised_at, traceback_of
from millpond.observe import log


class Hook(msgspec.Struct, frozen=True):
    """A setup(), preflight() or teardown() of the user's, with its module's name. Calling it calls the user's."""

    module: str
    name: str
    function: Callable[[], object]

    def __call__(self) -> object:
        return self.function()

    def run(self) -> None:
        """Call it. Raises ConfigError that says whose it is and where it failed; its own ConfigError stays as it is."""
        try:
            self.function()
        except ConfigError:
            raise
        except Exception as error:  # the user's code
            text = f"{self.module}: {self.name}() failed: {describe(error)}{_where(self.module, error)}"
            log.event(logging.DEBUG, f"{self.name}.failed", text, traceback=traceback_of(error))
            raise ConfigError(text) from None


class Handlers(msgspec.Struct, frozen=True):
    """Everything in the user's modules: routes by message type, and what to call before and after."""

    routes: dict[str, Route]
    setups: Sequence[Hook]
    teardowns: Sequence[Hook]
    preflights: Sequence[Hook] = ()


def handlers_of(settings: AllSettings) -> Handlers:
    """Load the handlers that these settings name, as `discover` does. Raises ConfigError with every finding."""
    local = all(queue.is_local for queue in settings.queues.values())
    folders = settings.worker.handlers
    return discover(folders, settings.folder, settings.handlers, settings.types, local=local)


def discover(
    entries: Sequence[str],
    folder: Path,
    tables: Mapping[str, Mapping[str, Any]],
    types: Mapping[str, TypeSettings],
    *,
    local: bool,
) -> Handlers:
    """Load the handlers. `folder` is the config file's, `tables` are its [handlers.<module>], `types` its [types].

    `local`: every queue is local; passed to a setup(settings, local) that asks for it.
    Raises ConfigError with every finding.
    """
    findings: list[str] = []
    modules = load_modules(entries, folder, findings)
    own = {} if findings else types  # of a module that was not loaded no type is known
    setups: list[Hook] = []
    names = by_table(modules, findings)
    findings += [_no_module(name, names) for name in tables if name not in names]
    for name, module in names.items():
        calls = _collect(findings, partial(setup_calls, name, module, tables.get(name), local))
        setups += [Hook(module.__name__, "setup", call) for call in calls]
    found = _collect(findings, lambda: [with_types(routes(module.__name__ for module in modules), own)])
    findings += [
        f"[worker] handlers: there is no folder {folder / module.__name__}, and the module {module.__name__!r} "
        f"({_place(module)}) has no function marked @handler: name the folder, from {folder}"
        for module in modules
        if module.__name__ in entries and hasattr(module, "__path__") and not routes([module.__name__])
    ]
    if not findings and not found[0]:
        findings.append(f"[worker] handlers = {list(entries)!r}: no function there is marked @handler")
    if findings:
        raise ConfigError(*findings)
    teardowns = [
        Hook(module.__name__, "teardown", module.teardown)
        for module in modules
        if callable(getattr(module, "teardown", None))
    ]
    preflights = [
        Hook(module.__name__, "preflight", module.preflight)
        for module in modules
        if getattr(getattr(module, "preflight", None), "__module__", None) == module.__name__
    ]
    return Handlers(found[0], setups, teardowns, preflights)


def _no_module(name: str, names: Mapping[str, ModuleType]) -> str:
    return f"[handlers.{name}]: there is no handlers module {name!r}; {did_you_mean(name, names)}"


def _place(module: ModuleType) -> str:
    return str(module.__file__ or next(iter(module.__path__), "nowhere"))


def by_table(modules: Sequence[ModuleType], findings: list[str]) -> dict[str, ModuleType]:
    """The modules by the name of their table: the module's SETTINGS_TABLE, or else the last part of its own name."""
    names: dict[str, ModuleType] = {}
    for module in modules:
        name = getattr(module, "SETTINGS_TABLE", module.__name__.rpartition(".")[2])
        if not isinstance(name, str) or not name:
            text = f"SETTINGS_TABLE = {shown(repr(name))}: it is the name of a table, NAME for [handlers.NAME]"
            findings.append(f"{module.__name__}: {text}")
        elif names.setdefault(name, module) is not module:
            two = f"{names[name].__name__} and {module.__name__}"
            findings.append(f"[handlers.{name}] is the table of two modules, {two}: rename one, or load only one")
    return names


def _collect(findings: list[str], find: Callable[[], list[Any]]) -> list[Any]:
    try:
        return find()
    except ConfigError as error:
        findings += error.findings
        return []


def load_modules(entries: Sequence[str], folder: Path, findings: list[str]) -> list[ModuleType]:
    """Import every module that the entries name; an import that fails is a finding."""
    modules: dict[str, ModuleType] = {}
    folders: list[Path] = []
    for entry in entries:
        path = (folder / entry).resolve()
        if path.is_dir():
            folders.append(path)
            names = _package(path, findings)
        elif all(part.isidentifier() for part in entry.split(".")) and _is_found(entry):
            names = [entry]
        else:
            near = "" if "/" in entry else nearest(entry, [one.name for one in folder.iterdir() if one.is_dir()])
            text = f"[worker] handlers: {entry!r} is neither a folder in {folder} nor a module that is found"
            findings.append(f"{text}; did you mean {near}?" if near else text)
            continue
        modules |= {name: module for name in names if (module := _import(name, findings)) is not None}
    _log_skipped(folders)
    return list(modules.values())


def _log_skipped(folders: Sequence[Path]) -> None:
    """Log each file with a handler that lies in a sub-folder, where it is not loaded."""
    for file in sorted(file for folder in folders for file in folder.glob("*/**/*.py")):
        with suppress(OSError):
            if file.parent not in folders and b"\n@handler(" in file.read_bytes():
                text = f"{file} has a handler and is not loaded: add the folder {file.parent} to [worker] handlers"
                log.event(logging.WARNING, "handlers.skipped", text)


def _is_found(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module.partition(".")[0]) is not None


def _package(path: Path, findings: list[str]) -> list[str]:
    """Make the folder a package of its own name; the names of its modules.

    The parent goes on sys.path, the folder never: its `email.py` would shadow the standard library's.
    """
    name = path.name
    if _is_taken(name, path):
        findings.append(f"[worker] handlers: the folder's name {name!r} is a module's already: rename {path}")
        return []
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    if name not in sys.modules:
        try:
            _load_package(name, path)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            findings.append(_cannot_load(name, error))
            return []
    return [f"{name}.{file.stem}" for file in sorted(path.glob("*.py")) if not file.name.startswith("_")]


def _is_taken(name: str, path: Path) -> bool:
    """True where this name leads to another module than the folder."""
    if name not in sys.modules:
        return name in sys.stdlib_module_names
    return path not in [Path(place).resolve() for place in getattr(sys.modules[name], "__path__", ())]


def _load_package(name: str, path: Path) -> None:
    init = path / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        name, init if init.exists() else None, submodule_search_locations=[str(path)]
    )
    if spec is None:  # a folder without __init__.py
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(path)]
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    if spec.loader is not None:
        spec.loader.exec_module(package)


def _import(name: str, findings: list[str]) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's module: anything can come out of it
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == name
        findings.append(_no_entry(name) if is_missing else _cannot_load(name, error))
        return None


def _no_entry(name: str) -> str:
    """For a dotted module that is not in its package: with the nearest one that is."""
    package = sys.modules.get(name.rpartition(".")[0])
    found = pkgutil.iter_modules(getattr(package, "__path__", []), f"{name.rpartition('.')[0]}.")
    near = nearest(name, [one.name for one in found])
    return f"[worker] handlers: there is no module {name!r}" + (f"; did you mean {near}?" if near else "")


def _cannot_load(name: str, error: BaseException) -> str:
    near = ""
    if isinstance(error, ImportError) and error.name == "millpond":  # name_from: from Python 3.12 on
        near = nearest(str(getattr(error, "name_from", "")), millpond.__all__)
    meant = f"; did you mean {near}?" if near else ""
    return f"{name} cannot be loaded: {describe(error)}{meant}{_where(name, error)}"


def _where(module: str, error: BaseException) -> str:
    """The end of a finding: the last line of the user's own that led to an error, or else where it was raised."""
    top = module.partition(".")[0]
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(BaseException.__dict__["__traceback__"].__get__(error))
        if str(frame.f_globals.get("__name__")).partition(".")[0] == top
    ]
    file, line = places[-1] if places else raised_at(error)
    return f" ({_shown_path(file)}:{line})" if file and "importlib" not in file else ""


def _shown_path(file: str) -> str:
    """A path as seen from the folder in which the worker was started, where it lies below that."""
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def setup_calls(
    name: str, module: ModuleType, table: Mapping[str, Any] | None, local: bool
) -> list[Callable[[], object]]:
    """The calls that set a module up with this table: its setup() or none. Raises ConfigError for what does not fit."""
    setup, settings_type = getattr(module, "setup", None), getattr(module, "Settings", None)
    if setup is None and settings_type is None:
        if table:
            raise ConfigError(f"[handlers.{name}]: {module.__name__} has no class Settings to read it into")
        return []
    if not (callable(setup) and isinstance(settings_type, type) and issubclass(settings_type, msgspec.Struct)):
        text = f"{module.__name__}: settings need both a class Settings(msgspec.Struct) and setup(settings)"
        raise ConfigError(f"{text}; a setup that needs none has an empty class Settings")
    settings = handler_settings(settings_type, f"handlers.{name}", table or {})
    if "local" in inspect.signature(setup).parameters:
        return [lambda: setup(settings, local=local)]
    return [lambda: setup(settings)]
