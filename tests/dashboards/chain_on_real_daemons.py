"""The whole chain on real daemons: worker -> StatsD -> carbon -> graphite-web, and worker -> /metrics -> Prometheus.

`make dashboards` runs it; it is no part of `make test`: it needs packages of Debian and npm, and two minutes. The
figures at the far ends are compared with those of the sender, the handlers, the queues and the mail server.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.alerting import Rule
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.panels import PANELS
from tests.dashboards.asking import Asked, asked
from tests.dashboards.daemons import ROOT
from tests.dashboards.pictures import draw
from tests.dashboards.scenario import CONCURRENCY, METERED, Run, run_of

KINDS = ("graphite", "prometheus")
PICTURES = ROOT / "docs/pictures"
COUNTED = [panel for panel in PANELS if panel.rows[0].kind == "counter" and not panel.names]


@pytest.mark.parametrize("kind", KINDS)
def test_each_dashboard_is_the_same_after_it_was_read_by_grafanas_schema(kind):
    register_default_plugins()
    text = (ROOT / f"dashboards/{kind}/dashboard.json").read_text()
    assert JSONEncoder(indent=1, sort_keys=True).encode(Dashboard.from_json(json.loads(text))) + "\n" == text


def test_each_alert_of_grafana_fits_its_schema():
    register_default_plugins()
    for rule in yaml.safe_load((ROOT / "dashboards/graphite/alerts.yaml").read_text())["groups"][0]["rules"]:
        read = json.loads(JSONEncoder().encode(Rule.from_json(rule)))
        assert read | rule == read
        assert read.keys() - rule.keys() == {"orgID", "folderUID", "ruleGroup"}  # Grafana's own


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with run_of(tmp_path_factory.mktemp("run")) as one:
        yield one


@pytest.fixture(scope="module")
def shown(run: Run) -> dict[str, dict[str, Asked]]:
    """What each panel of each dashboard shows, while the second worker still runs."""
    return {kind: {panel.title: panel for panel in asked(run, kind, run.ended)} for kind in KINDS}


@pytest.fixture(scope="module")
def counted(run: Run) -> dict[str, Asked]:
    """What each panel on Graphite shows after all has ended."""
    return {panel.title: panel for panel in asked(run, "graphite", time.time())}


def wanted(run: Run, name: str) -> int:
    """How often a counter has counted, by the books of the workers, or as the scene has it."""
    known = {"worker.hub_blocked": run.blocks, "worker.leases_rescued": 0, "receive_failed": 0, "stuck": 2}
    return known[name] if name in known else run.books[name]


def test_the_books_of_the_workers_are_what_the_others_saw(run):
    done = {
        what: sum(number for (_, one), number in run.ledger.items() if one == what)
        for what in ("succeeded", "failed", "put off", "rejected", "discarded")
    }
    assert run.mails == run.sent["email.send"]
    assert run.books["succeeded"] == done["succeeded"] + run.mails
    unknown = run.sent["shop.nobody"]  # no handler takes it
    assert run.books["succeeded"] == sum(run.sent.values()) - done["rejected"] - done["discarded"] - unknown
    assert run.books["retried"] == done["failed"] + done["put off"] + 2  # the stubborn ones, which timed out
    assert run.books["failed"] == done["failed"] + done["put off"]
    assert run.books["rejected"] == done["rejected"] == run.sent["shop.wrong"]
    assert run.books["undecodable"] == unknown
    assert run.books["dead_lettered"] == done["rejected"] + unknown
    assert run.letters == {"mail": 0, "jobs": run.books["dead_lettered"] + 3}  # and three follow-ups
    outcomes = ("succeeded", "retried", "dead_lettered", "discarded", "released", "lease_lost", "abandoned")
    assert run.books["received"] == sum(run.books[name] for name in outcomes)


def test_no_two_counters_have_the_same_figure_or_one_could_be_taken_for_the_other(run):
    """Those that count nothing in the run are told apart by tests/test_dashboards.py alone."""
    figures = [wanted(run, row.name) for panel in COUNTED for row in panel.rows if not panel.by]
    counted = Counter(figure for figure in figures if figure)
    assert {figure: number for figure, number in counted.items() if number > 1} == {2: 2}  # stuck, and so timed_out


@pytest.mark.parametrize("panel", COUNTED, ids=lambda panel: panel.title)
def test_graphite_has_counted_what_was_done(run, counted, panel):
    """By the queries of the panels: StatsD's rates, summed over their seconds."""
    lines = counted[panel.title].lines
    sums = {row.name: sum(value for _, value in lines.get(row.short_name, [])) for row in panel.rows}
    assert sums == {row.name: wanted(run, row.name) for row in panel.rows}


