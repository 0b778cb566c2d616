"""What was meant by a name that does not exist."""

from __future__ import annotations

import pytest

from millpond.foreign.nearest import did_you_mean, nearest


@pytest.mark.parametrize(
    ("typed", "names", "said"),
    [
        ("sned", ["check", "send"], "did you mean send?"),
        ("email", ["reports", "emails"], "did you mean emails?"),
        ("INFO", ["debug", "info"], "did you mean info?"),
        ("invoice.create", ["Invoice.Created", "email.send"], "did you mean Invoice.Created?"),
        ("x", ["check", "send"], "there are: check, send"),
        ("x", [], "there are: none"),
        ("", ["check"], "there are: check"),
    ],
)
def test_the_nearest_name_is_meant_or_all_are_listed(typed, names, said):
    assert did_you_mean(typed, iter(names)) == said


def test_a_name_that_is_near_to_none_has_no_nearest():
    assert nearest("fly", ["check", "send"]) == ""
