"""The log: one line an event, whatever is logged and whatever becomes of the stream."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import gevent
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond.app.envelope import Envelope
from millpond.engine.delivery import Delivery
from millpond.errors import Stopped
from millpond.foreign.secrets import conceal
from millpond.observe import log
from millpond.sqs.queue import Received
from tests.virtual import VirtualClock

LOGGERS = ("", "millpond", "boto3", "botocore", "urllib3", "handlers.shop")


@pytest.fixture(autouse=True)
def logging_as_before():
    flags = {name: getattr(logging, name) for name in ("logThreads", "logProcesses", "logMultiprocessing")}
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for name, flag in flags.items():
        setattr(logging, name, flag)


@pytest.fixture
def lines():
    """Set the log up in this style; afterwards, the lines that it wrote."""

    def lines(style: str, level: str = "info"):
        stream = io.StringIO()
        log.setup(level, style, stream)
        return lambda: stream.getvalue().splitlines()

    return lines


@pytest.fixture
def entries(lines):
    """The same for JSON: the lines, decoded."""
    read = lines("json", "debug")
    return lambda: [json.loads(line) for line in read()]


def a_delivery(message_id="m-1", event_type="email.send", event_id="order-7") -> Delivery:
    delivery = Delivery(Received(message_id, "r", "{}", 2), SimpleNamespace(name="emails"), VirtualClock(), 0.0)
    delivery.envelope = Envelope(event_type, msgspec.Raw(b"null"), event_id)
    return delivery


def working_on(delivery: Delivery, call, *arguments) -> None:
    context = contextvars.Context()
    context.run(log.delivery.set, delivery)
    context.run(call, *arguments)


DELIVERY = {
    "queue": "emails",
    "message_id": "m-1",
    "event_id": "order-7",
    "type": "email.send",
    "attempt": 2,
}


# --- what a line says


def test_an_event_is_a_line_of_json(entries):
    log.event(logging.INFO, "message.succeeded", "", queue="emails", seconds=0.25)
    (entry,) = entries()
    moment = entry.pop("ts")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    assert abs((datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()) < 60
    assert entry == {"level": "info", "event": "message.succeeded", "message": "", "queue": "emails", "seconds": 0.25}
    assert list(entry) == ["level", "event", "message", "queue", "seconds"]


def test_an_event_is_a_line_of_text(lines):
    read = lines("text")
    log.event(logging.INFO, "message.retried", "comes back", queue="emails", reason='no "route"', empty="", n=3)
    (line,) = read()
    clock, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d\d:\d\d:\d\d", clock)
    assert rest == r'INFO  message.retried  comes back  queue=emails reason="no \"route\"" empty="" n=3'


@pytest.mark.parametrize(
    ("value", "shown"),
    [(["q"], "q"), (["q", "jobs"], "q,jobs"), (["a b", "c"], '"a b,c"'), ([1, 2], '"[1, 2]"'), ([], '""')],
    ids=repr,
)
def test_names_in_a_list_are_a_text_with_commas(lines, value, shown):
    read = lines("text")
    log.event(logging.INFO, "worker.ready", "waiting", queues=value)
    assert read()[0].endswith(f"  waiting  queues={shown}")


def test_a_number_that_is_too_large_for_json_readers_is_a_text(entries):
    log.event(logging.INFO, "a.b", "text", large=2**80, larger=10**5_000, fine=2**62, real=0.5, yes=True, none=None)
    (entry,) = entries()
    assert (entry["large"], entry["larger"], entry["fine"]) == (str(2**80), "<int>", 2**62)
    assert (entry["real"], entry["yes"], entry["none"]) == (0.5, True, None)


def test_a_container_of_few_plain_values_is_one_in_json_and_any_other_a_text(entries):
    log.event(
        logging.INFO,
        "a.b",
        "text",
        few={"a": [1, None, "x"]},
        keys={1: 2},
        half=["\ud800"],
        objects=[object],
        many=[0] * 201,
    )
    (entry,) = entries()
    assert entry["few"] == {"a": [1, None, "x"]}
    assert (entry["half"], entry["objects"]) == ("['\\ud800']", "[<class 'object'>]")
    assert entry["many"] == f"[{'0, ' * 20}...]"
    log.event(logging.INFO, "a.b", "text", most=[0] * 200)
    assert entries()[-1]["most"] == [0] * 200
    log.event(logging.INFO, "a.b", "text", long=["x " * 498], longer=["x " * 498 + "x"])
    assert entries()[-1]["long"] == ["x " * 498]
    assert type(entries()[-1]["longer"]) is str


def test_no_field_can_take_the_place_of_the_head(entries):
    log.event(logging.INFO, "a.b", "text", level="x", event="y", message="z", ts="t", name="n", msg="m")
    (entry,) = entries()
    assert (entry["level"], entry["event"], entry["message"]) == ("info", "a.b", "text")
    assert (entry["name"], entry["msg"]) == ("n", "m")
    assert entry["ts"] != "t"


def test_a_handlers_own_line_carries_its_delivery(entries):
    working_on(a_delivery(), logging.getLogger("handlers.shop").info, "paid %d", 5)
    (entry,) = entries()
    del entry["ts"]
    assert entry == {"level": "info", "event": "log", "message": "paid 5", "logger": "handlers.shop"} | DELIVERY


def test_a_handlers_own_line_in_text_begins_with_its_logger(lines):
    read = lines("text")
    working_on(a_delivery(), logging.getLogger("handlers.shop").warning, "late")
    fields = "queue=emails type=email.send attempt=2 event_id=order-7 message_id=m-1"
    assert read()[0].split(" ", 1)[1] == f"WARNING handlers.shop  late  {fields}"


def test_a_line_outside_of_the_delivery_does_not_carry_it(entries):
    def handler() -> None:
        gevent.spawn(logging.getLogger("handlers.shop").info, "elsewhere").join()

    working_on(a_delivery(), handler)
    log.event(logging.INFO, "worker.progress", "waiting")
    assert not any(DELIVERY.keys() & entry.keys() for entry in entries())


def test_what_an_event_says_itself_goes_before_its_delivery(entries):
    working_on(a_delivery(), lambda: log.event(logging.INFO, "message.succeeded", "text", attempt=9))
    assert entries()[0]["attempt"] == 9


def test_extra_fields_of_any_logger_are_fields(entries):
    extra = {"invoice": 4711, "event": "invoice.paid", "list": [1, {"a": None}]}
    logging.getLogger("handlers.shop").info("paid", extra=extra)
    (entry,) = entries()
    assert (entry["invoice"], entry["event"], entry["list"]) == (4711, "invoice.paid", [1, {"a": None}])


def test_ids_and_types_from_the_wire_are_escaped_and_cut(entries):
    delivery = a_delivery("\x1b[2J", "t" * 5000, "a\nb\ud800")
    working_on(delivery, logging.getLogger("handlers.shop").info, "x")
    (entry,) = entries()
    assert entry["event_id"] == r"a\nb\ud800"
    assert entry["type"] == "t" * 97 + "..."
    assert entry["message_id"] == r"\x1b[2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("order-7", "order-7"),
        ("zwölf 中 😀", "zwölf 中 😀"),
        ("a\r\n\t\0b", r"a\r\n\t\x00b"),
        ("\x7f\x85\u2028\u202e\udcff", r"\x7f\x85\u2028\u202e\udcff"),
        ("t" * 100, "t" * 100),
        ("t" * 101, "t" * 97 + "..."),
        ("\n" * 60, (r"\n" * 60)[:97] + "..."),
    ],
)
def test_printable_text(text, shown):
    assert log.printable(text) == shown


@given(st.text("ab ü中\U0001f600\x00\n\r\x1b\x7f\x85\u200b\u2028\u202e\ud800\udcff\uffff", max_size=300))
def test_printable_text_is_short_and_can_be_written_anywhere(text):
    shown = log.printable(text)
    assert len(shown) <= 100
    assert shown.isprintable()
    assert bool(shown.encode()) is bool(text)


# --- tracebacks


def fail() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("handlers.shop").exception("it failed")


def test_a_traceback_is_a_field_in_json(entries):
    fail()
    (entry,) = entries()
    assert entry["message"] == "it failed"
    assert entry["traceback"].startswith("Traceback (most recent call last):\n")
    assert entry["traceback"].endswith("ValueError: first\nsecond")


def test_a_traceback_is_on_lines_that_follow_in_text(lines):
    read = lines("text")
    fail()
    first, *rest = read()
    assert first.endswith("ERROR handlers.shop  it failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-2:] == ["    ValueError: first", "    second"]


def test_a_traceback_that_the_engine_kept_is_shown_alike(lines, entries):
    log.event(logging.WARNING, "message.retried", "text", traceback="Traceback:\n  here\x1b")
    assert entries()[0]["traceback"] == "Traceback:\n  here\x1b"
    read = lines("text")
    log.event(logging.WARNING, "message.retried", "text", traceback="Traceback:\n  here\x1b")
    assert read()[1:] == ["    Traceback:", r"      here\x1b"]


def test_an_exception_line_without_an_exception_has_no_traceback(entries):
    logging.getLogger("handlers.shop").exception("nothing raised")
    assert "traceback" not in entries()[0]


# --- levels and set-up


def test_below_its_level_nothing_is_written(lines):
    read = lines("json", "warning")
    log.event(logging.INFO, "message.succeeded", "text")
    logging.getLogger("handlers.shop").info("x")
    log.event(logging.WARNING, "message.retried", "text")
    assert len(read()) == 1


def test_the_libraries_below_stay_at_warning(entries, lines):
    for name in ("boto3", "botocore.endpoint", "urllib3.connectionpool"):
        logging.getLogger(name).info("all of a request")
        logging.getLogger(name).warning("pool is full")
    assert [entry["message"] for entry in entries()] == ["pool is full"] * 3
    read = lines("json", "error")
    logging.getLogger("urllib3.connectionpool").warning("pool is full")
    assert read() == []


def test_a_second_setup_replaces_the_first_and_no_other_handler(lines):
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first, second = lines("json"), lines("json")
    log.event(logging.INFO, "worker.ready", "waiting")
    assert (len(first()), len(second())) == (0, 1)
    assert other in logging.getLogger().handlers


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_json"), [(Terminal(), False), (io.StringIO(), True)])
def test_auto_is_text_on_a_terminal_and_json_elsewhere(stream, is_json):
    log.setup("info", "auto", stream)
    log.event(logging.INFO, "worker.ready", "waiting")
    assert stream.getvalue().startswith("{") is is_json


# --- it never raises


class Awkward:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


LOOP: list[object] = []
LOOP.append(LOOP)


AWKWARD = [Awkward(), "\ud800", {("a", 1): 2}, LOOP, b"\xff", 2**80, float("nan"), object(), ValueError("x"), "a\nb"]


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("value", AWKWARD, ids=lambda value: type(value).__name__)
def test_whatever_a_field_is_there_is_one_line(lines, capfd, style, value):
    read = lines(style)
    log.event(logging.INFO, "worker.ready", "text", field=value, whole="yes")
    logging.getLogger("handlers.shop").info("own", extra={"field": value, "whole": "yes"})
    for line in read():
        assert "whole" in (json.loads(line) if style == "json" else line)
    assert len(read()) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    ("message", "arguments", "shown"),
    [
        ("%d", ("x",), "%d ('x',)"),
        ("%s %s", ("x",), "%s %s ('x',)"),
        ("100 %", (), "100 %"),
        (Awkward(), (), "a record of handlers.shop cannot be shown: it raises RuntimeError"),
        ("%s", (Awkward(),), "a record of handlers.shop cannot be shown: it raises RuntimeError"),
        ("\ud800", (), r"\ud800"),
        ("zwölf", (), "zwölf"),
    ],
)
def test_whatever_a_message_is_there_is_one_line(lines, capfd, style, message, arguments, shown):
    logging.getLogger().handlers.clear()  # pytest's own raise what they cannot show
    read = lines(style)
    logging.getLogger("handlers.shop").info(message, *arguments)
    (line,) = read()
    assert (json.loads(line)["message"] if style == "json" else line.split("  ")[-1]) == shown
    assert capfd.readouterr() == ("", "")


def test_the_lines_of_a_message_are_one_line_in_text(lines):
    read = lines("text")
    logging.getLogger("handlers.shop").info("one\ntwo\x1b[2J")
    assert len(read()) == 1
    assert read()[0].endswith(r"one\ntwo\x1b[2J")


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_stream_that_takes_only_ascii_gets_the_rest_escaped(style):
    raw = io.BytesIO()
    log.setup("info", style, io.TextIOWrapper(raw, "ascii"))
    log.event(logging.INFO, "worker.ready", "ü 😀")
    line = raw.getvalue().decode("ascii")
    if style == "json":
        assert json.loads(line)["message"] == "ü 😀"
    else:
        assert line.endswith(r"\u00fc \ud83d\ude00" + "\n")


def test_a_pipe_that_nobody_reads_any_more_is_no_error(capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:  # its own close would raise, were anything left in the buffer
        log.setup("info", "json", stream)
        for _ in range(3):
            log.event(logging.INFO, "worker.ready", "waiting")
        log.flush()
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_no_error(capfd):
    with open("/dev/full", "w") as stream:
        log.setup("info", "json", stream)
        log.event(logging.INFO, "worker.ready", "waiting")
        log.flush()
    assert capfd.readouterr().err == ""


def test_a_closed_stream_is_no_error(capfd):
    stream = io.StringIO()
    log.setup("info", "json", stream)
    stream.close()
    log.event(logging.INFO, "worker.ready", "waiting")
    log.flush()
    assert capfd.readouterr().err == ""


def test_a_process_without_standard_output_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    log.setup("info", "auto")
    log.event(logging.INFO, "worker.ready", "waiting")
    log.flush()


PIPED = """
import logging, sys
from millpond.observe import log
log.setup("info", "auto")
log.event(logging.INFO, "worker.ready", "waiting")
sys.stdin.read()
for _ in range(3):
    log.event(logging.INFO, "worker.stopped", "waiting")
