"""The real SDK of OpenTelemetry, for a test: its spans stay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler


class Traced:
    """What an application has set up, and the spans that have ended since."""

    def __init__(self, *processors: SpanProcessor, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        for processor in (*processors, SimpleSpanProcessor(self.exporter)):
            self.provider.add_span_processor(processor)

    def spans(self, operation: str = "") -> list[ReadableSpan]:
        """Those of "process", "send" or "create", in the order in which they ended."""
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(operation)]

    def span(self, operation: str) -> ReadableSpan:
        """The only one."""
        [span] = self.spans(operation)
        return span


@contextmanager
def tracing(*processors: SpanProcessor, propagator: Any = None, sampler: Sampler | None = None) -> Iterator[Traced]:
    """Set OpenTelemetry up as an application does, for the time of a test."""
    traced, before = Traced(*processors, sampler=sampler), propagate.get_global_textmap()
    trace._TRACER_PROVIDER = traced.provider  # set_tracer_provider takes one for the life of a process
    propagate.set_global_textmap(propagator or before)
    try:
        yield traced
    finally:
        trace._TRACER_PROVIDER = None
        propagate.set_global_textmap(before)
