"""Spans of handlers, follow-ups and sends, with the real SDK: who is whose child, what they say, and what fails."""

import contextvars
import json
import logging
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import gevent
import pytest
from opentelemetry import baggage, trace
from opentelemetry.propagators.aws import AwsXRayPropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from millpond.engine.handler_call import call_handler
from millpond.errors import Discard, Interrupt, QueueError, Reject, Retry, SendError, Unavailable, Wait
from millpond.foreign import spans
from millpond.foreign.trace_context import delivery
from millpond.producer import Producer
from millpond.sqs.queue import Attribute, Failure
from tests.engine.test_traces import NAMED, OTHER, entries_of
from tests.fakes import FakeQueue
from tests.foreign.test_trace_context import HEADER, PARENT, ROOT_ID, SPAN_ID, TRACE_ID
from tests.rig import Rig
from tests.tracing import tracing

URL = "https://sqs.eu-west-1.amazonaws.com/1/orders"

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


@pytest.fixture
def traced():
    with tracing() as traced:
        yield traced


@pytest.fixture
def run(clock):
    """Run one message through its handler, for a second."""

    def run(handle, settings=None, seconds=1.0, **message):
        rig = Rig(clock, {"job": handle}, **(settings or {}))
        rig.put("job", **message)
        rig.consumer.pollers.start()
        clock.advance(seconds)
        return rig

    return run


@pytest.fixture
def producer(monkeypatch):
    """A Producer whose queue takes everything; `sent` has it."""

    class Elsewhere:
        def __init__(self):
            self.sent, self.script = [], []

        def send(self, entries, seconds):
            step = self.script.pop(0) if self.script else None
            if isinstance(step, Exception):
                raise step
            self.sent.extend(entries)
            return [step] * len(entries)

    queue = Elsewhere()
    monkeypatch.setattr(Producer, "_queue", lambda self, end: queue)
    producer = Producer(URL)
    producer.to = queue
    return producer


def test_a_queue_without_a_url_as_in_the_test_kit_has_no_place(clock, traced):
    rig = Rig(clock, {"job": nothing}, queue=FakeQueue(clock, url=""))
    rig.put("job")
    rig.consumer.pollers.start()
    clock.advance(1)
    span = traced.span("process")
    assert span.name == "process"
    assert {"messaging.destination.name", "aws.sqs.queue.url", "server.address"} & {*span.attributes} == set()


def nothing(payload, message):
    pass


def ids(span):
    """Of a span, as a traceparent has them."""
    context = span.get_span_context()
    return format(context.trace_id, "032x"), format(context.span_id, "016x")


def parent_of(span):
    return None if span.parent is None else (format(span.parent.trace_id, "032x"), format(span.parent.span_id, "016x"))


def traceparent(entry):
    """The ids in what a message carries."""
    return tuple(entry.attributes["traceparent"].value.split("-")[1:3])


# --- a handler's run


def test_a_run_is_a_consumer_span_below_the_one_that_sent_its_message(run, traced):
    run(nothing, attributes=NAMED)
    span = traced.span("process")
    assert (span.name, span.kind, span.status.status_code) == ("process q", SpanKind.CONSUMER, StatusCode.UNSET)
    assert parent_of(span) == (TRACE_ID, SPAN_ID)
    assert [(format(one.context.trace_id, "032x"), format(one.context.span_id, "016x")) for one in span.links] == [
        (TRACE_ID, SPAN_ID)
    ]
    assert span.parent.is_remote
    assert span.instrumentation_scope.name == "millpond"
    assert dict(span.attributes) == {
        "messaging.system": "aws_sqs",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "q",
        "messaging.message.id": "m1",
        "aws.sqs.queue.url": "http://queue.test/000000000000/q",
        "server.address": "queue.test",
        "millpond.event_type": "job",
        "millpond.event_id": "m1",
        "millpond.attempt": 1,
        "code.function.name": "tests.job",
    }


def test_a_message_without_a_trace_begins_one_which_its_lines_have(run, traced, json_lines):
    def handle(payload, message):
        logging.getLogger("work").warning("at work")
        raise Reject("no")

    run(handle)
    span = traced.span("process")
    assert span.parent is None
    assert span.links == ()
    assert [line["trace_id"] for line in json_lines] == [ids(span)[0]] * 2


def test_a_header_of_x_ray_is_a_link_and_decides_nothing(run, json_lines):
    header = HEADER.replace("Sampled=1", "Sampled=0")
    with tracing(sampler=ParentBased(ALWAYS_ON)) as traced:
        run(nothing, trace_header=header)
        span = traced.span("process")
        assert span.parent is None
        [link] = span.links
        assert format(link.context.trace_id, "032x") == ROOT_ID != ids(span)[0]
        assert not link.context.trace_flags.sampled


