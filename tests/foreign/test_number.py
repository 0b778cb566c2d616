"""Whole numbers within their bounds."""

from __future__ import annotations

import pytest

from millpond.foreign.number import number_within


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("5", 5),
        (7, 7),
        (" 8 ", 8),
        (0, 0),
        (1_000, 1_000),
        ("1000", 1_000),
        (1_001, 1),
        ("9" * 400, 1),
        (10**400, 1),
        ("-3", 1),
        (-3, 1),
        (None, 1),
        ("x", 1),
        (2.5, 1),
        ("", 1),
    ],
)
def test_a_number_is_read_within_its_bounds(value, number):
    assert number_within(value, 0, 1_000, 1) == number