@pytest.mark.parametrize("panel", COUNTED, ids=lambda panel: panel.title)
def test_prometheus_has_counted_what_was_done(run, panel):
    """By the last value of each process. What one gave back when its drain ended came after the last scrape."""
    late = {"released": run.released_at_the_end}
    for row in panel.rows:
        found = run.prometheus.query(f"sum(last_over_time({row.prometheus_name}[10m]))", time.time())
        (counted,) = (value for _, value in found) if found else (0.0,)
        if row.name == "requests":  # those of the last moment too
            assert 0 <= run.books["requests"] - counted <= 5
        else:
            assert (row.name, counted) == (row.name, wanted(run, row.name) - late.get(row.name, 0))


def test_the_figures_at_both_ends_are_printed(run, counted, capsys):
    lines = {name: points for panel in COUNTED for name, points in counted[panel.title].lines.items()}
    with capsys.disabled():
        print(f"\n{sum(run.sent.values())} messages sent, {run.mails} mails taken, {run.letters['jobs']} dead letters")
        print(f"{'':26}{'workers':>9}{'Graphite':>10}{'Prometheus':>12}")
        for row in (row for panel in COUNTED for row in panel.rows if row.scope == "queue"):
            found = run.prometheus.query(f"sum(last_over_time({row.prometheus_name}[10m]))", time.time())
            ends = (wanted(run, row.name), sum(value for _, value in lines.get(row.name, [])), sum(v for _, v in found))
            if any(ends):
                print(f"{row.name:26}{ends[0]:9}{ends[1]:10g}{ends[2]:12g}")


def test_what_was_given_back_at_the_end_of_the_drain_is_in_the_log(run):
    assert run.released_at_the_end == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_no_panel_is_empty(shown, kind, panel):
    one = shown[kind][panel.title]
    assert one.lines
    assert one.highest() > 0


def test_the_rates_of_graphite_are_those_of_the_run_by_type(run, shown):
    lines = shown["graphite"]["Outcomes by type"].lines
    assert sum(value for _, value in lines["shop_order.succeeded"]) == run.sent["shop.order"]


