"""What may be asked of dead letters by the page, and how an order and its result read in the log."""

from __future__ import annotations

import msgspec
import pytest

from millpond.dead_letters.mover import Moved
from millpond.process.letter_orders import (
    MAX_PAGE_KEPT,
    MAX_PAGE_MOVE,
    LookOrder,
    MoveOrder,
    MoveProgress,
    progress_fields,
    wrong_with_order,
)


def order(**fields: object) -> MoveOrder:
    return msgspec.convert({"do": "replay", "queue": "jobs", **fields}, MoveOrder)


@pytest.mark.parametrize(
    ("fields", "is_right"),
    [
        ({"ids": ["m1"]}, True),
        ({"types": ["email.*"]}, True),
        ({"reason": "timed out"}, True),
        ({"text": "ann"}, True),
        ({"all": True}, True),
        ({}, False),
        ({"ids": [], "types": [], "reason": "", "text": ""}, False),
        ({"ids": ["m1"], "all": True}, False),
        ({"text": "ann", "all": True}, False),
    ],
)
def test_every_letter_is_meant_only_where_it_is_said(fields, is_right):
    assert (wrong_with_order(order(**fields)) == "") is is_right


@pytest.mark.parametrize(
    "fields",
    [
        {"do": "export"},
        {"queue": 7},
        {"queue": "q" * 101},
        {"most": 0},
        {"most": -1},
        {"most": MAX_PAGE_MOVE + 1},
        {"most": "9"},
        {"most": 1.5},
        {"most": True},
        {"ids": "m1"},
        {"ids": [1]},
        {"ids": ["m" * 101]},
        {"ids": ["m"] * (MAX_PAGE_MOVE + 1)},
        {"types": ["t"] * 21},
        {"text": "t" * 501},
        {"all": 1},
        {"all": None},
        {"force": True},
        {"to": "elsewhere"},
    ],
)
def test_what_is_no_order_is_refused(fields):
    with pytest.raises(msgspec.ValidationError):
        order(**fields)


def test_a_look_takes_no_ids_and_no_action():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"queue": "jobs", "ids": ["m"]}, LookOrder)


def test_an_order_reads_as_a_sentence_without_addresses():
    assert order(ids=["a", "b"], most=2).described == "replay of at most 2 dead letters of jobs, by 2 ids"
    text = order(do="discard", types=["a.b", "c.*"], reason="no", text="ann@example.com", most=1).described
    assert text == "discard of at most 1 dead letter of jobs, type a.b or c.*, reason no, text ***"
    assert order(all=True).described.endswith("of jobs, whichever they are")


def test_a_result_reads_as_a_sentence():
    assert MoveProgress(order(all=True), Moved(moved=3)).result == "3 moved"
    done = Moved(moved=3, refused=2, uncertain=["a"], left=["b", "c"], missing=["d"])
    text = MoveProgress(order(all=True), done, why="interrupted").result
    assert text == "3 moved, 2 kept, 1 perhaps sent as well, 2 not deleted, 1 not found, interrupted"


def test_the_page_gets_counts_and_the_first_of_those_that_stay_with_their_reasons():
    kept = [(f"m{number}", "why\nnot") for number in range(MAX_PAGE_KEPT + 50)]
    progress = MoveProgress(order(all=True), Moved(moved=3, refused=len(kept), kept=kept), stop_asked=True)
    fields = progress_fields(progress)
    assert (fields["moved"], fields["refused"], len(fields["kept"])) == (3, len(kept), MAX_PAGE_KEPT)
    assert fields["kept"][0] == ("m0", "why\\nnot")
    assert fields["stopping"] is True
    progress.state = "done"
    assert progress_fields(progress)["stopping"] is False
