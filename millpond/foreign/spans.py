"""Spans: what handlers do and producers send, as OpenTelemetry has it. The application owns the SDK and its settings.

Nothing of OpenTelemetry is loaded before the application has loaded it, and what fails in it fails no message.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import islice
from time import monotonic
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from millpond import __version__
from millpond.errors import Discard, Verdict, Wait
from millpond.foreign.text import shown, type_name
from millpond.foreign.trace import describe, traceback_of
from millpond.foreign.trace_context import TraceContext, carried_on, delivery, parent_of

#: The name under which OpenTelemetry's propagator of X-Ray knows what SQS calls AWSTraceHeader.
XRAY_FIELD = "X-Amzn-Trace-Id"
#: Message attributes that SQS takes: their names, their values, and room for two of a message's own.
_NAME = re.compile(r"(?!(?i:aws|amazon)\.)(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}(?<!\.)")
_VALUE = re.compile(r"[ -~]{1,1000}")
MAX_FIELDS_SENT = 8
#: Characters of a text from the wire in an attribute of a span.
MAX_ATTRIBUTE = 100
#: How often it is logged that spans fail.
TROUBLE_SECONDS = 60.0

SpanAttributes = Mapping[str, str | int]


def spans() -> Spans | None:
    """Spans, where the application has loaded OpenTelemetry and set a tracer provider."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not hasattr(trace, "get_tracer_provider"):  # another thread is about to load it
        return None
    try:
        provider = trace.get_tracer_provider()
        return None if isinstance(provider, trace.ProxyTracerProvider) else _spans_of(provider)
    except Exception as error:  # OTEL_PROPAGATORS can name what is not installed; a provider can be anything
        _log_trouble(error)
        return None


@lru_cache(maxsize=1)
def _spans_of(provider: Any) -> Spans:
    return Spans(provider)


def sending(url: str, number: int, event_type: str, event_id: str) -> AbstractContextManager[TraceContext]:
    """The span of a send of this number of messages; one alone is named. It gives what they carry."""
    found = spans()
    return nullcontext(carried_on()) if found is None else found.send(url, number, event_type, event_id)


def created(event_type: str, event_id: str) -> TraceContext:
    """What a follow-up carries that is made now, and sent later."""
    found, worked_on = spans(), delivery.get()
    if found is None or worked_on is None:
        return carried_on()
    with found.create(worked_on.queue_url(), event_type, event_id) as trace:
        return trace


def flush() -> None:
    """Have the SDK send the spans that it keeps back, before this process is frozen."""
    found = spans()
    if found is not None:
        found.flush()