def test_a_header_beside_a_traceparent_of_the_same_trace_is_no_second_link(run, traced):
    run(nothing, attributes=NAMED, trace_header=f"Root=1-{TRACE_ID[:8]}-{TRACE_ID[8:]};Parent={SPAN_ID};Sampled=1")
    assert len(traced.span("process").links) == 1


def test_a_header_of_another_trace_is_a_second_link(run, traced):
    run(nothing, attributes=NAMED, trace_header=HEADER)
    assert [link.context.trace_flags.sampled for link in traced.span("process").links] == [True, True]


def test_with_the_propagator_of_x_ray_the_header_is_the_parent_and_goes_on_anew(run):
    def handle(payload, message):
        if payload is None:
            message.follow_up("more")

    with tracing(propagator=AwsXRayPropagator()) as traced:
        rig = run(handle, trace_header=HEADER)
    [entry] = entries_of(rig.queue)
    first, second = traced.spans("process")
    create = traced.span("create")
    assert parent_of(first) == (ROOT_ID, "53995c3f42cd8ad8")
    assert parent_of(create) == ids(first)
    assert parent_of(second) == ids(create)
    assert entry.attributes == {}
    assert entry.trace_header == f"Root=1-{ROOT_ID[:8]}-{ROOT_ID[8:]};Parent={ids(create)[1]};Sampled=1"


@pytest.mark.parametrize("thread", [False, True])
def test_what_a_handler_does_is_below_its_run(run, traced, thread, clock):
    def handle(payload, message):
        with trace.get_tracer("work").start_as_current_span("query"):
            assert baggage.get_baggage("tenant") == "7"

    rig = run(handle, {"thread": thread}, attributes={**NAMED, "baggage": Attribute("String", "tenant=7")})
    while thread and not rig.ended:
        gevent.sleep(0.001)
        clock.advance(0.01)
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"]
    assert parent_of(traced.span("query")) == ids(traced.span("process"))


def test_nothing_of_a_run_is_left_in_its_slot(run, traced):
    seen = []

    def handle(payload, message):
        seen.append(trace.get_current_span())

    rig = run(handle, {"concurrency": 1}, attributes=NAMED)
    rig.put("job")
    rig.clock.advance(1)
    assert trace.get_current_span() is trace.INVALID_SPAN
    first, second = traced.spans("process")
    assert [format(one.get_span_context().span_id, "016x") for one in seen] == [ids(first)[1], ids(second)[1]]
    assert second.parent is None


def test_each_run_of_a_message_is_a_span_below_the_same_one(run, traced):
    def handle(payload, message):
        if not traced.spans("process"):
            raise Wait("its domain is busy", after=5)

    rig = run(handle, seconds=10, attributes=NAMED)
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"]
    first, second = traced.spans("process")
    assert parent_of(first) == parent_of(second) == (TRACE_ID, SPAN_ID)
    assert ids(first) != ids(second)


# --- how it ended


@pytest.mark.parametrize("error", [Reject("no such customer"), Retry("later"), Unavailable("the server is down")])
def test_a_verdict_that_is_no_success_is_an_error_with_its_reason(run, traced, error):
    def handle(payload, message):
        raise error

    run(handle)
    span = traced.spans("process")[0]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == type(error).__name__
    assert error.reason in span.status.description
    assert span.events == ()


@pytest.mark.parametrize("error", [Discard("done before"), Wait("busy", after=5)])
def test_what_is_no_failure_is_no_error(run, traced, error):
    def handle(payload, message):
        raise error

    run(handle)
    span = traced.span("process")
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in span.attributes


def test_an_exception_is_in_the_span_without_mail_addresses(run, traced):
    def handle(payload, message):
        raise ValueError("no mail to ann@example.com")

    run(handle)
    span = traced.span("process")
    [event] = span.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == span.attributes["error.type"] == "ValueError"
    assert "in handle" in event.attributes["exception.stacktrace"]
    everything = [span.status.description, *event.attributes.values()]
    assert "no mail to" in event.attributes["exception.message"]
    assert not any("ann@example.com" in text for text in everything)


class Hostile(Exception):
    """Nothing can be asked of it."""

    def __bool__(self):
        raise SystemExit("no")

    __str__ = __len__ = __eq__ = __bool__
    __hash__ = Exception.__hash__


def test_an_exception_of_which_nothing_can_be_asked_is_an_error_as_any_other(run, traced):
    def handle(payload, message):
        raise Hostile

    rig = run(handle)
    assert traced.span("process").attributes["error.type"] == "Hostile"
    assert len(rig.queue.messages) == 1
    assert rig.consumer.books.causes == {"failed": 1}


