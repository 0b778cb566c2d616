"""outage: the mail server is down for a minute; no mail may become a dead letter, or be received again and again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from chaos.moment import now
from chaos.proxy_process import ProxyProcess, proxy
from chaos.relay import DOMAINS
from chaos.scenarios.backlog import FIRST, Backlog
from chaos.scenarios.jobs import Job
from chaos.scenarios.mails import RelayProcess, doubled, relay
from chaos.scenarios.report import Report, all_done_once
from chaos.scenarios.stage import BY_DEFAULT, Stage, StagePlan, stage, toml_table

#: How the server is down, and the order that makes it so.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "refuses connections": {"do": "closed"},
    "says 421 at each connection": {"do": "greets", "code": "421 4.3.2 closing"},
    "takes connections and says nothing": {"do": "hung"},
}
MAX_RECEIVE_COUNT = 3
MAIL_SECONDS = 0.2
#: Each mail is delivered this soon after the server's return, and received this often until then.
BACK_SECONDS, RECEIVES = 15.0, 2
#: The healthy type: its rate is that of the permits, and not of the machine's CPU.
HEALTHY_SECONDS, HEALTHY_SHARE = 1.0, 0.5


class OutagePace(NamedTuple):
    """How many mails, how long the server is down, and how long the healthy type is measured alone before."""

    mails: int
    down_seconds: float
    alone_seconds: float


FULL, QUICK = OutagePace(200, 60.0, 20.0), OutagePace(40, 8.0, 5.0)


class Outage:
    """What was seen."""

    def __init__(self) -> None:
        self.back = 0.0
        self.alone = self.meanwhile = 0.0  # healthy messages a second
        self.mails_meanwhile = 0


def run(folder: Path, quick: bool) -> Report:
    """Each way of being down, with mails alone; then the first of them beside a healthy type."""
    pace = QUICK if quick else FULL
    figures: dict[str, object] = {}
    claims: dict[str, bool] = {}
    ways = [(way, False) for way in WAYS] + [(next(iter(WAYS)), True)]
    for number, (way, healthy) in enumerate(ways):
        one = _play(folder / str(number), pace, way, healthy)
        title = f"{'beside a healthy type' if healthy else way}: "
        print(f"  outage: {title}{one.figures}", flush=True)
        figures |= {title + what: value for what, value in one.figures.items()}
        claims |= {title + what: held for what, held in one.claims.items()}
    did = f"the mail server is down for {pace.down_seconds:g} s; {pace.mails} mails in {DOMAINS} domains"
    return Report(f"{did}, handlers of {MAIL_SECONDS:g} s, maxReceiveCount {MAX_RECEIVE_COUNT}", figures, claims)


def _play(folder: Path, pace: OutagePace, way: str, healthy: bool) -> Report:
    folder.mkdir()
    with relay(folder) as server:
        plan = StagePlan(
            visibility_seconds=30,
            concurrency=100,
            max_receive_count=MAX_RECEIVE_COUNT,
            handlers=("chaos.scenarios.jobs", "chaos.scenarios.mail_jobs"),
            retry=BY_DEFAULT,
            tables=toml_table("handlers.mail_jobs", {"port": server.port}),
        )
        with stage(folder, plan) as scene, proxy(scene.endpoint, folder) as between:
            scene.endpoint = f"{between.url}/worker"
            scene.start_ready()
            seen = _watch(scene, server, pace, WAYS[way], healthy)
            codes = scene.stop()
            return _report(scene, server, between, pace, seen, codes, healthy)


def _watch(scene: Stage, server: RelayProcess, pace: OutagePace, order: Mapping[str, Any], healthy: bool) -> Outage:
    seen, backlog = Outage(), Backlog(scene, "wait", HEALTHY_SECONDS)
    if healthy:
        backlog.start()
        scene.wait("healthy messages run", 5, partial(_have_ended, scene, 100))
        seen.alone = _rate(scene, pace.alone_seconds)
    server.order(**order)
    scene.send("mail", [Job(n, MAIL_SECONDS) for n in range(pace.mails)])
    seen.meanwhile = _rate(scene, pace.down_seconds)
    seen.mails_meanwhile = server.number_taken()
    server.order("up")
    seen.back = now()
    deadline = time.monotonic() + 120 + pace.down_seconds  # those that come too late are to be counted
    while server.number_taken() < pace.mails and time.monotonic() < deadline:
        time.sleep(0.05)
    if healthy:
        backlog.stop()
    deadline = time.monotonic() + 30
    while any(scene.counts()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def _have_ended(scene: Stage, number: int) -> bool:
    return scene.number("ok") >= number


def _rate(scene: Stage, seconds: float) -> float:
    """Messages that end well meanwhile, a second."""
    before = scene.number("ok")
    time.sleep(seconds)
    return (scene.number("ok") - before) / seconds


def _report(
    scene: Stage,
    server: RelayProcess,
    between: ProxyProcess,
    pace: OutagePace,
    seen: Outage,
    codes: list[int],
    healthy: bool,
) -> Report:
    taken, mails = server.taken(), range(pace.mails)
    late = max((one.moment - seen.back for one in taken), default=float("inf"))
    received = [one for one in between.receives() if one.n in mails]
    most = max((one.count for one in received if one.moment < seen.back), default=0)
    begun = sum(run.start < seen.back for n, runs in scene.runs().items() if n in mails for run in runs)
    dead_letters = scene.dead_letters()
    figures: dict[str, object] = {
        "delivered": len({one.n for one in taken}),
        "seconds from its return to the last mail": f"{late:.1f}",
        "most receives of a mail while down": most,
        "most receives of a mail in all": max((one.count for one in received), default=0),
        "receives of mails while down": sum(one.moment < seen.back for one in received),
        "runs of mails while down": begun,
        "dead letters": dead_letters,
    }
    claims = {
        "no dead letter": dead_letters == 0,
        f"received {RECEIVES} times at most while it was down": most <= RECEIVES,
        f"all delivered within {BACK_SECONDS:g} s of its return": {one.n for one in taken} == set(mails)
        and late <= BACK_SECONDS,
        "none doubled": not doubled(taken),
        "the server took nothing while it was down": seen.mails_meanwhile == 0,
        "nothing left, exit code 0": (*scene.counts(), *codes) == (0, 0, 0, 0),
    }
    if healthy:
        figures |= {
            "healthy messages a second before": f"{seen.alone:.1f}",
            "healthy messages a second meanwhile": f"{seen.meanwhile:.1f}",
        }
        claims["the healthy type goes on at half its speed"] = seen.meanwhile >= HEALTHY_SHARE * seen.alone
        runs = {n - FIRST: several for n, several in scene.runs().items() if Backlog.has(n)}
        claims["healthy messages done once each"] = all_done_once(runs, len(runs))
    return Report("", figures, claims)
