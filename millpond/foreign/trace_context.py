"""Trace context: which trace a message is a part of, and what a message that its handler sends carries on of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import NamedTuple, Protocol

import msgspec

#: W3C Trace Context: version, trace id, span id, flags; a later version may add to them. No id is all zeros.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{,200})?"
)
#: So much of a tracestate everybody has to carry on; a longer one is left out, as a part of it would be wrong.
_TRACESTATE = re.compile(r"[ -~]{1,512}")
#: AWS X-Ray: "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1", in any order.
_ROOT = re.compile(r"(?:^|;) *Root=1-([0-9a-fA-F]{8})-([0-9a-fA-F]{24}) *(?:;|$)")
_PARENT = re.compile(r"(?:^|;) *Parent=(?!0{16})([0-9a-fA-F]{16}) *(?:;|$)")
_SAMPLED = re.compile(r"(?:^|;) *Sampled=1 *(?:;|$)")
#: A header goes on as it came; what no server would take again does not.
_HEADER = re.compile(r"[ -~]{1,1000}")

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"


class TraceContext(msgspec.Struct, frozen=True):
    """What makes a message a part of a trace: the X-Ray header, and message attributes, by name.

    `trace_id`: 32 hexadecimal digits, for the log; "" where there is none.
    """

    trace_id: str = ""
    header: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


NO_TRACE = TraceContext()


class WorkedOn(Protocol):
    """What a greenlet works on: a Delivery, for one."""

    def identity(self) -> dict[str, object]:
        """The fields of its lines in the log: which it is."""
        ...

    def trace(self) -> TraceContext:
        """The trace that it is a part of, and what is sent meanwhile."""
        ...

    def queue_url(self) -> str:
        """The URL of its queue; "" where it came from none."""
        ...


#: What this greenlet works on: every record that is logged meanwhile has its fields, every message its trace.
delivery: ContextVar[WorkedOn | None] = ContextVar("delivery", default=None)


def carried_on() -> TraceContext:
    """The trace of what this greenlet works on, for a message that is sent meanwhile."""
    worked_on = delivery.get()
    return NO_TRACE if worked_on is None else worked_on.trace()


def read_trace(header: str, attributes: Mapping[str, str]) -> TraceContext:
    """The trace of a message, by its AWSTraceHeader and its attributes that are texts. What names none is left out.

    A traceparent counts before the header: services of AWS write a header into each message, traced or not.
    """
    header = header if _HEADER.fullmatch(header) else ""
    parent, state = attributes.get(TRACEPARENT, ""), attributes.get(TRACESTATE, "")
    found = _TRACEPARENT.fullmatch(parent)
    if found is None or (found[1] == "00" and found[3]):
        return TraceContext(_root_of(header), header) if header else NO_TRACE
    fields = {TRACEPARENT: parent} | ({TRACESTATE: state} if _TRACESTATE.fullmatch(state) else {})
    return TraceContext(found[2], header, tuple(fields.items()))


def _root_of(header: str) -> str:
    """The trace id of an X-Ray header, as all others are written."""
    found = _ROOT.search(header)
    return (found[1] + found[2]).lower() if found else ""


class XRayParent(NamedTuple):
    """The span that an X-Ray header names."""

    trace_id: int
    span_id: int
    sampled: bool


def parent_of(header: str) -> XRayParent | None:
    """The span that an X-Ray header names as the one that sent the message."""
    root, parent = _root_of(header), _PARENT.search(header)
    if not root or parent is None:
        return None
    return XRayParent(int(root, 16), int(parent[1], 16), _SAMPLED.search(header) is not None)