@pytest.mark.parametrize("loaded", [{}, {"ProxyTracerProvider": object}])
def test_an_opentelemetry_that_another_thread_is_about_to_load_is_none_yet(monkeypatch, loaded, json_lines):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(**loaded))
    assert spans.spans() is None
    assert json_lines == []


def test_a_payload_that_does_not_fit_is_an_error_of_its_run(clock, traced):
    rig = Rig(clock, {"job": nothing})
    rig.reroute("job", decode=int)
    rig.put("job", {"number": "4111111111111111"})
    rig.consumer.pollers.start()
    clock.advance(1)
    span = traced.span("process")
    assert span.attributes["error.type"] == "PayloadError"
    assert "4111111111111111" not in f"{span.status.description}{[dict(one.attributes) for one in span.events]}"


@pytest.mark.parametrize("swallows", [False, True])
def test_an_interrupt_is_an_error_though_the_handler_swallows_it(run, traced, swallows):
    def handle(payload, message):
        try:
            gevent.event.Event().wait()
        except Interrupt:
            if not swallows:
                raise

    rig = run(handle, {"timeout": 5.0, "max_attempts": 1}, seconds=10)
    assert [outcome.cause for _, outcome in rig.ended] == ["timed_out"]
    assert traced.span("process").attributes["error.type"] == "TimeLimitExceeded"


# --- what it leaves behind and sends


def test_a_follow_up_is_a_producer_span_and_its_run_is_below_that(run, traced):
    def handle(payload, message):
        if payload is None:
            message.follow_up("more")

    rig = run(handle, attributes={**NAMED, **OTHER})
    create, (first, second) = traced.span("create"), traced.spans("process")
    assert (create.name, create.kind) == ("create q", SpanKind.PRODUCER)
    assert (create.attributes["millpond.event_id"], create.attributes["millpond.event_type"]) == ("m1/1", "job")
    assert parent_of(create) == ids(first)
    assert parent_of(second) == ids(create)
    [entry] = entries_of(rig.queue)
    assert {*entry.attributes} == {"traceparent", "tracestate"}
    assert entry.attributes["tracestate"].value == "congo=t61"


def test_a_follow_up_of_a_thread_that_knows_of_no_span_is_below_the_run(run, traced):
    def handle(payload, message):
        if payload is None:
            contextvars.Context().run(message.follow_up, "more")

    [entry] = entries_of(run(handle).queue)
    assert traceparent(entry) == ids(traced.spans("process")[0])


def test_a_send_in_a_handler_is_a_producer_span_below_its_run(run, traced, producer):
    def handle(payload, message):
        producer.send("order", 1, event_id="o-1")

    run(handle, attributes={**NAMED, "baggage": Attribute("String", "tenant=7")}, trace_header=HEADER)
    send, [entry] = traced.span("send"), producer.to.sent
    assert parent_of(send) == ids(traced.span("process"))
    assert traceparent(entry) == ids(send)
    assert entry.attributes["baggage"].value == "tenant=7"
    assert entry.trace_header == HEADER
    assert (send.name, send.kind) == ("send orders", SpanKind.PRODUCER)
    assert dict(send.attributes) == {
        "messaging.system": "aws_sqs",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "aws.sqs.queue.url": URL,
        "server.address": "sqs.eu-west-1.amazonaws.com",
        "millpond.event_type": "order",
        "millpond.event_id": "o-1",
    }


@pytest.mark.parametrize("copied", [False, True])
def test_a_greenlet_of_a_handlers_own_is_below_its_run_where_it_has_the_context(run, traced, producer, copied):
    def handle(payload, message):
        run_it = contextvars.copy_context().run if copied else lambda call, *args: call(*args)
        gevent.spawn(run_it, producer.send, "order", 1).join()

    run(handle, attributes=NAMED)
    assert parent_of(traced.span("send")) == (ids(traced.span("process")) if copied else None)


def test_a_send_of_a_web_request_is_below_its_span_which_goes_on_after_it(traced, producer):
    with trace.get_tracer("web").start_as_current_span("GET /") as request:
        producer.send_many([("order", number) for number in range(3)])
        assert trace.get_current_span() is request
    send = traced.span("send")
    assert parent_of(send) == ids(request)
    assert {traceparent(entry) for entry in producer.to.sent} == {ids(send)}
    assert send.attributes["messaging.batch.message_count"] == 3


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (QueueError("the queue is gone", "NoQueue"), QueueError),
        (Failure("InvalidMessageContents", "no", sender_fault=True), SendError),
    ],
)
def test_a_send_that_fails_is_an_error_and_raises_what_it_did(traced, producer, step, error):
    producer.to.script = [step]
    with pytest.raises(error):
        producer.send("order", 1)
    send = traced.span("send")
    assert (send.status.status_code, send.attributes["error.type"]) == (StatusCode.ERROR, error.__name__)


