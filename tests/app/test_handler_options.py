"""rate=, concurrency=, breaker= and idempotent= of @handler: what is taken, and what is said of anything else."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from millpond import Breaker, handler
from millpond.app.handler_options import DEFAULT_BREAKER, RateLimit, rate_limit, wrong_with_breaker
from millpond.app.routing import Route, routes
from millpond.errors import ConfigError


@pytest.fixture
def declare(monkeypatch):
    module = ModuleType("options_of_one")
    monkeypatch.setattr("millpond.app.routing._handlers", [])
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def declare(**options) -> Route:
        def good(payload: dict) -> None: ...

        good.__module__ = module.__name__
        handler("a", **options)(good)
        return routes([module.__name__])["a"]

    return declare


@pytest.mark.parametrize(
    ("text", "per_second"),
    [("14/s", 14), ("90/m", 1.5), ("5000/h", 5000 / 3600), ("0.5/s", 0.5), (" 14 / s ", 14), ("1/h", 1 / 3600)],
)
def test_a_rate_is_a_number_and_a_unit(text, per_second):
    assert rate_limit(text) == RateLimit(per_second, text.strip())


WRITE = "write a number and a unit, 14/s, 90/m or 5000/h"
FROM = "from 1/h to 100000/s"


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        ("14/x", WRITE),
        ("14", WRITE),
        ("/s", WRITE),
        ("-1/s", WRITE),
        ("1e3/s", WRITE),
        ("nan/s", WRITE),
        ("14/s/s", WRITE),
        ("١٤/s", WRITE),
        ("", WRITE),
        (14, WRITE),
        (b"14/s", WRITE),
        ("0/s", FROM),
        ("0.5/h", FROM),
        ("100001/s", FROM),
    ],
)
def test_any_other_rate_is_a_finding_that_says_what_is_allowed(declare, rate, says):
    with pytest.raises(ConfigError) as raised:
        declare(rate=rate)
    assert raised.value.findings[0].endswith(f"good: rate={rate!r}: {says}")


def test_without_options_there_is_no_limit_and_the_breaker_has_its_own_numbers(declare):
    route = declare()
    assert (route.rate, route.concurrency, route.breaker, route.idempotent) == (None, None, DEFAULT_BREAKER, False)


def test_a_route_has_the_options_as_they_are_used(declare):
    own = Breaker(failures=0)
    route = declare(rate="90/m", concurrency=5, breaker=own, idempotent=True)
    assert (route.rate, route.concurrency) == (RateLimit(1.5, "90/m"), 5)
    assert (route.breaker, route.idempotent) == (own, True)


@pytest.mark.parametrize(("given", "used"), [(True, DEFAULT_BREAKER), (False, None)])
def test_a_breaker_is_on_or_off(declare, given, used):
    assert declare(breaker=given).breaker is used


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"concurrency": 0}, "concurrency=0: it must be a whole number, 1 or more"),
        ({"concurrency": 2.0}, "concurrency=2.0: it must be a whole number, 1 or more"),
        ({"concurrency": True}, "concurrency=True: it must be a whole number, 1 or more"),
        ({"idempotent": 1}, "idempotent=1: it must be True or False"),
        ({"breaker": None}, "breaker=None: it must be a millpond.Breaker, or False for none"),
        ({"breaker": Breaker}, f"breaker={Breaker!r}: it must be a millpond.Breaker, or False for none"),
        ({"breaker": Breaker(failures=-1)}, "breaker: failures=-1: a whole number, 0 or more"),
        ({"breaker": Breaker(outage_failures=0)}, "breaker: outage_failures=0: a whole number, 1 or more"),
        ({"breaker": Breaker(probe_seconds=0)}, "breaker: probe_seconds=0: 0.1 to 3600 seconds"),
        ({"breaker": Breaker(probe_limit_seconds="30")}, "breaker: probe_limit_seconds='30': 0.1 to 3600 seconds"),
        ({"breaker": Breaker(probe_seconds=20)}, "breaker: probe_seconds=20: not more than max_probe_seconds = 10"),
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_one_finding(declare, options, says):
    with pytest.raises(ConfigError) as raised:
        declare(**options)
    [finding] = raised.value.findings
    assert finding.endswith(f"good: {says}")


@pytest.mark.parametrize("options", [{"timeout": 10**400}, {"backoff": (1, 10**400)}], ids=["timeout", "backoff"])
def test_a_number_that_is_too_large_for_seconds_is_one_finding(declare, options):
    with pytest.raises(ConfigError, match=r"good: (timeout|backoff)=.*: it must be"):
        declare(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"rate": "100000/s"},
        {"rate": "1/h"},
        {"concurrency": 1},
        {"breaker": Breaker(0, 1, 0.1, 0.1, 0.1)},
        {"breaker": Breaker(probe_seconds=3600, max_probe_seconds=3600, probe_limit_seconds=3600)},
    ],
    ids=str,
)
def test_an_option_may_be_just_within_its_limits(declare, options):
    assert declare(**options)


def test_two_numbers_that_do_not_go_together_are_found_beside_a_wrong_third():
    found = dict(wrong_with_breaker(Breaker(failures=-1, probe_seconds=20)))
    assert set(found) == {"failures", "probe_seconds"}


def test_all_that_is_wrong_with_a_handler_is_said_at_once(declare):
    with pytest.raises(ConfigError) as raised:
        declare(rate="x", concurrency=0, breaker=Breaker(failures=-1, probe_seconds=0), idempotent=None)
    assert len(raised.value.findings) == 5


def test_the_numbers_of_a_breaker_that_names_none_make_sense():
    assert list(wrong_with_breaker(DEFAULT_BREAKER)) == []