"""


def test_a_worker_whose_reader_has_gone_keeps_its_exit_code():
    with subprocess.Popen(
        [sys.executable, "-c", PIPED],
        cwd=Path(__file__).parent.parent.parent,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert json.loads(process.stdout.readline())["event"] == "worker.ready"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 0


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
@pytest.mark.parametrize("where", ["", "millpond"])
@pytest.mark.parametrize("what", ["Handler", "Filter"])
def test_what_was_added_to_logging_and_fails_costs_no_line_and_no_caller(entries, monkeypatch, kind, where, what):
    def fail(*_: object) -> bool:
        raise kind("s3cret-of-a-handler")

    conceal("s3cret-of-a-handler")
    monkeypatch.setattr(log, "_failures", log.Allowance(1 / 60))
    logger, added = logging.getLogger(where), logging.Handler()
    if what == "Handler":
        added.emit = fail  # type: ignore[method-assign]
    else:
        added.addFilter(fail)
    logger.addHandler(added)
    try:
        for number in range(3):
            log.event(logging.INFO, "worker.ready", "text", number=number)
    finally:
        logger.removeHandler(added)
    lines = entries()
    assert [line["number"] for line in lines if line["event"] == "worker.ready"] == [0, 1, 2]
    [told] = [line for line in lines if line["event"] == "log.failed"]
    assert f"raised {kind.__name__}: " in told["message"]
    assert "s3cret" not in json.dumps(lines)


def test_an_interrupt_of_the_engine_is_not_eaten(lines):
    class Interrupting:
        def __str__(self) -> str:
            raise Stopped

    lines("json")
    with pytest.raises(Stopped):
        log.event(logging.INFO, "worker.ready", "text", field=Interrupting())


# --- what a line never has: an end that does not come, what is not printable, a secret

INVISIBLE = "\x1b[2J \x9b31m \u2028 \x85 \u202e \x7f \ufeff"


@pytest.mark.parametrize("where", ["message", "field", "key", "event", "logger", "in a list", "as argument"])
@pytest.mark.parametrize("style", ["json", "text"])
def test_no_character_that_is_not_printable_goes_out(lines, style, where):
    read = lines(style)
    logger = logging.getLogger(f"odd{INVISIBLE}" if where == "logger" else "handlers.shop")
    extra: dict[str, object] = {"field": {"field": INVISIBLE, "in a list": [INVISIBLE]}.get(where, "x")}
    extra |= {INVISIBLE: 1} if where == "key" else {}
    extra |= {"event": INVISIBLE} if where == "event" else {}
    logger.info(INVISIBLE if where == "message" else "%s", *([] if where == "message" else [INVISIBLE]), extra=extra)
    (line,) = read()
    assert line.isprintable()
    if style == "json" and where in ("message", "field", "in a list"):
        entry = json.loads(line)
        assert INVISIBLE in (entry["message"], entry["field"], *entry["field"]), "a JSON reader gets the same text"


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    "fields",
    [
        {"one": "x" * 15_000_000},
        {"many": ["x" * 1_000_000] * 10},
        {"numbers": list(range(3_000_000))},
        {"deep": {"a": {"b": ["x" * 1_000_000]}}},
        {"digits": 10**5_000},
        {f"key{number}": number for number in range(10_000)},
        {f"key{number}": "x" * 100 for number in range(10_000)},
        {"k" * 1_000_000: 1},
        {"traceback": "x" * 15_000_000},
        {"traceback": "x\n" * 5_000_000},
    ],
    ids=lambda fields: next(iter(fields))[:9],
)
def test_a_line_has_an_end_whatever_is_logged(lines, style, fields):
    read = lines(style)
    began = time.process_time()
    log.event(logging.INFO, "x.y", "y" * 15_000_000, **fields)
    logging.getLogger("handlers.shop").info("%s", "z" * 15_000_000, extra=fields)
    assert time.process_time() - began < 2
    whole = read()
    assert sum(map(len, whole)) < 100_000
    assert all(json.loads(line)["level"] == "info" for line in whole if style == "json")


def test_a_traceback_of_a_body_is_cut_by_lines_and_in_all(lines):
    read = lines("json")
    for text in ("b" * 1_000_000, "b\n" * 500_000):
        try:
            raise ValueError(text)
        except ValueError:
            logging.getLogger("handlers.shop").exception("failed")
    for line in read():
        trace = json.loads(line)["traceback"]
        assert len(trace) <= 8_000
        assert max(map(len, trace.split("\n"))) <= 500


class Mail:
    def __str__(self) -> str:
        return f"{SECRET} for ann@example.com"


SECRET = 'top"s\\ecret-4711'


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    "say",
    [
        lambda logger: logger.info(SECRET),
        lambda logger: logger.info("%s and %r", SECRET, [SECRET]),
        lambda logger: logger.info("x" * 3_990 + SECRET),
        lambda logger: logger.info("x", extra={"a": SECRET, "b": [SECRET], "c": {"d": (SECRET,)}, "e": Mail()}),
        lambda logger: logger.info("x", extra={"a": "x" * 990 + SECRET, "event": SECRET}),
        lambda logger: logger.info("x", stack_info=True, extra={"traceback": SECRET}),
        lambda logger: logger.info("x", exc_info=ValueError(SECRET)),
        lambda logger: logger.info(Mail()),
        lambda logger: logger.info("to %s", Mail()),
        lambda logger: log.event(logging.INFO, "a.b", SECRET, field=SECRET, traceback=f"x\n{SECRET}"),
    ],
)
def test_a_secret_that_the_process_knows_and_a_mail_address_are_in_no_line(lines, style, say):
    conceal(SECRET)
    read = lines(style)
    say(logging.getLogger("handlers.shop"))
    whole = "\n".join(read())
    assert whole
    assert "ecret-4" not in whole
    assert "4711" not in whole
    assert "ann@" not in whole


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("wicked", [SystemExit, KeyboardInterrupt, gevent.GreenletExit, gevent.Timeout, ValueError])
def test_whoever_logs_an_object_without_a_text_does_not_feel_it(lines, style, wicked):
    class Odd(Exception):
        def __str__(self) -> str:
            raise wicked

        __repr__ = __format__ = __str__  # type: ignore[assignment]

    logging.getLogger().handlers.clear()  # pytest's own raise what they cannot show
    read = lines(style)
    logger = logging.getLogger("handlers.shop")
    logger.info(Odd())
    logger.info("%s", Odd())
    logger.info("%s and %d", Odd())
    logger.info("x", extra={"a": Odd(), "b": [Odd()], "c": {Odd(): 1}})
    logger.info("x", exc_info=Odd())
    assert len([line for line in read() if "handlers.shop" in line]) == 5


# --- how many lines


def test_an_allowance_lets_so_many_through_in_a_second():
    allowance = log.Allowance(3)
    assert [allowance.take(now) for now in (0, 0.1, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2)] == [
        *(True, True, True, False),  # the fourth within a second
        *(True, False, True, False),  # those of 0 and 0.1 have gone by
    ]


def test_an_allowance_below_one_lets_one_through_in_several_seconds():
    allowance = log.Allowance(0.5)
    assert [allowance.take(now) for now in (0, 1, 1.9, 2, 3.9, 4)] == [True, False, False, True, False, True]


def test_an_allowance_of_none_lets_nothing_through():
    assert not log.Allowance(0).take(5)


@given(
    per_second=st.floats(0.1, 20),
    waits=st.lists(st.sampled_from([0.0, 0.01, 0.05, 0.3, 0.999, 1.0, 2.5]), max_size=120),
)
def test_no_second_has_more_than_the_allowance(per_second, waits):
    allowance = log.Allowance(per_second)
    now, taken = 0.0, []
    for wait in waits:
        now += wait
        if allowance.take(now):
            taken.append(now)
    assert bool(taken) is bool(waits)
    for start in taken:
        assert len([moment for moment in taken if start <= moment < start + 1]) <= max(1, per_second)


def test_a_forked_child_has_locks_of_its_own_whatever_the_log_writes_to(lines):
    log.setup("info", "text", stream := io.StringIO())
    log.forget_locks()
    log.event(logging.INFO, "worker.ready", "waiting")
    assert "worker.ready" in stream.getvalue()


def test_the_lines_of_a_body_that_was_not_read_have_sqss_id_as_the_event_id():
    delivery = a_delivery()
    delivery.envelope = None
    assert delivery.identity()["event_id"] == "m-1"
