"""deploy/docker: the Dockerfile and compose.yaml hold what their page promises, and a planted mistake is found.

Whether the image works is shown by tests/image (`make image`): it builds it, and runs it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "deploy/docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = (DOCKER / "compose.yaml").read_text()
PROGRAMS = Path(sys.executable).parent
#: Names that a tag of no version has.
MOVING = ("latest", "slim", "edge", "main")


def run(*command: object, text: str = "") -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, input=text, capture_output=True, text=True, timeout=60, check=False)


# --- the Dockerfile


def steps(text: str) -> list[list[tuple[str, str]]]:
    """The stages of a Dockerfile, each a list of (instruction, rest); what stands before the first FROM is stage 0."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    stages: list[list[tuple[str, str]]] = [[]]
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            stages.append([])
        stages[-1].append((instruction, rest.strip()))
    return stages


def wrong_in_dockerfile(text: str) -> Iterator[str]:
    """What breaks a promise of docs/deploy/docker.md, in words."""
    arguments, *_, last = steps(text)
    for image in (rest.partition("=")[2] for instruction, rest in arguments if instruction == "ARG"):
        if not is_pinned(image):
            yield f"{image} has no version"
    found = dict(last)
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", found.get("USER", "")):
        yield "its user is root, or a name that Kubernetes cannot check"
    if found.get("STOPSIGNAL") != "SIGTERM":
        yield "it is not stopped by SIGTERM"
    if found.get("HEALTHCHECK", "").partition("CMD ")[2] != '["python", "-m", "millpond.healthcheck"]':
        yield "its health is not checked by millpond.healthcheck"
    if found.get("CMD") != json.dumps((ROOT / "Procfile").read_text().strip().rpartition(": ")[2].split()):
        yield "its command is not the Procfile's, without a shell"
    if any(instruction in ("RUN", "ADD", "ENTRYPOINT") for instruction, _ in last):
        yield "the last stage runs a command: what that leaves behind is in the image"
    if any(rest != "--from=build /app /app" for instruction, rest in last if instruction == "COPY"):
        yield "the last stage copies more than what was built"
    if not any(
        instruction == "RUN" and "--only-binary :all:" in rest for stage in steps(text) for instruction, rest in stage
    ):
        yield "a package can be compiled, for which the base has no compiler"


def is_pinned(image: str) -> bool:
    tag = image.rpartition("/")[2].partition(":")[2]
    return bool(re.search(r"\d+\.\d+", tag)) and tag not in MOVING


MISTAKES = {
    "a base without a version": (r"python:3\.13\.14-slim-trixie", "python:slim"),
    "uv without a version": (r"uv:0\.13\.8", "uv:latest"),
    "root": (r"USER 65532:65532", "USER root"),
    "no user": (r"USER .*\n", ""),
    "a user by name": (r"USER .*", "USER worker"),
    "another signal": (r"STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL"),
    "no health check": (r"HEALTHCHECK .*\n", ""),
    "a health check by a shell": (r'\["python", "-m", "millpond.healthcheck"\]', "python -m millpond.healthcheck"),
    "a command by a shell": (r"CMD \[.*\n\Z", "CMD python worker.py -c config.toml\n"),
    "another command": (r'"config.toml"\]', '"other.toml"]'),
    "a package of the system in the last stage": (r"STOPSIGNAL", "RUN apt-get install -y gcc\nSTOPSIGNAL"),
    "uv in the last stage": (r"STOPSIGNAL", "COPY --from=uv /uv /bin/uv\nSTOPSIGNAL"),
    "packages that are compiled": (r"--only-binary :all: ", ""),
}


def test_the_dockerfile_keeps_its_promises():
    assert list(wrong_in_dockerfile(DOCKERFILE)) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_dockerfile_is_found(mistake):
    changed = re.sub(*MISTAKES[mistake], DOCKERFILE)
    assert changed != DOCKERFILE
    assert len(list(wrong_in_dockerfile(changed))) == 1


