"""The test kit, for pytest: deliver a message to its handler without a queue, or get a queue on this machine.

    from millpond.testing import deliver

    def test_an_invoice_without_a_number_is_rejected():
        assert deliver("invoice.created", {"number": "", "cents": 5}).name == "dead_lettered"

The fixture local_queue is there for tests that import it, or by pytest_plugins = ["millpond.testing"] in conftest.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener
from uuid import uuid4

import pytest
from gevent import monkey

from millpond.app.config import RetrySettings, load
from millpond.app.discovery import by_table, load_modules, setup_calls
from millpond.app.routing import name_of_route, routes
from millpond.app.toml import unknown
from millpond.app.type_settings import with_types
from millpond.engine.delivery import Delivery
from millpond.engine.no_queue import NoQueue
from millpond.engine.processor import Processor
from millpond.errors import ConfigError
from millpond.hub import child_exits
from millpond.hub.clock import SystemClock
from millpond.message import Outcome, envelope_text
from millpond.sqs.queue import Attribute, Received

#: Where config.toml is, or else handlers/. Read at the import, since a test may change the current directory.
FOLDER = Path.cwd()
#: Receives after which a local_queue gives a message to its dead-letter queue.
MAX_RECEIVE_COUNT = 17
#: How long the process of the local queue may take to end by itself, and to answer.
SERVER_STOP_SECONDS = 10


def deliver(
    event_type: str,
    payload: Any,
    attempt: int = 1,
    *,
    event_id: str = "",
    attributes: Mapping[str, str | bytes] | None = None,
) -> Outcome:
    """Deliver one message to its handler, as the worker does, and return the outcome.

    The handlers are those of config.toml in the folder where pytest was started, or of the folder handlers/ there;
    [retry] counts, and a module with setup() is set up from its [handlers.<module>] before its first message.
    Raises ConfigError where the worker could not start with them, and whatever setup() raises.

    A time limit acts only while the handler waits in gevent: where the process is not patched, an ordinary sleep or
    socket call is not interrupted.
    """
    project = _project()
    project.set_up_for(event_type)
    received = Received(
        message_id=str(uuid4()),
        receipt_handle="",
        body=envelope_text(event_type, event_id or uuid4().hex, payload),
        receive_count=attempt,
        sent_ms=int(time.time() * 1000),
        attributes={name: _attribute(value) for name, value in (attributes or {}).items()},
    )
    clock = SystemClock()
    delivery = Delivery(received, NoQueue("test"), clock, clock.time())
    delivery.failures = attempt - 1  # none of its earlier attempts was given back
    return Processor(project.routes, project.retry, clock).process(delivery)


def configure(module: str, **settings: Any) -> None:
    """Set a module of handlers up with these settings instead of config.toml's; without any, with those again.

    `module`: its name as in [handlers.<module>]; keys that are not given stay as they are there. Raises ConfigError
    for what does not fit, and whatever setup() raises.
    """
    _project().set_up(module, settings)


@pytest.fixture
def local_queue(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of a fresh queue on an SQS in memory, in a process of its own that ends with the tests.

    Its dead-letter queue is there too, at the same URL with "-dead" behind it.
    """
    server = pytestconfig.stash.get(_server, None)
    if server is None:
        server = pytestconfig.stash[_server] = _LocalServer()
        pytestconfig.add_cleanup(server.stop)
    url = server.create_queue(f"test-{uuid4().hex}")
    yield url
    server.delete_queue(url)


class _Project:
    """The settings and handlers of one folder."""

    def __init__(self, folder: Path) -> None:
        file = folder / "config.toml"
        settings = load(file, os.environ, _no_secrets) if file.exists() else None
        if settings is None and not (folder / "handlers").is_dir():
            raise ConfigError(f"{folder} has neither config.toml nor a folder handlers/: start pytest where they are")
        self.retry = settings.retry if settings else RetrySettings()
        self._tables = settings.handlers if settings else {}
        self._local = settings is None or all(queue.is_local for queue in settings.queues.values())
        findings: list[str] = []
        modules = load_modules(settings.worker.handlers if settings else ["handlers"], folder, findings)
        self._modules = by_table(modules, findings)
        if findings:
            raise ConfigError(*findings)
        self.routes = with_types(routes(module.__name__ for module in modules), settings.types if settings else {})
        self._module_of = {
            event_type: name for name, module in self._modules.items() for event_type in routes([module.__name__])
        }
        self._ready: set[str] = set()

    def set_up_for(self, event_type: str) -> None:
        declared = name_of_route(event_type, self._module_of)
        name = self._module_of.get(declared or "")
        if name is not None and name not in self._ready:
            self.set_up(name, {})

    def set_up(self, name: str, settings: Mapping[str, Any]) -> None:
        if name not in self._modules:
            raise ConfigError(f"{name}: {unknown('handlers module', name, self._modules)}")
        module = self._modules[name]
        calls = setup_calls(name, module, {**self._tables.get(name, {}), **settings}, self._local)
        if name in self._ready and callable(teardown := getattr(module, "teardown", None)):
            self._ready.remove(name)
            teardown()
        for call in calls:
            call()
        self._ready.add(name)


def _no_secrets(references: Collection[str]) -> Mapping[str, str | ConfigError]:
    """Tests call no AWS: a secret that is kept there is its reference, which `configure` can replace."""
    return {}


class _LocalServer:
    """`python -m millpond.local` on a free port."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "millpond.local", "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,  # so that it finds millpond where this process did
        )
        stdout = self._process.stdout
        url = re.search(r"http://\S+", stdout.readline() if stdout else "")
        if url is None:
            self.stop()
            raise RuntimeError("the local queue did not start: see its standard error")
        self._url = url[0]

    def create_queue(self, name: str) -> str:
        dead = self._call("CreateQueue", QueueName=f"{name}-dead")["QueueUrl"]
        attributes = self._call("GetQueueAttributes", QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]
        policy = {"deadLetterTargetArn": attributes["QueueArn"], "maxReceiveCount": MAX_RECEIVE_COUNT}
        created = self._call("CreateQueue", QueueName=name, Attributes={"RedrivePolicy": json.dumps(policy)})
        return str(created["QueueUrl"])

    def delete_queue(self, url: str) -> None:
        self._call("DeleteQueue", QueueUrl=url)
        self._call("DeleteQueue", QueueUrl=f"{url}-dead")

    def _call(self, name: str, **parameters: object) -> Any:
        """Call the local queue, which checks no signature."""
        target = {"X-Amz-Target": f"AmazonSQS.{name}", "Content-Type": "application/x-amz-json-1.0"}
        request = Request(self._url, json.dumps(parameters).encode(), target)  # noqa: S310  to this machine
        with _direct.open(request, timeout=SERVER_STOP_SECONDS) as answer:
            return json.load(answer)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=SERVER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


if monkey.is_module_patched("subprocess"):
    child_exits.install()

_direct = build_opener(ProxyHandler({}))  # HTTP_PROXY is not meant for this machine itself
_server = pytest.StashKey[_LocalServer]()


@cache
def _project() -> _Project:
    return _Project(FOLDER)


def _attribute(value: str | bytes) -> Attribute:
    return Attribute("Binary" if isinstance(value, bytes) else "String", value)