def test_a_message_that_is_wrong_makes_no_span(traced, producer):
    with pytest.raises(ValueError, match="delay"):
        producer.send("order", 1, delay=901)
    assert traced.spans() == []


class Junk(TextMapPropagator):
    """Writes what SQS would refuse, and more than it takes."""

    fields = frozenset()

    def extract(self, carrier, context=None, getter=None):
        return context

    def inject(self, carrier, context=None, setter=None):
        carrier |= {"AWS.x": "1", "Amazon.x": "1", "a..b": "1", ".a": "1", "a.": "1", "a b": "1", "": "1"}
        carrier |= {"empty": "", "half": "\ud800", "lines": "a\nb", "x" * 257: "1", "long": "x" * 1_001}
        carrier |= {f"uberctx-{number}": "1" for number in range(12)}


def test_only_what_sqs_takes_of_a_propagator_goes_onto_a_message(producer):
    with tracing(propagator=Junk()):
        producer.send("order", 1)
    [entry] = producer.to.sent
    assert [*entry.attributes] == [f"uberctx-{number}" for number in range(8)]


# --- what fails


class Broken(SpanProcessor, Sampler, TextMapPropagator):
    """Fails in this method."""

    fields = frozenset()

    def __init__(self, where):
        self.where = where

    def _fail(self, where):
        if where == self.where:
            raise RuntimeError("broken")

    def on_start(self, span, parent_context=None):
        logging.getLogger("sdk").warning("a span begins")
        self._fail("on_start")

    def on_end(self, span):
        self._fail("on_end")

    def should_sample(self, *args, **kwargs):
        self._fail("should_sample")
        return ALWAYS_ON.should_sample(*args, **kwargs)

    def get_description(self):
        return "broken"

    def extract(self, carrier, context=None, getter=None):
        self._fail("extract")
        return context

    def inject(self, carrier, context=None, setter=None):
        self._fail("inject")


@contextmanager
def broken(where):
    one = Broken(where)
    with tracing(one, propagator=one, sampler=one) as traced:
        yield traced


@pytest.fixture(autouse=True)
def trouble(monkeypatch):
    monkeypatch.setattr(spans, "_log_trouble", spans._Trouble().log)


@pytest.mark.parametrize("where", ["on_start", "on_end", "should_sample", "extract", "inject"])
def test_what_fails_in_opentelemetry_fails_no_message_and_is_logged_once_a_minute(
    run,
    producer,
    json_lines,
    where,
):
    def handle(payload, message):
        producer.send("order", 1)

    with broken(where):
        rig = run(handle, attributes=NAMED)
        rig.put("job")
        rig.clock.advance(1)
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"] * 2
    assert len(producer.to.sent) == 2
    [line] = [line for line in json_lines if line["event"] == "tracing.failed"]
    assert line["level"] == "warning"
    assert "broken" in line["message"]


def test_what_the_sdk_logs_in_a_run_has_the_fields_of_its_message(run, json_lines):
    with broken("nowhere"):
        run(nothing)
    [line] = json_lines
    assert (line["message"], line["message_id"]) == ("a span begins", "m1")


def test_a_provider_that_is_none_of_opentelemetrys_is_logged_and_messages_go_on(run, json_lines, monkeypatch):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", object())
    rig = run(nothing)
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"]
    assert [line["event"] for line in json_lines] == ["tracing.failed"]


def test_without_a_tracer_provider_a_handler_is_called_as_ever(clock):
    assert spans.spans() is None
    assert Rig(clock, {"job": nothing}).processor._call is call_handler
    assert delivery.get() is None


def test_each_record_of_s3_is_a_run_of_its_own_below_the_same_span(clock, traced):
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": {}}
    seen = []
    rig = Rig(clock, {"s3:ObjectCreated:Put": lambda payload, message: seen.append(trace.get_current_span())})
    rig.queue.put(json.dumps({"Records": [record, record]}), attributes=NAMED)
    rig.consumer.pollers.start()
    clock.advance(1)
    first, second = traced.spans()
    assert [span.attributes["millpond.event_id"] for span in (first, second)] == ["m1#1", "m1#2"]
    assert parent_of(first) == parent_of(second) == (TRACE_ID, SPAN_ID)
    assert [format(one.get_span_context().span_id, "016x") for one in seen] == [ids(first)[1], ids(second)[1]]


def test_a_trace_in_an_envelope_is_the_parent(clock, traced):
    rig = Rig(clock, {"job": nothing})
    rig.queue.put(json.dumps({"specversion": "1.0", "type": "job", "id": "e-1", "traceparent": PARENT}))
    rig.consumer.pollers.start()
    clock.advance(1)
    assert parent_of(traced.span("process")) == (TRACE_ID, SPAN_ID)
