"""Which letters are meant, which failed alike, and what a replay sends."""

from __future__ import annotations

import json

import msgspec
import pytest

from millpond.app.dead_letter import ReplayMark
from millpond.dead_letters.error_groups import failure_name, groups_of, normalised
from millpond.dead_letters.replays import MAX_ALIKE, is_looping, next_mark, replay_entry
from millpond.dead_letters.selection import Selection, age_seconds
from millpond.errors import ConfigError
from millpond.sqs.queue import Attribute
from tests.dead_letters.letters import letter


@pytest.mark.parametrize(
    ("selection", "is_meant"),
    [
        (Selection(), True),
        (Selection(ids=["e1"]), True),
        (Selection(ids=["e2", "letter-e"]), True),
        (Selection(ids=["e2"]), False),
        (Selection(types=["email.*"]), True),
        (Selection(types=["email"]), False),
        (Selection(reason="FAILED 7"), True),
        (Selection(reason="valueerror"), True),
        (Selection(reason="acme"), False),
        (Selection(text="ACME"), True),
        (Selection(text='"event_id": "e1"'), True),
        (Selection(text="nowhere"), False),
        (Selection(older=50), True),
        (Selection(older=150), False),
        (Selection(newer=150), True),
        (Selection(newer=50), False),
        (Selection(types=["email.send"], reason="other"), False),
    ],
)
def test_a_selection_takes_what_all_its_filters_take(selection, is_meant):
    one = letter("e1")
    assert selection.takes(one, one.failed_at + 100) == is_meant


@pytest.mark.parametrize(
    ("event_type", "wanted", "is_meant"),
    [
        ("orders[eu]", "orders[eu]", True),
        ("orderse", "orders[eu]", False),
        ("orders[eu].paid", "orders[eu].*", True),
        ("?", "?", True),
        ("x", "?", False),  # what cannot be read has the type ?, and no other
        ("x1", "x?*", False),
        ("a\u202eb", "a\\u202eb", True),  # as the page and the table show it
        ("t" * 300, "t" * 97 + "...", True),
        ("email.send", "Email.send", False),
    ],
)
def test_only_a_star_stands_for_other_characters_of_a_type(event_type, wanted, is_meant):
    one = msgspec.structs.replace(letter("e1"), event_type=event_type)
    assert Selection(types=[wanted]).takes(one, one.failed_at) == is_meant


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7_200), ("3D", 259_200)])
def test_an_age_is_a_number_and_a_unit(text, seconds):
    assert age_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1.5h", "1w", "1h30m", "9999999999d"])
def test_an_age_of_another_kind_is_refused(text):
    with pytest.raises(ConfigError, match="an age is a whole number"):
        age_seconds(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("KeyError: 'ann'", "KeyError: 'bo'"),
        ("timed out after 30.5 s", "timed out after 60 s"),
        ("no user 5f5ee045-5b7c-472f-8d74-4591f2e91ef9", "no user 1c11cca4-2b88-4d80-b07e-3c67ce100d35"),
        ("550 <ann@example.com> unknown", "550 <bo@example.org> unknown"),
        ("at 0x7f3a", "at 0x11bc"),
        ("GET https://a.test/1?x=2 failed", "GET https://b.test/ failed"),
        ("line one\nsecond 1", "line one\nother"),
    ],
)
def test_the_same_failure_reads_the_same(one, other):
    assert normalised(one) == normalised(other)


def test_other_failures_read_otherwise():
    texts = [
        "KeyError: <text>",
        "ValueError: no",
        "timed out",
        "connection refused by db",
        "connection refused by cache",
    ]
    assert len({normalised(text) for text in texts}) == len(texts)


def test_groups_count_by_type_and_error_with_the_first_and_the_last():
    letters = [letter(f"e{n}", error=f"KeyError: 'k{n}'") for n in range(3)] + [letter("x", event_type="other")]
    letters[1] = msgspec.structs.replace(letters[1], failed_at=5.0)
    first, second = groups_of(letters)
    assert (first.count, first.event_type, first.error, first.first) == (3, "email.send", "KeyError: <text>", 5.0)
    assert first.last == max(one.failed_at for one in letters[:3])
    assert (second.count, second.event_type) == (1, "other")


def test_a_group_has_the_error_as_it_was_where_all_have_the_very_same():
    same = [letter(f"e{n}", error="KeyError: 'customer'\nof 7") for n in range(3)]
    differing = [letter(f"e{n}", error=f"KeyError: 'k{n}'", event_type="other") for n in (1, 2, 1)]
    assert [group.text for group in groups_of([*same, *differing[:2]])] == ["KeyError: 'customer'", "KeyError: <text>"]
    assert [group.text for group in groups_of(differing)] == ["KeyError: <text>"]


def test_a_replay_keeps_all_but_the_reason_and_leaves_its_mark():
    one = letter("e1")
    entry = replay_entry(one, "run1", fifo=False)
    assert (entry.body, entry.dedup_id) == (one.received.text, "")
    assert entry.attributes["tenant"] == Attribute("String", "acme")
    mark = {"replays": 1, "alike": 1, "failed_as": failure_name(one), "run": "run1"}
    assert json.loads(entry.attributes["millpond"].value) == {"replay": mark}


def test_a_mark_that_does_not_fit_beside_ten_attributes_is_left_out():
    ten = {f"a{n}": Attribute("String", "v") for n in range(10)}
    one = letter("e1")
    full = msgspec.structs.replace(one, received=msgspec.structs.replace(one.received, attributes=ten))
    assert replay_entry(full, "run1", fifo=False).attributes == ten


def test_what_fails_alike_after_three_replays_loops_and_what_fails_otherwise_does_not():
    one = letter("e1", error="KeyError: 1")
    for replays in range(1, MAX_ALIKE + 1):
        assert not is_looping(one)
        one = msgspec.structs.replace(one, mark=next_mark(one, "r"))
        assert one.mark is not None
        assert one.mark.replays == one.mark.alike == replays
    assert is_looping(one)
    other = msgspec.structs.replace(letter("e1", error="other"), mark=one.mark)
    assert not is_looping(other)
    assert next_mark(other, "r") == ReplayMark(replays=4, alike=1, failed_as=failure_name(other), run="r")


def test_whole_ids_name_the_letter_and_no_other_of_the_same_message():
    """The worker's copy and the letter that SQS moved can both be there: who discards one keeps the other."""
    whole = letter("e1", message_id="m-e1")
    copy = letter("e1", message_id="letter-2")  # its original is m-e1
    loose, exact = Selection(ids=["m-e1"]), Selection(ids=["m-e1"], whole_ids=True)
    assert [loose.takes(one, 0.0) for one in (whole, copy)] == [True, True]
    assert [exact.takes(one, 0.0) for one in (whole, copy)] == [True, False]
    assert not Selection(ids=["m-e"], whole_ids=True).takes(whole, 0.0)


def test_an_empty_selection_is_every_letter_however_it_is_written():
    assert Selection(ids=[], types=[]).is_all
    assert not Selection(older=0.0).is_all
    assert not Selection(ids=["m"]).is_all
