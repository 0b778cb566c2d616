"""Marks and groups of failures: what makes one, how they are bounded, what is new for a viewer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from millpond.app.http_settings import HttpSettings
from millpond.message import Outcome
from millpond.observe.metrics import MetricSecond
from millpond.process.failure_groups import MAX_GROUPS, FailureGroups
from millpond.process.history import History
from millpond.process.hour_marks import MAX_MARKS, HourMarks, MarkedState, changes
from tests.handlers import fine
from tests.virtual import settle

QUIET, SHUT = MarkedState(frozenset({"q", "b"})), MarkedState(shut={"mail": "the server is down"})


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        (MarkedState(), MarkedState(), []),
        (MarkedState(), QUIET, [("quiet", "quiet: b, q")]),
        (QUIET, MarkedState(frozenset({"q"})), [("resume", "receives again: b")]),
        (QUIET, MarkedState(why="SIGTERM"), [("drain", "drain: SIGTERM")]),
        (MarkedState(frozenset({"q"}), why="SIGTERM"), MarkedState(why="SIGTERM"), []),
        (MarkedState(), SHUT, [("breaker", "breaker of mail opened: the server is down")]),
        (SHUT, MarkedState(shut={"mail": "another reason"}), []),
        (SHUT, MarkedState(), [("closed", "breaker of mail closed")]),
        (MarkedState(blocked=1), MarkedState(blocked=2), [("blocked", "hub blocked once")]),
        (MarkedState(blocked=1), MarkedState(blocked=4), [("blocked", "hub blocked 3 times")]),
    ],
)
def test_a_mark_is_a_change_of_the_state(before, now, wanted):
    assert changes(before, now) == wanted


def test_a_start_is_marked_with_its_version_and_outlives_a_breaker_that_flaps():
    marks = HourMarks(100.04, "1.2")
    marks.look(110.0, QUIET)
    for second in range(1_000):
        marks.look(120.0 + second, SHUT if second % 2 else MarkedState())
    found = marks.since(0)
    assert [(one.at, one.kind, one.text) for one in found[:2]] == [
        (100.0, "start", "started, Millpond 1.2"),
        (110.0, "quiet", "quiet: b, q"),
    ]
    assert found[2].kind == "resume"
    assert len(found) == 3 + MAX_MARKS
    assert [one.at for one in found] == sorted(one.at for one in found)
    assert [one.at for one in marks.since(marks.made - 2)] == [1118.0, 1119.0]
    assert marks.since(marks.made) == []


class Failing:
    """Groups with a clock of their own, and failures with ids one after the other."""

    def __init__(self):
        self.now = 1_000.0
        self.groups = FailureGroups(lambda: self.now)

    def fail(self, error="", reason="", event_type="mail", cause="failed"):
        desk = SimpleNamespace(route=SimpleNamespace(event_type=event_type)) if event_type else None
        fields = {"event_id": f"e{self.groups.noted}", "queue": "q"}
        self.groups.note(SimpleNamespace(desk=desk), Outcome("retried", cause, reason, error), fields)


def test_the_same_failure_of_a_type_is_one_group():
    one = Failing()
    one.fail("KeyError: 'ann'")
    one.now = 1_060.0
    one.fail("KeyError: 'bob'", cause="timed_out")
    one.fail("KeyError: 'bob'", event_type="other")
    one.fail(reason="no handler for type 'x'", event_type="", cause="undecodable")
    mail, other, unknown = one.groups.since(0)
    assert (mail.error, mail.count, mail.first, mail.last) == ("KeyError: <text>", 2, 1_000.0, 1_060.0)
    assert (mail.last_error, mail.last_event_id, mail.cause) == ("KeyError: 'bob'", "e1", "timed_out")
    assert (other.event_type, other.count) == ("other", 1)
    assert (unknown.event_type, unknown.error) == ("unknown", "no handler for type <text>")


def test_what_is_new_are_the_groups_that_failed_since():
    one = Failing()
    one.fail("a")
    one.fail("b")
    noted = one.groups.noted
    one.fail("a")
    assert [group.error for group in one.groups.since(noted)] == ["a"]
    assert one.groups.since(one.groups.noted) == []
    assert [group.error for group in one.groups.since(0)] == ["b", "a"]


def test_of_too_many_groups_the_last_ones_stay_and_the_others_are_counted():
    one = Failing()
    names = [f"{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(MAX_GROUPS + 3)]
    one.fail(names[0])
    for name in names:
        one.fail(name)
    assert [group.error for group in one.groups.since(0)] == names[3:]
    assert one.groups.unlisted == 4


def test_a_group_is_forgotten_an_hour_after_its_last_failure():
    one = Failing()
    one.fail("a")
    one.now += 3_601
    assert one.groups.since(0) == []
    one.fail("b")
    assert [group.error for group in one.groups.since(0)] == ["b"]
    assert one.groups.unlisted == 0


def test_secrets_and_addresses_are_in_no_group():
    one = Failing()
    one.fail("SMTPError: no such user ann@example.com, password=swordfish\n  second line")
    [group] = one.groups.since(0)
    for text in (group.error, group.last_error):
        assert "ann@" not in text
        assert "swordfish" not in text
        assert "second" not in text


@pytest.mark.parametrize(("listen", "page", "wanted"), [("", True, False), (":1", False, False), (":1", True, True)])
def test_a_history_is_kept_where_the_page_is_on(listen, page, wanted):
    assert HttpSettings(listen=listen, page=page).shows_page is wanted


def fails(payload, message):
    raise KeyError(payload)


def test_the_failures_and_the_state_of_a_real_process_are_noted(process, clock):
    one = process({"job": fails, "good": fine})
    history = History(one.core, one.observer)
    history.watch([one.rig.consumer])
    one.rig.put("job", "ann", number=2)
    one.rig.put("good")
    settle()
    clock.advance(1.0)
    [group] = history.failures.since(0)
    assert (group.event_type, group.error, group.cause, group.count) == ("job", "KeyError: <text>", "failed", 2)
    assert (group.last_error, group.last_queue) == ("KeyError: 'ann'", one.rig.consumer.name)
    [kind] = [kind for kind in one.observer.take().types if kind.event_type == "job"]
    assert kind.causes == {"failed": 2}
    place, nothing = history.place, MetricSecond({}, {}, {})
    history.take(nothing)
    one.steering.quiet()
    history.take(nothing)
    one.core.stop("SIGTERM")
    history.take(nothing)
    part = history.since(place)
    assert ([mark.kind for mark in part.marks], part.failures, part.whole) == (["quiet", "drain"], [], False)
