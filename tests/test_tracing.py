"""Traces through real workers: from queue to queue, with the real SDK of OpenTelemetry, and without any of it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import gevent
import pytest

from millpond.foreign import spans
from millpond.invocations import function
from tests.foreign.test_trace_context import HEADER, PARENT, ROOT_ID, SPAN_ID, TRACE_ID
from tests.invocations import runtime_api
from tests.invocations.runtime_api import EventSourceMapping, Lambda
from tests.worker_process import LocalQueues, WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
import logging
import os

from millpond import Message, Producer, handler

log = logging.getLogger("work")
orders = Producer(os.environ["ORDERS"])


@handler("cart.closed")
def close_cart(cart: dict, message: Message) -> None:
    orders.send("order.placed", cart)
    log.info("closed")


@handler("order.placed", thread=True)
def place_order(order: dict, message: Message) -> None:
    log.info("placed")
    if order:
        message.follow_up({})
"""
#: What an application adds to trace with OpenTelemetry; docs/tracing.md has the same.
TRACED = """
import json

import msgspec
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()


class Settings(msgspec.Struct):
    pass


def setup(settings: Settings) -> None:
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(exporter))


def teardown() -> None:
    trace.get_tracer_provider().shutdown()
    for span in exporter.get_finished_spans():
        logging.info(json.dumps({"name": span.name, "id": span.context.span_id, "trace": span.context.trace_id,
                                 "parent": span.parent and span.parent.span_id}))
"""
#: Says at its end what of OpenTelemetry the process has loaded.
UNTRACED = """
import sys

import msgspec


class Settings(msgspec.Struct):
    pass


def setup(settings: Settings) -> None:
    pass


def teardown() -> None:
    logging.info("loaded: %s", sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""
CONFIG = """
[worker]
handlers = ["jobs"]
[queues.carts]
url = "${CARTS}"
wait_seconds = 1
[queues.orders]
url = "${ORDERS}"
wait_seconds = 1
[log]
format = "json"
"""
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@pytest.fixture(scope="module")
def queues(tmp_path_factory):
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        yield queues


def run(folder: Path, queues: LocalQueues, handlers: str, number: int = 1, **system: str) -> WorkerProcess:
    """A worker that has closed this number of carts, placed their orders, and all follow-ups."""
    carts, orders = queues.create(f"carts-{folder.name}"), queues.create(f"orders-{folder.name}")
    attributes = {"traceparent": {"DataType": "String", "StringValue": PARENT}} if not system else {}
    header = {name: {"DataType": "String", "StringValue": value} for name, value in system.items()}
    body = json.dumps({"event_type": "cart.closed", "payload": {"cents": 100}})
    for _ in range(number):
        queues.sqs.send_message(
            QueueUrl=carts, MessageBody=body, MessageAttributes=attributes, MessageSystemAttributes=header
        )
    project = write_project(folder / "project", HANDLERS + handlers, CONFIG)
    with WorkerProcess(project, "-c", "config.toml", CARTS=carts, ORDERS=orders, **AWS) as worker:
        for _ in range(3 * number):
            worker.expect("message.succeeded")
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.output()
        assert worker.stderr == ""
    return worker


def test_one_trace_leads_from_queue_to_queue_and_no_span_is_lost_at_the_end(tmp_path, queues):
    number = 3
    worker = run(tmp_path, queues, TRACED, number)
    spans = [json.loads(line["message"]) for line in worker.lines if line["message"].startswith('{"name"')]
    of_id = {span["id"]: span for span in spans}

    def way(span):
        parent = of_id.get(span["parent"])
        return [*(way(parent) if parent else []), span["name"].split("-")[0]]

    assert len(spans) == len(of_id) == 5 * number
    ways = [way(span) for span in spans]
    longest = ["process carts", "send orders", "process orders", "create orders", "process orders"]
    assert sorted(ways) == sorted(longest[:length] for length in range(1, 6) for _ in range(number))
    assert {span["trace"] for span in spans} == {int(TRACE_ID, 16)}
    assert {span["parent"] for span in spans} - {*of_id} == {int(SPAN_ID, 16)}
    assert {line["trace_id"] for line in worker.lines if "message_id" in line} == {TRACE_ID}


#: As above, and each span is in the log when it is sent: by itself that is after five seconds.
TRACED_FUNCTION = """
import msgspec
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter


class Settings(msgspec.Struct):
    pass


def setup(settings: Settings) -> None:
    exporter = ConsoleSpanExporter(formatter=lambda span: f"span: {span.name}\\n")
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(exporter))
"""


def test_the_spans_of_a_lambda_function_are_sent_before_it_is_frozen(tmp_path, queues):
    carts, orders = queues.create("carts-of-lambda"), queues.create("orders-of-lambda")
    project = write_project(tmp_path / "project", HANDLERS + TRACED_FUNCTION, CONFIG)
    environ = {"CARTS": carts, "ORDERS": orders, "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13"}
    with runtime_api.running() as api, Lambda(project, api, **environ) as process:
        queues.send("carts-of-lambda", "cart.closed", {"cents": 100})
        assert EventSourceMapping(queues, "carts-of-lambda", api, 30.0).poll() == []
        process.expect("lambda.answered")
        lines = [line["message"] if line["event"] == "" else line["event"] for line in process.lines]
    assert lines.index("span: process carts-of-lambda") < lines.index("lambda.answered")


def test_without_opentelemetry_the_header_of_x_ray_leads_from_queue_to_queue_and_nothing_is_loaded(tmp_path, queues):
    worker = run(tmp_path, queues, UNTRACED, AWSTraceHeader=HEADER)
    of_messages = [line for line in worker.lines if "message_id" in line]
    assert len(of_messages) == 6
    assert {line.get("trace_id") for line in of_messages} == {ROOT_ID}
    assert "loaded: []" in [line["message"] for line in worker.lines]


@pytest.mark.parametrize("seconds_left", [0.05, 0.0, -1.0])
def test_a_collector_that_does_not_answer_holds_up_no_answer_of_a_function(monkeypatch, seconds_left):
    calls = []

    def flush():
        calls.append("begun")
        gevent.sleep(60)

    monkeypatch.setattr(spans, "flush", flush)
    began = time.monotonic()
    function._flush_spans(seconds_left)
    assert time.monotonic() - began < 10
    assert calls == (["begun"] if seconds_left > 0 else [])
