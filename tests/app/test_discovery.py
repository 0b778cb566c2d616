"""Discovery: which files become handlers modules, under which names, and what a boot says of those that cannot."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from millpond.app.discovery import Handlers, discover
from millpond.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
HANDLER = """
from millpond import handler
@handler("{type}")
def run(payload: dict): ...
"""
_numbers = itertools.count(1)


class Application:
    """A folder with a config file and a folder of handlers, whose name no other test uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"found{next(_numbers)}"

    def write(self, file: str, text: str = "", **values: str) -> None:
        path = self.folder / self.name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).format(**values) if values else dedent(text))

    def discover(
        self, *entries: str, tables: Mapping[str, Mapping[str, Any]] | None = None, local: bool = True
    ) -> Handlers:
        return discover(entries or [self.name], self.folder, tables or {}, {}, local=local)

    def findings(self, *entries: str, **more: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.discover(*entries, **more)
        return list(caught.value.findings)

    def module(self, name: str) -> Any:
        return sys.modules[f"{self.name}.{name}"]


@pytest.fixture
def application(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("millpond.app.routing._handlers", [])
    monkeypatch.setattr("millpond.app.routing._arounds", [])
    before = set(sys.modules)
    yield Application(tmp_path)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is None or str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


# --- what is found


def test_each_file_of_the_folder_is_a_module_of_a_package_of_its_name(application):
    application.write("invoice.py", HANDLER, type="invoice.created")
    application.write("parcel.py", HANDLER, type="parcel.sent")
    routes = application.discover().routes
    assert {route.event_type: route.where for route in routes.values()} == {
        "invoice.created": f"{application.name}.invoice.run",
        "parcel.sent": f"{application.name}.parcel.run",
    }


def test_a_folder_is_looked_for_beside_the_config_file_wherever_the_worker_was_started(application, monkeypatch):
    application.write("a.py", HANDLER, type="a")
    (application.folder / "elsewhere").mkdir()
    monkeypatch.chdir(application.folder / "elsewhere")
    assert set(application.discover().routes) == {"a"}
    assert application.findings("elsewhere/nothing") == [
        f"[worker] handlers: 'elsewhere/nothing' is neither a folder in {application.folder} nor a module that is found"
    ]


def test_where_the_folder_is_absent_and_a_module_has_its_name_the_finding_names_both(application, monkeypatch):
    elsewhere = application.folder / "elsewhere"
    package = elsewhere / f"{application.name}y"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(elsewhere))
    for init in (None, package / "__init__.py"):
        if init is not None:
            init.write_text("")
        [finding, *_] = application.findings(package.name)
        assert finding.startswith(
            f"[worker] handlers: there is no folder {application.folder / package.name}, "
            f"and the module {package.name!r} ({init or package}"
        )
        assert finding.endswith(f"has no function marked @handler: name the folder, from {application.folder}")
        del sys.modules[package.name]


def test_a_folder_further_down_has_its_last_name(application):
    application.write(f"deep/{application.name}x/a.py", HANDLER, type="a")
    assert application.discover(f"{application.name}/deep/{application.name}x").routes["a"].where == (
        f"{application.name}x.a.run"
    )


def test_names_with_an_underscore_and_folders_within_are_not_loaded(application):
    application.write("a.py", HANDLER, type="a")
    application.write("_helpers.py", "raise RuntimeError")
    application.write("inner/b.py", "raise RuntimeError")
    application.write("notes.txt", "no python")
    assert set(application.discover().routes) == {"a"}


@pytest.mark.parametrize("init", [True, False], ids=["with __init__.py", "without"])
def test_files_of_the_folder_import_each_other(application, init):
    if init:
        application.write("__init__.py", "WHAT = 'package'")
    application.write("_helpers.py", "EVENT_TYPE = 'from.a.helper'")
    application.write(
        "a.py",
        """
        from millpond import handler
        from . import _helpers
        from ._helpers import EVENT_TYPE
        import {name}._helpers as again
        assert again is _helpers
        @handler(EVENT_TYPE)
        def run(payload: dict): ...
        """,
        name=application.name,
    )
    assert set(application.discover().routes) == {"from.a.helper"}
    if init:
        assert sys.modules[application.name].WHAT == "package"


def test_a_file_named_like_a_standard_module_does_not_hide_it(application):
    application.write("email.py", "from email.message import EmailMessage\n" + HANDLER, type="email.send")
    application.write("queue.py", "import email.policy, queue\nassert queue.Queue\n" + HANDLER, type="b")
    assert set(application.discover().routes) == {"email.send", "b"}
    assert str(application.folder / application.name) not in sys.path
    import email
    import queue

    assert str(application.folder) not in email.__file__ + queue.__file__


def test_the_folders_parent_can_be_imported_from(application):
    (application.folder / f"{application.name}_shared.py").write_text("TYPE = 'shared'")
    application.write(
        "a.py", "from {name}_shared import TYPE\n" + HANDLER.replace('"{type}"', "TYPE"), name=application.name
    )
    assert set(application.discover().routes) == {"shared"}


def test_the_projects_own_modules_are_not_hidden_by_what_lies_beside_the_folder(application):
    (application.folder / "json.py").write_text("raise RuntimeError('not the json that was asked for')")
    application.write("a.py", "import json.tool\n" + HANDLER, type="a")
    assert set(application.discover().routes) == {"a"}


def test_a_dotted_module_is_imported_from_where_python_finds_it(application, monkeypatch):
    application.write("__init__.py")
    application.write("inner/__init__.py")
    application.write("inner/jobs.py", HANDLER, type="dotted")
    monkeypatch.syspath_prepend(application.folder)
    name = f"{application.name}.inner.jobs"
    assert application.discover(name).routes["dotted"].where == f"{name}.run"


def test_folders_and_modules_together_are_one_set_of_routes(application):
    application.write("a.py", HANDLER, type="a")
    application.write("inner_/__init__.py")
    application.write("inner_/b.py", HANDLER, type="b")
    assert set(application.discover(application.name, f"{application.name}.inner_.b").routes) == {"a", "b"}


def test_a_second_look_finds_the_same_modules(application):
    application.write("a.py", HANDLER, type="a")
    first = application.discover().routes
    assert application.discover().routes.keys() == first.keys()


# --- what cannot be loaded


def test_a_mistyped_folder_or_module_is_met_by_the_one_that_is_there(application):
    application.write("a.py", HANDLER, type="a")
    (application.folder / "handlers_of_mine").mkdir()
    [finding] = application.findings("handlers_of_min")
    assert finding.endswith(" nor a module that is found; did you mean handlers_of_mine?")
    [finding] = application.findings("millpond.mail.handlers")
    assert finding == (
        "[worker] handlers: there is no module 'millpond.mail.handlers'; did you mean millpond.mail.handler?"
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="an ImportError does not say which name it misses")
def test_a_mistyped_name_of_millpond_is_met_by_the_one_that_it_has(application):
    application.write("a.py", "from millpond import Handler")
    [finding] = application.findings()
    assert "cannot import name 'Handler' from 'millpond'" in finding
    assert "; did you mean handler? (" in finding


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def f(:", "SyntaxError: invalid syntax (wrong.py, line 1)"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise RuntimeError('odd')", "RuntimeError: odd"),
        ("from . import _nothing", "ImportError: cannot import name '_nothing'"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_a_finding_and_the_others_are_looked_at(application, text, says):
    application.write("wrong.py", text)
    application.write("worse.py", "1 / 0")
    first, second = sorted(application.findings(), reverse=True)
    assert first.startswith(f"{application.name}.wrong cannot be loaded: {says}")
    assert second.startswith(f"{application.name}.worse cannot be loaded: ZeroDivisionError")


def test_a_finding_names_the_line_that_raised(application):
    application.write("_deeper.py", "\n\nraise RuntimeError('odd')")
    application.write("wrong.py", "from . import _deeper")
    [finding] = application.findings()
    assert finding.endswith(f"({application.folder / application.name / '_deeper.py'}:3)")


@pytest.mark.parametrize(
    "text",
    ["import json\njson.loads('')", "from millpond import handler\n@handler\ndef run(payload: dict): ..."],
    ids=["a library's error", "a bare @handler"],
)
def test_a_finding_names_the_users_line_and_not_a_librarys_below_it(application, text, monkeypatch):
    application.write("bad.py", text)
    monkeypatch.chdir(application.folder)
    [finding] = application.findings()
    assert finding.endswith(f" ({application.name}/bad.py:2)")


@pytest.mark.parametrize("text", ["def f(:", "import nothing_of_this_name"])
def test_a_finding_shows_none_of_pythons_own_lines(application, text):
    application.write("wrong.py", text)
    assert "importlib" not in "".join(application.findings())


def test_a_package_whose_init_cannot_be_loaded_is_a_finding(application):
    application.write("__init__.py", "raise RuntimeError('odd')")
    application.write("a.py", HANDLER, type="a")
    for _ in range(2):
        [finding] = application.findings()
        assert finding.startswith(f"{application.name} cannot be loaded: RuntimeError: odd")


def test_wrong_handlers_wrong_settings_and_wrong_files_are_told_at_once(application):
    application.write("a.py", "from millpond import handler\n@handler('a')\ndef run(payload): ...\n")
    application.write("b.py", SETTINGS)
    application.write("c.py", "import nothing_of_this_name")
    tables = {"b": {"size": "large"}, "d": {}}
    found = "\n".join(application.findings(tables=tables))
    for part in ("a.run: annotate 'payload'", "[handlers.b] size", "c cannot be loaded", "[handlers.d]"):
        assert part in found
    assert len(application.findings(tables=tables)) == 4


@pytest.mark.parametrize("name", ["gevent", "json", "millpond"])
def test_a_folder_named_like_an_imported_module_is_a_finding(application, name):
    application.name = name
    application.write("a.py", HANDLER, type="a")
    [finding] = application.findings()
    assert finding == (
        f"[worker] handlers: the folder's name {name!r} is a module's already: rename {application.folder / name}"
    )


def test_a_folder_named_like_a_module_that_is_not_imported_yet_is_a_finding(application, monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    application.name = "wave"
    application.write("a.py", HANDLER, type="a")
    [finding] = application.findings()
    assert "is a module's already" in finding


@pytest.mark.parametrize("entry", ["nothing here", "a/b", "../away", ".", "a..b", ""])
def test_an_entry_that_is_neither_folder_nor_module_is_a_finding(application, entry):
    [finding] = application.findings(entry)
    assert "[worker] handlers" in finding


def test_a_folder_that_does_not_exist_is_named_with_where_it_was_looked_for(application):
    [finding] = application.findings("handlers_of_nobody")
    assert "handlers_of_nobody" in finding
    assert str(application.folder) in finding


def test_handlers_without_a_handler_are_a_finding(application):
    application.write("a.py", "x = 1")
    assert application.findings() == [
        f"[worker] handlers = [{application.name!r}]: no function there is marked @handler"
    ]


def test_two_modules_with_one_name_are_a_finding(application):
    application.write("a.py", SETTINGS)
    application.write(f"{application.name}y/a.py", SETTINGS.replace('"sized"', '"other"'))
    [finding] = application.findings(application.name, f"{application.name}/{application.name}y")
    assert "[handlers.a]" in finding


def test_a_module_that_is_named_twice_is_set_up_and_torn_down_once(application):
    application.write("a.py", SETTINGS)
    found = application.discover(application.name, f"{application.name}.a")
    assert len(found.setups) == 1
    assert len(found.teardowns) == 1


# --- settings

SETTINGS = """
import msgspec
from millpond import handler

class Settings(msgspec.Struct):
    size: int = 1
    name: str = ""

    def __post_init__(self):
        if self.size == 13:
            raise ValueError("size: 13 brings bad luck")

given = []

def setup(settings: Settings) -> None:
    given.append(settings)

def teardown() -> None:
    given.append("teardown")

@handler("sized")
def run(payload: dict): ...
"""


def test_a_modules_table_is_decoded_into_its_settings_and_given_to_its_setup(application):
    application.write("a.py", SETTINGS)
    application.write("b.py", HANDLER, type="b")
    found = application.discover(tables={"a": {"size": "5", "name": "x"}})
    given = application.module("a").given
    assert given == []
    for call in [*found.setups, *found.teardowns]:
        call()
    settings, teardown = given
    assert (settings.size, settings.name, teardown) == (5, "x", "teardown")


def test_without_a_table_the_settings_have_their_defaults(application):
    application.write("a.py", SETTINGS)
    [setup] = application.discover().setups
    setup()
    assert application.module("a").given[0].size == 1


@pytest.mark.parametrize(
    ("table", "finding"),
    [
        ({"size": "large"}, "[handlers.a] size: Expected `int`"),
        ({"sise": 5}, "[handlers.a] sise: no such key; did you mean size?"),
        ({"size": 13}, "[handlers.a]: size: 13 brings bad luck"),
    ],
)
def test_settings_that_do_not_fit_are_a_finding(application, table, finding):
    application.write("a.py", SETTINGS)
    [found] = application.findings(tables={"a": table})
    assert found.startswith(finding)


def test_a_table_for_a_module_that_does_not_exist_is_a_finding(application):
    application.write("a.py", SETTINGS)
    assert application.findings(tables={"b": {}}) == ["[handlers.b]: there is no handlers module 'b'; there are: a"]


def test_a_table_that_is_nearly_a_modules_name_is_told_the_name(application):
    application.write("email.py", HANDLER, type="a")
    [finding] = application.findings(tables={"emails": {}})
    assert finding == "[handlers.emails]: there is no handlers module 'emails'; did you mean email?"


def test_a_module_may_name_its_table_itself(application):
    application.write("a.py", f'SETTINGS_TABLE = "b"\n{SETTINGS}')
    [setup] = application.discover(tables={"b": {"size": 5}}).setups
    setup()
    assert application.module("a").given[0].size == 5
    assert application.findings(tables={"a": {}}) == ["[handlers.a]: there is no handlers module 'a'; there are: b"]


@pytest.mark.parametrize("value", ["5", "''", "None"])
def test_a_table_that_has_no_name_is_a_finding(application, value):
    application.write("a.py", f"SETTINGS_TABLE = {value}\n{SETTINGS}")
    text = f"SETTINGS_TABLE = {value}: it is the name of a table, NAME for [handlers.NAME]"
    assert f"{application.name}.a: {text}" in application.findings()


def test_the_e_mail_handler_under_both_its_names_is_a_clear_finding():
    with pytest.raises(ConfigError) as caught:
        discover(["handlers", "millpond.mail.handler"], ROOT, {}, {}, local=True)
    table, route = caught.value.findings
    two = "handlers.email and millpond.mail.handler"
    assert table == f"[handlers.email] is the table of two modules, {two}: rename one, or load only one"
    assert "send_email: 'email.send' has a handler already: " in route


@pytest.mark.parametrize(("hook", "line"), [("setup", 5), ("teardown", 6)])
def test_a_hook_that_fails_says_whose_it_is_and_where_and_has_its_traceback_at_debug(
    application, monkeypatch, caplog, hook, line
):
    other, own = ("teardown()", "setup(settings)") if hook == "setup" else ("setup(settings)", "teardown()")
    text = f"import msgspec, os\nclass Settings(msgspec.Struct): ...\ndef {other}: ...\ndef {own}:\n"
    text += "\n" * (line - 5) + "    os.stat('no/database')\n"
    application.write("slow.py", text + HANDLER.format(type="a"))
    monkeypatch.chdir(application.folder)
    found = application.discover()
    [failing] = found.setups if hook == "setup" else found.teardowns
    with caplog.at_level("DEBUG", "millpond"), pytest.raises(ConfigError) as caught:
        failing.run()
    name = application.name
    assert str(caught.value).startswith(f"{name}.slow: {hook}() failed: FileNotFoundError: ")
    assert str(caught.value).endswith(f" ({name}/slow.py:{line})")
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_table_for_a_module_without_settings_is_a_finding(application):
    application.write("a.py", HANDLER, type="a")
    assert application.findings(tables={"a": {"size": 5}}) == [
        f"[handlers.a]: {application.name}.a has no class Settings to read it into"
    ]
    assert application.discover(tables={"a": {}}).setups == []


@pytest.mark.parametrize(
    "text",
    ["def setup(settings): ...", "class Settings: ...\ndef setup(settings): ...", "Settings = 5", "setup = 5"],
)
def test_settings_and_setup_come_together_or_are_a_finding(application, text):
    application.write("a.py", text + "\n" + HANDLER.format(type="a"))
    assert application.findings() == [
        f"{application.name}.a: settings need both a class Settings(msgspec.Struct) and setup(settings); "
        "a setup that needs none has an empty class Settings"
    ]


@pytest.mark.parametrize("local", [True, False])
def test_a_setup_that_asks_is_told_whether_the_queues_are_local(application, local):
    text = SETTINGS.replace("setup(settings: Settings)", "setup(settings: Settings, local: bool)")
    application.write("a.py", text.replace("append(settings)", "append(local)"))
    [setup] = application.discover(local=local).setups
    setup()
    assert application.module("a").given == [local]


def test_the_projects_own_handlers_are_found_in_a_process_of_their_own():
    code = """
    from pathlib import Path
    from millpond.app.discovery import discover
    found = discover(["handlers"], Path.cwd(), {}, {}, local=True)
    assert "email.send" in found.routes, found
    assert found.setups and found.teardowns  # the e-mails' own; the reader's may stand beside them
    """
    subprocess.run([sys.executable, "-W", "error", "-c", dedent(code)], cwd=ROOT, check=True, timeout=30)


def test_a_handler_in_a_sub_folder_that_is_not_loaded_is_logged_and_one_that_is_named_is_not(application, caplog):
    application.write("top.py", HANDLER, type="a")
    application.write("more/work.py", HANDLER, type="b")
    application.write("more/helper.py", "from millpond import handler")
    assert set(application.discover().routes) == {"a"}
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "handlers.skipped"]
    assert str(application.folder / application.name / "more" / "work.py") in record.getMessage()
    caplog.clear()
    assert set(application.discover(application.name, f"{application.name}/more").routes) == {"a", "b"}
    assert caplog.records == []
