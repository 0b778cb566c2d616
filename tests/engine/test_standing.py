"""Where a handler stood as it was interrupted: file, line and function of its own code."""

from __future__ import annotations

import re
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import gevent
import pytest

from millpond import Message
from millpond.engine import handler_call
from millpond.errors import LeaseLost, Stopped
from millpond.foreign.trace import own_frames, place_of_frame
from tests.engine.test_processor import LIMIT, Slot
from tests.engine.wired import run
from tests.hub.test_threads import until

HERE = Path(__file__)


def line_of(words):
    """The number of the only line of this file that ends with these words."""
    [number] = [n for n, line in enumerate(HERE.read_text().splitlines(), 1) if line.endswith(words)]
    return number


def place(words, function):
    return f"tests/engine/test_standing.py:{line_of(words)} in {function}"


def fetch():
    gevent.sleep(1_000)  # here


def waits(*given):
    fetch()


def test_a_time_out_names_its_limit_and_the_innermost_line_of_the_handlers_own_code():
    slot = Slot(waits)
    slot.clock.advance(LIMIT)
    stood = place("# here", "fetch")
    assert slot.outcome.reason == f"the handler ran past its time limit of 60 s; it stood at {stood}"


@pytest.mark.parametrize(("kind", "says"), [(Stopped, "the worker shuts down; "), (LeaseLost, "")])
def test_what_else_interrupts_a_handler_names_that_line_too(kind, says):
    slot = Slot(waits)
    slot.deliveries[0].interrupt(kind)
    gevent.sleep(0)
    assert slot.outcome.reason == f"{says}its handler was interrupted at {place('# here', 'fetch')}"


def test_a_handler_that_swallows_every_interrupt_is_said_to_stand_where_it_stands_now(clock):
    def handle(payload, message):
        with suppress(BaseException):
            fetch()
        while True:
            with suppress(BaseException):
                gevent.sleep(1_000)  # and now here

    rig = run(clock, {"job": handle}, timeout=5)
    rig.put("job")
    clock.advance(30)
    [(_, outcome)] = rig.ended[:1]
    first, now = place("# here", "fetch"), line_of("# and now here")
    assert f" of 5 s; it stood at {first}; the handler goes on in spite of interrupts, now" in outcome.reason
    assert f", now at tests/engine/test_standing.py:{now} in " in outcome.reason


def test_the_exit_of_an_around_is_the_users_own_code():
    @contextmanager
    def closes_slowly(message):
        yield
        fetch()

    slot = Slot(lambda *given: None, around=closes_slowly)
    slot.clock.advance(LIMIT)
    assert slot.outcome.reason.endswith(f"it stood at {place('# here', 'fetch')}")


def test_a_handler_in_a_thread_is_looked_up_there():
    native = gevent.monkey.get_original("time", "sleep")
    state = {}

    def blocks(slot, payload, message):
        state["began"] = True
        while "end" not in state:
            native(0.01)  # in a thread

    slot = Slot(blocks, thread=True)
    until(lambda: "began" in state)
    slot.clock.advance(LIMIT)
    until(lambda: slot.outcomes)
    state["end"] = True
    number = line_of("native(0.01)  # in a thread")
    function = "test_a_handler_in_a_thread_is_looked_up_there.<locals>.blocks"
    places = [f"tests/engine/test_standing.py:{one} in {function}" for one in (number, number - 1)]
    said = [f"the handler ran past its time limit of 60 s; it stood at {one}; its thread runs on" for one in places]
    assert slot.outcome.reason in said
    until(lambda: slot.deliveries[0].thread == 0)


def test_where_no_handler_is_in_the_stack_nothing_is_named():
    assert own_frames(sys._getframe(), handler_call.__file__) == []
    assert own_frames(None, handler_call.__file__) == []


def test_code_that_lies_among_the_libraries_is_named_by_its_outermost_frame():
    def handle(payload: object, message: Message) -> None:
        re.sub("a", lambda match: seen.extend(own_frames(sys._getframe(1), handler_call.__file__)) or "", "a")

    seen = []
    slot = Slot(lambda slot, *given: handle(*given))
    slot.clock.advance(1)
    assert [frame.f_code.co_name for frame in seen[:2]] == ["handle", "<lambda>"]  # and not re's own sub


def test_a_place_outside_of_the_current_folder_is_named_in_full_and_a_huge_one_has_an_end(monkeypatch, tmp_path):
    frame = sys._getframe()
    monkeypatch.chdir(tmp_path)
    assert place_of_frame(frame).startswith(f"{HERE}:")
    names = {}
    exec(compile("import sys\ndef f(): return sys._getframe()", "x" * 10_000, "exec"), names)
    assert len(place_of_frame(names["f"]())) < 300


def test_a_current_folder_that_is_gone_ends_nothing(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert place_of_frame(sys._getframe()).startswith(f"{HERE}:")
    monkeypatch.chdir("/")


@pytest.mark.clock
def test_a_look_at_where_thousand_handlers_stand_takes_milliseconds():
    """At the end of a drain all of them are looked at in the hub."""
    slot = Slot(waits)
    began = time.perf_counter()
    for _ in range(1_000):
        assert slot.deliveries[0].stands_at()
    assert time.perf_counter() - began < 1.0
    slot.greenlet.kill()