def test_the_rates_of_prometheus_are_near_those_of_the_run(run, shown):
    """It does not see what was counted before the first scrape of a worker, and extrapolates."""
    lines = shown["prometheus"]["Outcomes by type"].lines
    seen = sum(value for _, value in lines["shop.order succeeded"])
    assert 0.9 * run.sent["shop.order"] <= seen <= 1.05 * run.sent["shop.order"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_breaker_is_open_in_the_outage_and_not_before_or_after(run, shown, kind):
    breakers = shown[kind]["Breakers"]
    name = {"graphite": "email_send", "prometheus": "email.send"}[kind]
    opened, recovery, closed = map(run.at, ("the breaker is open", "recovery", "the breaker is closed"))
    assert breakers.highest(name, end=run.at("outage")) == 0
    assert {value for at, value in breakers.lines[name] if opened + 3 < at < recovery} == {1}
    assert breakers.highest(name, begin=closed + 3) == 0
    assert breakers.highest("shop") == 0
    assert shown[kind]["Held"].highest(name, opened, recovery) >= 5 * 10  # e-mails a second, for most of it


@pytest.mark.parametrize("kind", KINDS)
def test_the_gauges_are_those_of_the_workers_and_of_the_queues(run, shown, kind):
    panels = shown[kind]
    assert panels["Dead letters"].last("jobs") == run.letters["jobs"]
    assert panels["Dead letters"].last("mail") == 0
    assert panels["Waiting in the queue"].highest("jobs", end=run.at("deploy")) > 100  # of the backlog at the start
    assert panels["Waiting in the queue"].last({"graphite": "jobs.visible", "prometheus": "jobs visible"}[kind]) == 0
    assert panels["In hand"].last("in_hand") == 0
    assert 0.8 * CONCURRENCY <= panels["Slots"].highest("slots_busy", end=run.at("deploy")) <= CONCURRENCY
    assert panels["Slots"].highest() == 2 * CONCURRENCY  # of both workers, in the deploy
    assert panels["Slots"].lines["slots"][-1][1] == CONCURRENCY
    assert panels["Rate"].highest("shop", end=run.at("deploy")) == pytest.approx(METERED, rel=0.05)
    assert panels["Hub lag"].highest() * {"graphite": 0.001, "prometheus": 1}[kind] == pytest.approx(3, abs=0.6)
    (second,) = (points for points in panels["Uptime"].lines.values() if points[-1][0] > run.at("recovery"))
    assert run.ended - run.second_ready - 3 <= second[-1][1] <= run.ended - run.at("deploy") + 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_times_are_those_of_the_handlers(run, shown, kind):
    """An order takes 20 ms. E-mails of the outage wait until it is over, no longer."""
    scale, name, half = {"graphite": (0.001, "shop_order", "median"), "prometheus": (1, "shop.order", "50 %")}[kind]
    times = sorted(
        value * scale
        for _, value in shown[kind]["Duration by type"].lines[f"{name}{'.' if kind == 'graphite' else ' '}{half}"]
        if value == value and value > 0
    )
    assert 0.015 <= times[len(times) // 2] <= 0.1
    outage = run.at("the breaker is closed") - run.at("outage")
    waits = [
        value * scale
        for line, points in shown[kind]["Latency by type"].lines.items()
        if "email" in line
        for _, value in points
        if value == value
    ]
    assert outage / 3 <= max(waits) <= 2 * outage


def test_a_worker_that_has_ended_is_gone_from_the_gauges(run):
    points = run.graphite.render("stats.gauges.millpond.worker.*.web_1", run.began, time.time())
    assert points
    assert max(at for some in points.values() for at, _ in some) <= run.at("the first worker has ended") + 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_row_says_what_is_wrong(run, shown, kind):
    panels = shown[kind]
    assert panels["Workers"].highest() == 2
    assert panels["Workers"].last() == 1
    assert panels["Dead letters wait"].last("jobs") == run.letters["jobs"]
    assert panels["Breaker open"].highest() == 1
    assert panels["Error rate high"].highest() > 1
    assert 0 < panels["No receives"].highest() < 60
    assert 0 < panels["Messages wait too long"].highest() < 300


# --- Alerts


def test_prometheus_has_alerted_as_it_should(run):
    found: dict[str, set[str]] = {}
    for labels, _ in run.prometheus.range("ALERTS", run.began, run.ended):
        found.setdefault(labels["alertname"], set()).add(labels["alertstate"])
    assert found.pop("MillpondDeadLetters") == {"pending", "firing"}
    assert found.pop("MillpondHubBlocked") == {"firing"}
    assert found.pop("MillpondBreakerOpen") == {"pending"}  # for less than a minute
    assert {state for states in found.values() for state in states} <= {"pending"}


class GrafanaRule:
    """A rule of dashboards/graphite/alerts.yaml, evaluated as Grafana does: query, reduce, threshold, for."""

    def __init__(self, rule: Any) -> None:
        self.title: str = rule["title"]
        query, reduce, threshold = (part["model"] for part in rule["data"])
        self._target: str = query["target"]
        self._seconds = rule["data"][0]["relativeTimeRange"]["from"]
        self._reduce = {"last": lambda values: values[-1], "max": max}[reduce["reducer"]]
        (condition,) = threshold["conditions"]
        assert condition["evaluator"]["type"] == "gt"
        (self._limit,) = condition["evaluator"]["params"]
        self._minutes = int(rule["for"].removesuffix("m"))
        self._silence = rule["noDataState"] == "Alerting"

    def fires(self, run: Run, prefix: str, at: float) -> bool:
        """Whether it fires at this moment."""
        times = [at - 60 * minute for minute in range(self._minutes + 1)]
        return all(self._above(run, prefix, one) for one in times)

    def _above(self, run: Run, prefix: str, at: float) -> bool:
        target = self._target.replace("millpond.", f"{prefix}.")
        found = run.graphite.render(target, at - self._seconds, at)
        assert len(found) <= 1  # Grafana tells several apart by their tags, which are the same for all
        values = [value for points in found.values() for _, value in points]
        return self._reduce(values) > self._limit if values else self._silence


RULES = [
    GrafanaRule(rule)
    for rule in yaml.safe_load((ROOT / "dashboards/graphite/alerts.yaml").read_text())["groups"][0]["rules"]
]
#: By prefix, path and what it has before and after a moment. Written by hand, so that a mistake in dashboards/ is none
#: here. What is good is below both prefixes.
BAD = {
    "Dead letters wait": {
        "gauges.bad.mail.dead_letters.one": (0, 1),
        "gauges.bad.mail.dead_letters.two": (0, 1),
    },
    "Messages wait too long": {"gauges.bad.mail.oldest_seconds.one": (10, 301)},
    "No receives": {
        "gauges.bad.mail.receive_age_seconds.one": (20, 70),
        "gauges.bad.mail.receive_age_seconds.two": (20, 70),
    },
    "Breaker open": {
        "gauges.bad.worker.type.email_send.breaker.one": (0, 1),
        "gauges.bad.worker.type.email_send.breaker.two": (0, 0),
    },
    "Hub blocked": {"bad.worker.hub_blocked": (0, 0.1)},
    "Error rate high": {
        "gauges.bad.mail.error_percent.one": (0, 10.1),
        "gauges.bad.mail.error_percent.two": (0, 0),
    },
}
GOOD = {
    "gauges.good.jobs.dead_letters.one": (0, 0),
    "gauges.good.jobs.oldest_seconds.one": (300, 300),
    "gauges.good.jobs.receive_age_seconds.one": (20, 70),
    "gauges.good.jobs.receive_age_seconds.two": (20, 30),
    "gauges.good.worker.type.shop_order.breaker.one": (0, 0),
    "good.worker.hub_blocked": (0, 0),
    "gauges.good.jobs.error_percent.one": (10, 10),
}


@pytest.fixture(scope="module")
def turned(run: Run) -> float:
    """When the series, an hour before the run, turned bad: each has eleven minutes before and after."""
    moment = math.floor(run.began) - 3600
    series = {path: values for some in BAD.values() for path, values in some.items()} | GOOD
    series |= {path.replace("good.", "bad."): values for path, values in GOOD.items() if "hub" not in path}
    times = range(moment - 660, moment + 660, 5)
    run.graphite.write((f"stats.{path}", values[at >= moment], at) for path, values in series.items() for at in times)
    end = time.monotonic() + 10
    while time.monotonic() < end and not run.graphite.render(f"stats.{max(series)}", moment + 600, moment + 660):
        time.sleep(0.2)
    return float(moment)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.title)
def test_each_alert_on_graphite_fires_on_the_bad_series_and_is_silent_on_the_good_ones(run, turned, rule):
    assert BAD.keys() == {one.title for one in RULES}
    assert not rule.fires(run, "bad", turned - 60)
    assert rule.fires(run, "bad", turned + 540)
    assert not rule.fires(run, "good", turned + 540)


def test_no_worker_at_all_is_an_alert_on_graphite(run, turned):
    assert [rule.title for rule in RULES if rule.fires(run, "bad", turned - 1500)] == ["No receives"]


# --- Pictures


@pytest.mark.parametrize("kind", KINDS)
def test_the_pictures_of_the_run(run, shown, kind):
    picture = draw(run, kind, list(shown[kind].values()))
    path = PICTURES / f"dashboard-{kind}.png"
    path.write_bytes(picture)
    assert 20_000 < path.stat().st_size < 1_000_000
