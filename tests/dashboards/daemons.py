"""The daemons behind the dashboards, as Debian and npm package them: StatsD, carbon, graphite-web, Prometheus.

Each has its files in a folder of its own, listens on free ports of 127.0.0.1, and is ended by its own process id.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
STATSD = ROOT / ".venv/statsd/node_modules/statsd"
#: The Python that Debian's carbon and graphite-web are installed for.
DEBIANS_PYTHON = "/usr/bin/python3"
READY_SECONDS = 60.0
END_SECONDS = 10.0
#: Between two flushes of StatsD and between two scrapes of Prometheus; by default it is 10 s and 60 s.
STEP_SECONDS = 1


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def daemon(folder: Path, name: str, *command: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """This program, until the block ends; what it says is in <name>.log."""
    path = folder / f"{name}.log"
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **environ}
    with path.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(what: str, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    """Wait until it listens."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as one:
            one.settimeout(1)
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"{what} does not listen on port {port}:\n{log.read_text()[-3000:]}")


def answer(url: str, **query: object) -> bytes:
    """What GET of this URL brings. An error says the text of the server."""
    text = urlencode(query, doseq=True)
    try:
        with urlopen(f"{url}?{text}", timeout=30) as response:
            return bytes(response.read())
    except HTTPError as error:
        raise AssertionError(f"{url}?{text}: {error.code} {error.read()[-2000:].decode()}") from None


# --- StatsD


def statsd_config(port: int, management: int, carbon_port: int) -> str:
    """What the documentation tells to set, and a flush each second."""
    return json.dumps(
        {
            "address": "127.0.0.1",
            "port": port,
            "mgmt_address": "127.0.0.1",
            "mgmt_port": management,
            "graphiteHost": "127.0.0.1",
            "graphitePort": carbon_port,
            "flushInterval": STEP_SECONDS * 1000,
            "deleteGauges": True,
        }
    )


@contextmanager
def statsd(folder: Path, carbon_port: int) -> Iterator[int]:
    """npm's statsd; its UDP port."""
    port, management = free_port(socket.SOCK_DGRAM), free_port()
    (folder / "statsd.js").write_text(statsd_config(port, management, carbon_port))
    with daemon(folder, "statsd", "node", str(STATSD / "stats.js"), str(folder / "statsd.js")) as process:
        wait_for("StatsD", process, folder / "statsd.log", management)
        yield port


# --- Graphite

CARBON = """
[cache]
STORAGE_DIR = {folder}/graphite
LOCAL_DATA_DIR = {folder}/graphite/whisper
LOG_DIR = {folder}/graphite
PID_DIR = {folder}/graphite
CONF_DIR = {folder}/carbon
DATABASE = whisper
USER =
MAX_CACHE_SIZE = inf
MAX_UPDATES_PER_SECOND = inf
MAX_CREATES_PER_MINUTE = inf
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {line}
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = {pickle}
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = {query}
CARBON_METRIC_INTERVAL = 0
"""
SCHEMAS = f"[all]\npattern = .*\nretentions = {STEP_SECONDS}s:2h\n"
GRAPHITE_SETTINGS = """
GRAPHITE_ROOT = "/usr/share/graphite-web"
CONF_DIR = "/etc/graphite"
STORAGE_DIR = LOG_DIR = "{folder}/graphite"
STATIC_ROOT = "/usr/share/graphite-web/static"
INDEX_FILE = "{folder}/graphite/index"
WHISPER_DIR = "{folder}/graphite/whisper"
STANDARD_DIRS = [WHISPER_DIR]
LOG_ROTATION = False
SECRET_KEY = "for one run"
ALLOWED_HOSTS = ["127.0.0.1"]
TIME_ZONE = "UTC"
CARBONLINK_HOSTS = ["127.0.0.1:{query}"]
DATABASES = {{"default": {{"NAME": "{folder}/graphite/graphite.db", "ENGINE": "django.db.backends.sqlite3"}}}}
"""
SERVE_GRAPHITE = """
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from graphite.wsgi import application

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

make_server("127.0.0.1", int(sys.argv[1]), application, Server, WSGIRequestHandler).serve_forever()
"""


