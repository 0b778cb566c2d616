"""The schedule of attempts: as it is computed, in words, and as the pages have it."""

import re
from pathlib import Path

import pytest

from millpond import handler
from millpond.app.config import RetrySettings
from millpond.app.retry_policy import Span, policy_of
from millpond.app.routing import Route
from millpond.hub.backoff import retry_seconds

ROOT = Path(__file__).parent.parent.parent
RETRY = RetrySettings()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (RetrySettings(1, 20, 1_800), "0 seconds"),
        (RetrySettings(2, 1, 1), "1 second"),
        (RetrySettings(3, 20, 1_800), "40 to 80 seconds"),
        (RetrySettings(5, 20, 1_800), "6.7 to 13 minutes"),
        (RetrySettings(20, 20, 43_200), "75 to 150 hours"),
    ],
)
def test_how_long_all_attempts_take_is_said_in_the_unit_that_fits(policy, text):
    assert str(Span.of(policy)) == text


def test_fewer_attempts_than_the_policy_has_take_less_and_more_take_no_longer():
    assert str(Span.of(RETRY, 3)) == "40 to 80 seconds"
    assert Span.of(RETRY, 99) == Span.of(RETRY)


def test_a_handlers_own_attempts_and_back_off_make_its_policy():
    route = Route("job", "tests.job", bytes, print, max_attempts=3, backoff=(5, 60))
    assert policy_of(route, RETRY) == RetrySettings(3, 5, 60)


def wait_after(failure):
    wait = failure, RETRY.base_seconds, RETRY.max_seconds
    return Span(retry_seconds(*wait, lambda: 0.0), retry_seconds(*wait, lambda: 1.0))


def test_the_documented_table_is_what_the_function_gives():
    page = (ROOT / "docs/reference/handlers.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    waits = [(str(n), str(wait_after(n)), str(Span.of(RETRY, n + 1))) for n in range(1, RETRY.max_attempts)]
    assert rows == [*waits, (str(RETRY.max_attempts), "none: a dead letter", "-")]


@pytest.mark.parametrize(
    "page", ["README.md", "config.toml", "docs/reference/handlers.md", "docs/reference/settings.md"]
)
def test_each_page_that_names_the_time_of_all_attempts_names_the_true_one(page):
    named = re.findall(r"in\s(\d+\sto\s\d+\sminutes)", (ROOT / page).read_text())
    assert [" ".join(text.split()) for text in named] == [str(Span.of(RETRY))]


def test_the_waits_that_the_page_of_handlers_names_for_an_own_back_off_are_true():
    page = (ROOT / "docs/reference/handlers.md").read_text()
    assert "max_attempts=3, backoff=(5, 60)" in page
    bounds = [retry_seconds(n, 5, 60, chance) for n in (1, 2) for chance in (lambda: 0.0, lambda: 1.0)]
    assert "again after {} to {} s, then {} to {} s".format(*bounds) in page
    assert handler("price.changed", max_attempts=3, backoff=(5, 60))