class Spans:
    """Makes spans by the semantic conventions for messaging, with a tracer of this provider.

    - `process <queue>` (CONSUMER): a run of a handler. Its parent is the span that sent the message, and it has a link
      to it. An X-Ray header is a parent only where the application has X-Ray's propagator, and else a link: services
      of AWS write one into each message, mostly with Sampled=0, and then no handler would have a span.
    - `send <queue>` (PRODUCER): a send of a Producer, with all its calls.
    - `create <queue>` (PRODUCER): a follow-up, which is sent later, with others.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry import context, propagate, trace

        self.context, self.propagate, self.trace = context, propagate, trace
        self.tracer = provider.get_tracer("millpond", __version__)
        self._provider = provider

    def flush(self) -> None:
        """Have the SDK send what it keeps back; it decides for how long that may take."""
        try:
            self._provider.force_flush()
        except Exception as error:  # the API alone has no such method
            _log_trouble(error)

    def process(self, url: str, came: TraceContext, fields: Mapping[str, str], attributes: SpanAttributes) -> OpenSpan:
        """A run of a handler. `came`, `fields`: the trace of its message, and all its attributes that are texts."""
        return OpenSpan(self, "process", url, attributes, came, fields)

    def send(self, url: str, number: int, event_type: str, event_id: str) -> OpenSpan:
        """A send: of one message, which is named, or of more."""
        attributes = _named(event_type, event_id) if number == 1 else {"messaging.batch.message_count": number}
        return OpenSpan(self, "send", url, attributes, carried_on())

    def create(self, url: str, event_type: str, event_id: str) -> OpenSpan:
        """A follow-up."""
        return OpenSpan(self, "create", url, _named(event_type, event_id), carried_on())


class OpenSpan(AbstractContextManager[TraceContext]):
    """One span, which lasts as long as its `with` block; what the block gets is what messages carry that it sends.

    Where `fields` are given, its parent is the remote one that they name; else it is the span around it.
    """

    def __init__(
        self,
        spans: Spans,
        operation: str,
        url: str,
        attributes: SpanAttributes,
        came: TraceContext,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        self._spans = spans
        self._operation = operation
        self._url = url
        self._attributes = attributes
        self._came = came
        self._fields = fields
        self._span: Any = None
        self._token: Any = None
        self._error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Note that it has failed, though nothing was raised."""
        self._error = error

    def __enter__(self) -> TraceContext:
        try:
            return self._begin()
        except Exception as error:
            _log_trouble(error)
            return self._came

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        span, token, failed = self._span, self._token, self._error if error is None else error
        self._span = self._token = self._error = None
        try:
            if token is not None:
                self._spans.context.detach(token)
            if span is not None:
                if failed is not None and span.is_recording():
                    self._note(span, failed)
                span.end()
        except Exception as trouble:
            _log_trouble(trouble)

    def _begin(self) -> TraceContext:
        trace, context = self._spans.trace, self._spans.context
        parent = context.get_current() if self._fields is None else self._remote(self._fields)
        place = _place(self._url)
        operation: SpanAttributes = {
            "messaging.operation.name": self._operation,
            "messaging.operation.type": self._operation,
        }
        name = str(place.get("messaging.destination.name", ""))
        self._span = span = self._spans.tracer.start_span(
            f"{self._operation} {name}".rstrip(),
            context=parent,
            kind=trace.SpanKind.PRODUCER if self._fields is None else trace.SpanKind.CONSUMER,
            attributes={**place, **operation, **self._attributes},
            links=[] if self._fields is None else self._links(parent),
        )
        inside = trace.set_span_in_context(span, parent)
        self._token = context.attach(inside)
        return self._carried(span, inside)

    def _remote(self, fields: Mapping[str, str]) -> Any:
        """The context that a message came with."""
        carrier = {**fields, XRAY_FIELD: self._came.header} if self._came.header else {**fields}
        return self._spans.propagate.extract(carrier, context=self._spans.context.Context())

    def _links(self, parent: Any) -> list[Any]:
        trace = self._spans.trace
        found = trace.get_current_span(parent).get_span_context()
        sources = [found] if found.is_valid else []
        xray = parent_of(self._came.header)
        if xray is not None and xray.trace_id != found.trace_id:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if xray.sampled else trace.TraceFlags.DEFAULT)
            sources.append(trace.SpanContext(xray.trace_id, xray.span_id, is_remote=True, trace_flags=flags))
        return [trace.Link(source) for source in sources]

    def _carried(self, span: Any, inside: Any) -> TraceContext:
        """What makes a message a part of this span, as the application's propagators write it."""
        carrier: dict[str, str] = {}
        self._spans.propagate.inject(carrier, context=inside)
        header = carrier.pop(XRAY_FIELD, "") or self._came.header
        fits = ((name, value) for name, value in carrier.items() if _NAME.fullmatch(name) and _VALUE.fullmatch(value))
        found = span.get_span_context()
        trace_id = format(found.trace_id, "032x") if found.is_valid else self._came.trace_id
        return TraceContext(trace_id, header, tuple(islice(fits, MAX_FIELDS_SENT)))

    def _note(self, span: Any, error: BaseException) -> None:
        """Note how it has failed: without secrets and mail addresses, as in the log."""
        if isinstance(error, Discard | Wait):
            return
        kind, text = type_name(error), describe(error)
        span.set_attribute("error.type", kind)
        span.set_status(self._spans.trace.StatusCode.ERROR, text)
        if not isinstance(error, Verdict):
            fields = {"type": kind, "message": text, "stacktrace": traceback_of(error)}
            span.add_event("exception", {f"exception.{name}": value for name, value in fields.items()})


@lru_cache(maxsize=1_000)
def _place(url: str) -> SpanAttributes:
    """The attributes of a queue."""
    found: dict[str, str | int] = {"messaging.system": "aws_sqs"}
    if url:
        parts = urlsplit(url)
        found |= {"messaging.destination.name": url.rpartition("/")[2], "aws.sqs.queue.url": url}
        found |= {"server.address": parts.hostname or ""} | ({"server.port": parts.port} if parts.port else {})
    return found


def _named(event_type: str, event_id: str) -> SpanAttributes:
    texts = {"millpond.event_type": event_type, "millpond.event_id": event_id}
    return {name: shown(text, MAX_ATTRIBUTE) for name, text in texts.items()}


class _Trouble:
    """What fails in spans, in the log once a minute."""

    def __init__(self) -> None:
        self._none_before = 0.0

    def log(self, error: Exception) -> None:
        if monotonic() >= self._none_before:
            self._none_before = monotonic() + TROUBLE_SECONDS
            text = f"OpenTelemetry fails, and messages go on without their spans: {describe(error)}"
            logging.getLogger("millpond").warning(text, extra={"event": "tracing.failed"})


_log_trouble = _Trouble().log