class Graphite:
    """Debian's carbon-cache, and graphite-web before it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.line_port, self._web_port, query_port = free_port(), free_port(), free_port()
        self._url = f"http://127.0.0.1:{self._web_port}/render"
        (folder / "graphite/whisper").mkdir(parents=True)
        (folder / "carbon").mkdir()
        ports = {"line": self.line_port, "pickle": free_port(), "query": query_port}
        (folder / "carbon/carbon.conf").write_text(CARBON.format(folder=folder, **ports))
        (folder / "carbon/storage-schemas.conf").write_text(SCHEMAS)
        (folder / "graphite_settings.py").write_text(GRAPHITE_SETTINGS.format(folder=folder, query=query_port))
        config = f"--config={folder}/carbon/carbon.conf"
        pid = f"--pidfile={folder}/carbon.pid"
        carbon = stack.enter_context(
            daemon(folder, "carbon", DEBIANS_PYTHON, "/usr/bin/carbon-cache", config, pid, "--nodaemon", "start")
        )
        web = stack.enter_context(
            daemon(
                folder,
                "graphite-web",
                DEBIANS_PYTHON,
                "-c",
                SERVE_GRAPHITE,
                str(self._web_port),
                PYTHONPATH=str(folder),
                DJANGO_SETTINGS_MODULE="graphite.settings",
                GRAPHITE_SETTINGS_MODULE="graphite_settings",
            )
        )
        wait_for("carbon", carbon, folder / "carbon.log", self.line_port)
        wait_for("graphite-web", web, folder / "graphite-web.log", self._web_port)

    def write(self, points: Iterable[tuple[str, float, float]]) -> None:
        """Series by carbon's line protocol: path, value, seconds since 1970."""
        with socket.create_connection(("127.0.0.1", self.line_port)) as one:
            one.sendall("".join(f"{path} {value} {int(at)}\n" for path, value, at in points).encode())

    def render(self, target: str, begin: float, end: float, **query: object) -> dict[str, list[tuple[float, float]]]:
        """The series of a target: by name its points (seconds since 1970, value), those without a value left out."""
        text = answer(self._url, target=target, format="json", **{"from": int(begin)}, until=int(end), **query)
        return {
            series["target"]: [(at, value) for value, at in series["datapoints"] if value is not None]
            for series in json.loads(text)
        }

    def picture(self, targets: list[str], begin: float, end: float, **query: object) -> bytes:
        """The PNG of these targets."""
        return answer(self._url, target=targets, format="png", **{"from": int(begin)}, until=int(end), **query)


# --- Prometheus

PROMETHEUS = """
global: {{scrape_interval: {step}s, evaluation_interval: {step}s}}
rule_files: [{rules}]
scrape_configs:
- job_name: millpond
  static_configs:
  - targets: {targets}
"""


class Prometheus:
    """Debian's prometheus, which scrapes these addresses."""

    def __init__(self, folder: Path, stack: ExitStack, targets: list[str], rules: Path) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}/api/v1"
        (folder / "prometheus.yaml").write_text(
            PROMETHEUS.format(step=STEP_SECONDS, targets=json.dumps(targets), rules=json.dumps(str(rules)))
        )
        process = stack.enter_context(
            daemon(
                folder,
                "prometheus",
                "prometheus",
                f"--config.file={folder}/prometheus.yaml",
                f"--storage.tsdb.path={folder}/tsdb",
                f"--web.listen-address=127.0.0.1:{port}",
            )
        )
        wait_for("Prometheus", process, folder / "prometheus.log", port)

    def query(self, expression: str, at: float) -> list[tuple[Mapping[str, str], float]]:
        """The value of an expression at this moment: labels and value of each series."""
        found = self._result("query", query=expression, time=f"{at:.3f}")
        return [(series["metric"], float(series["value"][1])) for series in found]

    def range(
        self, expression: str, begin: float, end: float, step: float = STEP_SECONDS
    ) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        """The values of an expression over this time."""
        found = self._result("query_range", query=expression, start=f"{begin:.3f}", end=f"{end:.3f}", step=step)
        return [(series["metric"], [(at, float(value)) for at, value in series["values"]]) for series in found]

    def _result(self, path: str, **query: object) -> list[Any]:
        return list(json.loads(answer(f"{self._url}/{path}", **query))["data"]["result"])