def test_hadolint_has_nothing_to_say():
    done = run(PROGRAMS / "hadolint", DOCKER / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_say_it():
    done = run(
        PROGRAMS / "hadolint",
        "-",
        text=DOCKERFILE.replace("WORKDIR /app\nCOPY --from=build", "RUN cd /app\nCOPY --from=build"),
    )
    assert done.returncode == 1
    assert "DL3003" in done.stdout


def test_what_is_copied_is_let_through_and_nothing_else():
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = [
        rest.split()[:-1]
        for stage in steps(DOCKERFILE)
        for name, rest in stage
        if name == "COPY" and "--from" not in rest
    ]
    assert first == "*"
    assert {line[1:] for line in rest if line.startswith("!")} == {name for names in copied for name in names}
    assert [line for line in rest if not line.startswith("!")] == ["**/__pycache__", "**/*.pyc"]


# --- compose.yaml


def test_compose_is_as_its_schema_says(tmp_path):
    assert schema_check(COMPOSE, tmp_path).returncode == 0


def test_an_unknown_key_of_compose_is_found(tmp_path):
    done = schema_check(COMPOSE.replace("read_only:", "readonly:"), tmp_path)
    assert done.returncode == 1
    assert "readonly" in done.stdout


def schema_check(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "compose.yaml").write_text(text)
    return run(PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", folder / "compose.yaml")


def wrong_in_compose(text: str) -> Iterator[str]:
    """What its schema cannot know, in words."""
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    worker, queue = services["worker"], services["queue"]
    environment: dict[str, str] = worker["environment"]
    read = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    for name in environment.keys() - read - {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}:
        yield f"{name} is read by nothing"
    for name in (value for key, value in environment.items() if key.endswith("_HOST")):
        if name not in services:
            yield f"there is no service {name}"
    port, name = (queue["command"][queue["command"].index(option) + 1] for option in ("--port", "--queue"))
    if environment["SQS_QUEUE_URL"] != f"http://queue:{port}/000000000000/{name}":
        yield "SQS_QUEUE_URL is not the queue of the service queue"
    for key, service in services.items():
        if "build" not in service and service["image"] != worker["image"] and not is_pinned(service["image"]):
            yield f"{service['image']} has no version"
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                yield f"{port} of {key} is open to the network"
        for volume in service.get("volumes", []):
            if volume.startswith(".") and not (DOCKER / volume.partition(":")[0]).exists():
                yield f"{volume} is not there"
    for key in ("worker", "queue"):
        if not (services[key].get("read_only") and services[key].get("cap_drop") == ["ALL"]):
            yield f"{key} can write to its root, or has rights of root"
    seconds = int(worker["stop_grace_period"].removesuffix("s"))
    if seconds < int(re.findall(r"WORKER_SHUTDOWN_TIMEOUT:-(\d+)", (ROOT / "config.toml").read_text())[0]) + 5:
        yield f"stop_grace_period leaves the drain no 5 s before the kill: {seconds} s"


COMPOSE_MISTAKES = {
    "a variable that nothing reads": ("STATSD_HOST:", "STATSD_SERVER:"),
    "a service that is not there": ("SMTP_HOST: mail", "SMTP_HOST: mailpit"),
    "another queue": ("/000000000000/emails", "/000000000000/jobs"),
    "another port of the queue": ('--port, "9324"', '--port, "9325"'),
    "no version": ("grafana/grafana:12.4.0", "grafana/grafana:latest"),
    "a port for everybody": ('"127.0.0.1:8025:8025"', '"8025:8025"'),
    "a folder that is not there": ("../../dashboards/", "../dashboards/"),
    "too short a grace period": ("stop_grace_period: 30s", "stop_grace_period: 20s"),
    "a root that can be written": ("read_only: true\n    cap_drop: [ALL]\n", "cap_drop: [ALL]\n"),
}


def test_compose_fits_together():
    assert list(wrong_in_compose(COMPOSE)) == []


@pytest.mark.parametrize("mistake", COMPOSE_MISTAKES)
def test_a_mistake_in_compose_is_found(mistake):
    changed = COMPOSE.replace(*COMPOSE_MISTAKES[mistake], 1)
    assert changed != COMPOSE
    assert len(list(wrong_in_compose(changed))) == 1


def test_grafana_finds_the_dashboard_and_its_data():
    volumes = dict(volume.split(":")[:2] for volume in yaml.safe_load(COMPOSE)["services"]["grafana"]["volumes"])
    (source,) = yaml.safe_load((DOCKER / "grafana/datasources/graphite.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((DOCKER / "grafana/dashboards/millpond.yaml").read_text())["providers"]
    dashboard = json.loads((ROOT / "dashboards/graphite/dashboard.json").read_text())
    (variable,) = (one for one in dashboard["templating"]["list"] if one["type"] == "datasource")
    assert volumes["../../dashboards/graphite"] == provider["options"]["path"]
    assert (source["type"], source["url"]) == (variable["query"], "http://graphite:80")
    assert f"http://127.0.0.1:3000/d/{dashboard['uid']}" in COMPOSE


def test_a_copy_of_env_example_does_not_take_the_health_check_from_a_worker_of_the_page():
    """`--env-file` sets what is empty there, over what the image says; `--env` counts before both."""
    page = (ROOT / "docs/deploy/docker.md").read_text().replace("\\\n", " ")
    started = re.findall(r"^docker run -d .*--env-file .*$", page, re.MULTILINE)
    assert "HTTP_LISTEN=\n" in (ROOT / ".env.example").read_text()
    assert started
    assert [line for line in started if "--env HTTP_LISTEN=127.0.0.1:8080 " not in line] == []
