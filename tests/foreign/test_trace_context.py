"""Trace context: what names a trace, what is left out, and what counts where several are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond.foreign.trace_context import NO_TRACE, TraceContext, carried_on, delivery, read_trace

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
HEADER = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
ROOT_ID = "5759e988bd862e3fe1be46a994272793"


def test_a_traceparent_and_its_tracestate_go_on_as_they_came():
    state = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
    found = read_trace("", {"traceparent": PARENT, "tracestate": state, "customer": "7"})
    assert found == TraceContext(TRACE_ID, "", (("traceparent", PARENT), ("tracestate", state)))


def test_a_header_of_x_ray_names_the_trace_as_all_others_are_written():
    assert read_trace(HEADER, {}) == TraceContext(ROOT_ID, HEADER)


@pytest.mark.parametrize(
    "header",
    [
        "Root=1-5759e988-bd862e3fe1be46a994272793",
        "Parent=53995c3f42cd8ad8; Root=1-5759E988-BD862E3FE1BE46A994272793 ;Sampled=0",
        "Self=1-67891234-12456789abcdef012345678;Root=1-5759e988-bd862e3fe1be46a994272793;Lineage=a87bd80c:1|68fd508a:5",
    ],
)
def test_the_root_is_found_wherever_it_stands(header):
    assert read_trace(header, {}) == TraceContext(ROOT_ID, header)


@pytest.mark.parametrize("header", ["Root=1-5759e988-bd862e3f", "NoRoot=1-5759e988-bd862e3fe1be46a994272793", "x"])
def test_a_header_without_a_trace_id_goes_on_all_the_same(header):
    assert read_trace(header, {}) == TraceContext("", header)


@pytest.mark.parametrize("header", ["", "Root=\ud800", "Root=\n", "x" * 1_001, "Root=\u00e4"])
def test_a_header_that_no_server_may_take_does_not_go_on(header):
    assert read_trace(header, {}) is NO_TRACE


def test_a_traceparent_counts_before_the_header_and_both_go_on():
    assert read_trace(HEADER, {"traceparent": PARENT}) == TraceContext(TRACE_ID, HEADER, (("traceparent", PARENT),))


WRONG = [
    "",
    PARENT.upper(),
    PARENT[:-1],
    PARENT + "0",
    PARENT + "-00",  # version 00 has nothing behind its flags
    f" {PARENT}",
    f"{PARENT}\n",
    f"ff-{TRACE_ID}-{SPAN_ID}-01",
    f"00-{'0' * 32}-{SPAN_ID}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"01-{TRACE_ID}-{SPAN_ID}-01x",
    f"01-{TRACE_ID}-{SPAN_ID}-01-{'x' * 201}",
    f"00-{TRACE_ID[:-1]}\u0664-{SPAN_ID}-01",  # a digit, but not one of these ten
]


@pytest.mark.parametrize("parent", WRONG)
def test_a_traceparent_that_is_none_is_left_out_with_its_tracestate(parent):
    assert read_trace("", {"traceparent": parent, "tracestate": "a=1"}) is NO_TRACE
    assert read_trace(HEADER, {"traceparent": parent, "tracestate": "a=1"}) == TraceContext(ROOT_ID, HEADER)


@pytest.mark.parametrize("end", ["", "-more.of-it"])
def test_a_traceparent_of_a_later_version_may_have_more(end):
    assert read_trace("", {"traceparent": f"cc-{TRACE_ID}-{SPAN_ID}-01{end}"}).trace_id == TRACE_ID


@pytest.mark.parametrize("state", ["", "x" * 513, "a=\u00e4", "a=1\nb=2"])
def test_a_tracestate_that_is_none_is_left_out_alone(state):
    assert read_trace("", {"traceparent": PARENT, "tracestate": state}).attributes == (("traceparent", PARENT),)


anything = st.one_of(st.text(max_size=60), st.just(PARENT), st.just("a=1"))


@given(
    st.one_of(st.text(max_size=80), st.just(HEADER)),
    st.dictionaries(st.sampled_from(["traceparent", "tracestate"]), anything),
)
def test_whatever_a_message_says_only_what_every_server_takes_goes_on(header, attributes):
    found = read_trace(header, attributes)
    assert found.header in ("", header)
    texts = [found.header, *(value for _, value in found.attributes)]
    assert all(text.isascii() and text.isprintable() for text in texts)
    assert all(value and attributes[name] == value for name, value in found.attributes)
    assert len(found.trace_id) in (0, 32)


def test_what_works_on_nothing_carries_nothing_on():
    assert delivery.get() is None
    assert carried_on() is NO_TRACE
