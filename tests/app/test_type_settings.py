"""[types."<event_type>"] in config.toml: what it changes of a handler's options, and what is said where it cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from millpond import Breaker, handler
from millpond.app.config import load
from millpond.app.handler_options import DEFAULT_BREAKER, RateLimit
from millpond.app.routing import Route, routes
from millpond.app.type_settings import TypeSettings, with_types
from millpond.errors import ConfigError

QUEUE = '[queues.q]\nurl = "local"\n'


@pytest.fixture
def read(tmp_path: Path):
    def read(text: str, environ: dict[str, str] | None = None) -> dict[str, TypeSettings]:
        file = tmp_path / "config.toml"
        file.write_text(f'{QUEUE}{text if "[" in text else f"""[types."email.send"]{chr(10)}{text}"""}')
        return load(file, environ or {}).types

    return read


@pytest.fixture
def declared(monkeypatch):
    module = ModuleType("types_of_one")
    monkeypatch.setattr("millpond.app.routing._handlers", [])
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def declare(**options) -> dict[str, Route]:
        def send(payload: dict) -> None: ...

        send.__module__ = module.__name__
        handler("email.send", **options)(send)
        return routes([module.__name__])

    return declare


def test_each_option_is_read(read):
    text = 'rate = "14/s"\nconcurrency = 5\nbreaker = {failures = 0}\nidempotent = true'
    assert read(text) == {"email.send": TypeSettings("14/s", 5, {"failures": 0}, True)}


def test_as_many_at_once_as_the_worker_has(read):
    assert read("concurrency = 100")["email.send"].concurrency == 100


def test_values_may_come_from_the_environment(read):
    text = 'rate = "${RATE:-}"\nconcurrency = "${MOST:-0}"\nbreaker = "${BREAKER:-true}"\nidempotent = "${ONCE:-false}"'
    assert read(text) == {"email.send": TypeSettings("", 0, True, False)}
    environ = {"RATE": "90/m", "MOST": "7", "BREAKER": "false", "ONCE": "true"}
    assert read(text, environ) == {"email.send": TypeSettings("90/m", 7, False, True)}


def test_a_breaker_may_be_a_table_of_its_own(read):
    text = '[types."email.send".breaker]\nprobe_seconds = "${PROBE:-2}"\nmax_probe_seconds = 60\n'
    assert read(text)["email.send"].breaker == {"probe_seconds": 2.0, "max_probe_seconds": 60.0}


TABLE = '[types."email.send"] '


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ('rate = "14/x"', f'{TABLE}rate = "14/x": write a number and a unit, 14/s, 90/m or 5000/h'),
        ('rate = "0/s"', f'{TABLE}rate = "0/s": from 1/h to 100000/s'),
        ("rate = 14", f"{TABLE}rate = 14: a number and a unit, 14/s, 90/m or 5000/h"),
        ("concurrency = -1", f"{TABLE}concurrency = -1: 0 to 120000, a whole number"),
        ("concurrency = 101", f"{TABLE}concurrency = 101: not more than [worker] concurrency = 100"),
        ("breaker = 5", f"{TABLE}breaker = 5: false, true, or a table, {{failures = 25, outage_failures = 5}}"),
        ("idempotent = 5", f"{TABLE}idempotent = 5: true or false"),
        ("rates = 5", f"{TABLE}rates: no such key; did you mean rate?"),
        ("timeout = 5", f"{TABLE}timeout: no such key; there are: rate, concurrency, breaker, idempotent"),
        ("breaker = {failures = -1}", '[types."email.send".breaker] failures = -1: a whole number, 0 or more'),
        ("breaker = {failure = 1}", '[types."email.send".breaker] failure: no such key; did you mean failures?'),
        ("breaker = {probe_seconds = 0}", '[types."email.send".breaker] probe_seconds = 0: 0.1 to 3600 seconds'),
        ("[types]\nrate = 5", "[types] rate: keys stand in a table with a name, [types.<name>]"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_a_finding_with_table_key_value_and_what_is_allowed(read, text, finding):
    with pytest.raises(ConfigError) as raised:
        read(text)
    [found] = raised.value.findings
    found = found.partition("config.toml: ")[2].replace("rates = 5:", "rates:").replace("timeout = 5:", "timeout:")
    assert found.replace("failure = 1:", "failure:") == finding


def test_a_type_with_a_dot_that_is_not_in_quotes_is_told_to_be(read):
    with pytest.raises(ConfigError) as raised:
        read('[types.partner.notify]\nrate = "14/s"')
    [found] = raised.value.findings
    assert found.endswith('notify = {...}: a type with a dot is written in quotes, [types."partner.notify"]')


def test_all_findings_come_at_once_and_none_shows_a_value_of_the_environment(read):
    text = 'rate = "${RATE}"\nconcurrency = -1\nbreaker = {failures = "${FAILURES}", probe_seconds = 0}\nidempotent = 5'
    with pytest.raises(ConfigError) as raised:
        read(text, {"RATE": "s3cret", "FAILURES": "s4cret"})
    assert len(raised.value.findings) == 5
    assert "rate (from ${RATE}): write" in str(raised.value)
    assert "cret" not in str(raised.value)


# --- over what the handler says


def test_what_is_not_set_stays_as_the_handler_says(declared):
    before = declared(rate="14/s", concurrency=5, breaker=False, idempotent=True)
    assert with_types(before, {"email.send": TypeSettings()}) == before
    assert with_types(before, {}) == before


def test_what_is_set_goes_before_what_the_handler_says(declared):
    own = {"email.send": TypeSettings("90/m", 7, {"failures": 0}, True)}
    route = with_types(declared(rate="14/s", breaker=Breaker(outage_failures=2)), own)["email.send"]
    assert (route.rate, route.concurrency, route.idempotent) == (RateLimit(1.5, "90/m"), 7, True)
    assert route.breaker == Breaker(failures=0, outage_failures=2)


@pytest.mark.parametrize(
    ("said", "own", "used"),
    [
        (True, False, None),
        (False, True, DEFAULT_BREAKER),
        (False, {"failures": 0}, Breaker(failures=0)),
        (Breaker(failures=7), True, Breaker(failures=7)),
        (Breaker(failures=7), None, Breaker(failures=7)),
    ],
    ids=str,
)
def test_a_breaker_can_be_switched_off_and_on(declared, said, own, used):
    assert with_types(declared(breaker=said), {"email.send": TypeSettings(breaker=own)})["email.send"].breaker == used


def test_a_type_without_a_handler_is_a_finding_with_the_nearest_that_has_one(declared):
    with pytest.raises(ConfigError) as raised:
        with_types(declared(), {"email.sent": TypeSettings(), "x": TypeSettings()})
    assert raised.value.findings == (
        '[types."email.sent"]: no handler takes this type; did you mean email.send?',
        "[types.x]: no handler takes this type; there are: email.send",
    )


def test_numbers_that_do_not_go_with_the_handlers_own_are_a_finding(declared):
    found = declared(breaker=Breaker(max_probe_seconds=20))
    assert with_types(found, {"email.send": TypeSettings(breaker={"probe_seconds": 20.0})})
    with pytest.raises(ConfigError) as raised:
        with_types(found, {"email.send": TypeSettings(breaker={"probe_seconds": 21.0})})
    assert raised.value.findings == (
        '[types."email.send".breaker] probe_seconds = 21.0: not more than max_probe_seconds = 20',
    )
