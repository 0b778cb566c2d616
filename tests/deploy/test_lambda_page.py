"""docs/deploy/lambda.md and deploy/lambda: the commands are AWS's own, the package has what the function needs."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import botocore.session
import pytest

from tests.worker_process import ROOT

PAGE = (ROOT / "docs/deploy/lambda.md").read_text()
#: Of the command line itself, not of a service.
OF_THE_CLI = {"--query", "--output", "--zip-file", "--no-enabled"}


def commands() -> list[list[str]]:
    """Every command of AWS on the page, in blocks and in sentences."""
    text = re.sub(r"\n(?=--)", " ", PAGE)
    lines = re.findall(r"^(?:export \w+=\$\()?(aws [a-z].*?)\)?$", text, re.MULTILINE) + re.findall(
        r"`(aws [a-z][^`]*)`", text
    )
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command[1:3]))
def test_each_command_of_aws_has_the_arguments_that_its_service_takes(command: list[str]) -> None:
    _, service, operation, *rest = command
    options = {one for one in rest if one.startswith("--")} - OF_THE_CLI
    if service == "logs" and operation == "tail":  # the command line's own
        assert options == {"--since"}
        return
    model = botocore.session.get_session().get_service_model(service)
    name = "".join(part.capitalize() for part in operation.split("-"))
    members: dict[str, Any] = model.operation_model(name).input_shape.members
    assert options <= {f"--{kebab(member)}" for member in members}
    if operation == "create-event-source-mapping":
        assert rest[rest.index("--function-response-types") + 1] == "ReportBatchItemFailures"


def kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def test_the_commands_are_found() -> None:
    assert len(commands()) >= 14


# --- the package


@pytest.fixture(scope="module")
def package() -> ModuleType:
    spec = importlib.util.spec_from_file_location("package", ROOT / "deploy/lambda/package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "handlers" / "__pycache__").mkdir(parents=True)
    (folder / "handlers" / "work.py").write_text("# handlers\n")
    (folder / "handlers" / "__pycache__" / "work.pyc").write_text("compiled")
    (folder / "config.toml").write_text("[queues.q]\n")
    return folder


def test_a_package_has_the_application_and_millpond(package, app, tmp_path, monkeypatch) -> None:
    calls = []

    def installs(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        calls.append(command)
        (Path(command[command.index("--target") + 1]) / "gevent").mkdir()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(package.subprocess, "run", installs)
    output = tmp_path / "function.zip"
    more = app / "more.txt"
    arguments = ["--app", str(app), "--output", str(output), "--architecture", "arm64", "--requirements", str(more)]
    assert package.main(arguments) == 0
    with zipfile.ZipFile(output) as packed:
        names = set(packed.namelist())
        assert packed.read("main.py") == (ROOT / "deploy/lambda/main.py").read_bytes()
        assert {entry.external_attr >> 16 & 0o444 for entry in packed.infolist()} == {0o444}
    assert {"config.toml", "handlers/work.py", "millpond/lambda_.py", "millpond/mail/handler.py"} <= names
    assert not [name for name in names if "__pycache__" in name]
    (command,) = calls
    assert {"manylinux2014_aarch64", "--only-binary=:all:", str(more)} <= set(command)
    assert [one.partition("==")[0] for one in command if "==" in one] == ["boto3", "gevent", "msgspec", "statsd"]
    first = output.read_bytes()
    assert package.main(arguments) == 0
    assert output.read_bytes() == first  # the same files are the same package


def test_an_applications_own_entry_goes_before_ours(package, app, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(package.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 0))
    (app / "main.py").write_text("# its own\n")
    assert package.main(["--app", str(app), "--output", str(tmp_path / "function.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "function.zip") as packed:
        assert packed.read("main.py") == b"# its own\n"


def test_what_cannot_be_packed_is_said(package, app, tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        package.main(["--app", str(tmp_path)])
    assert "has no config.toml: name the folder that has it, by --app" in capsys.readouterr().err
    monkeypatch.setattr(package.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    assert package.main(["--app", str(app), "--output", str(tmp_path / "function.zip")]) == 1
    assert not (tmp_path / "function.zip").exists()
    monkeypatch.setattr(package.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 0))
    monkeypatch.setattr(package, "MAX_ZIP_BYTES", 1_000)
    assert package.main(["--app", str(app), "--output", str(tmp_path / "function.zip")]) == 1
    assert "function.zip is too large" in capsys.readouterr().err


def test_the_options_on_the_page_are_those_of_the_program() -> None:
    command = [sys.executable, str(ROOT / "deploy/lambda/package.py"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    section = PAGE.partition("### The package")[2].partition("\n## ")[0]
    assert set(re.findall(r"--[a-z]+", section)) <= set(re.findall(r"--[a-z]+", text))
