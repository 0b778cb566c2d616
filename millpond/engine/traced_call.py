"""The call of a handler, with a span around it where the application traces with OpenTelemetry."""

from __future__ import annotations

import logging
from functools import partial
from typing import cast

from millpond.app.envelope import Envelope
from millpond.app.routing import Route
from millpond.engine.delivery import Delivery
from millpond.engine.handler_call import HandlerCall, call_handler, only_decode
from millpond.foreign.spans import SpanAttributes, Spans, spans
from millpond.observe import log


def handler_call() -> HandlerCall:
    """What calls a handler, for the life of the process: OpenTelemetry is set up before the first message, or never."""
    found = spans()
    return call_handler if found is None else partial(_call_in_span, found)


def logged_call(call: HandlerCall) -> HandlerCall:
    """The same call, with a debug line first."""

    def call_logged(route: Route, delivery: Delivery) -> object:
        if route.call is not only_decode:
            text = f"{route.where} begins, with {delivery.limit_seconds:g} s of time"
            log.event(logging.DEBUG, "message.started", text, **delivery.identity())
        return call(route, delivery)

    return call_logged


def _call_in_span(spans: Spans, route: Route, delivery: Delivery) -> object:
    if route.call is only_decode:
        return call_handler(route, delivery)
    log.delivery.set(delivery)  # the lines of a sampler or an exporter are the message's, too
    came, texts = delivery.trace_received(), delivery.attribute_texts()
    span = spans.process(delivery.queue_url(), came, texts, _attributes(route, delivery))
    with span as delivery.span:
        value = call_handler(route, delivery)
        if delivery.interruption is not None:  # the handler has swallowed it
            span.fail(delivery.interruption.error)
    return value


def _attributes(route: Route, delivery: Delivery) -> SpanAttributes:
    received, envelope = delivery.received, cast("Envelope", delivery.envelope)
    return {
        "messaging.message.id": received.message_id,
        "millpond.event_type": log.printable(envelope.event_type),
        "millpond.event_id": log.printable(str(envelope.event_id)),
        "millpond.attempt": received.receive_count,
        "code.function.name": route.where,
    }
