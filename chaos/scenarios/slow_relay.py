"""slow_relay: a mail server that takes fourteen mails a second and refuses the rest, as SES does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chaos.moment import now
from chaos.relay import address
from chaos.scenarios.mails import Handed, RelayProcess, doubled, relay
from chaos.scenarios.report import Report
from chaos.scenarios.stage import BY_DEFAULT, Stage, StagePlan, stage, toml_table

RATE = 14
WANTED = 12.0
#: What SES says; and when: at MAIL, or after the mail's final dot.
CODE = "454 Throttling failure: Maximum sending rate exceeded."
PHASES = ("MAIL", "end")
MAX_RECEIVE_COUNT = 10
#: From the first mail on: until the pace is found. The last mails are a tail that is not measured.
FIRST_SECONDS, QUICK_FIRST_SECONDS = 60.0, 15.0
MAILS, QUICK_MAILS, TAIL = 2_000, 500, 100


class Pace(NamedTuple):
    """Mails a second, after the first part; and in each ten seconds of it, the least and the most."""

    mean: float
    least: float
    most: float


def run(folder: Path, quick: bool) -> Report:
    """Both phases, one after the other."""
    mails, first = (QUICK_MAILS, QUICK_FIRST_SECONDS) if quick else (MAILS, FIRST_SECONDS)
    figures: dict[str, object] = {}
    claims: dict[str, bool] = {}
    for phase in PHASES:
        one = _play(folder / phase, phase, mails, first)
        title = "refuses at MAIL: " if phase == "MAIL" else "refuses after the content: "
        print(f"  slow_relay: {title}{one.figures}", flush=True)
        figures |= {title + what: value for what, value in one.figures.items()}
        claims |= {title + what: held for what, held in one.claims.items()}
    return Report(f"{mails:,} mails, a relay that takes {RATE} a second: {CODE!r}", figures, claims)


def _play(folder: Path, phase: str, mails: int, first: float) -> Report:
    folder.mkdir()
    with relay(folder) as server:
        server.order("up", rate=RATE, phase=phase, code=CODE)
        settings = {"host": "127.0.0.1", "port": server.port, "security": "none", "from": "a@chaos.example"}
        plan = StagePlan(
            visibility_seconds=60,
            concurrency=100,
            max_receive_count=MAX_RECEIVE_COUNT,
            handlers=("chaos.scenarios.jobs", "millpond.mail.handler"),
            retry=BY_DEFAULT,
            tables=toml_table("handlers.email", settings),
        )
        with stage(folder, plan) as scene:
            scene.send_payloads("email.send", {n: _mail(n) for n in range(mails)})
            begun = now()
            scene.start_ready()
            _wait(scene, server, mails)
            codes = scene.stop()
            return _report(scene, server, mails, codes, begun, first)


def _mail(n: int) -> Mapping[str, Any]:
    return {"to": [address(n)], "subject": f"Mail {n}", "text": "Hello"}


def _wait(scene: Stage, server: RelayProcess, mails: int) -> None:
    """Until all is taken, or too late for that."""
    end = time.monotonic() + 2 * mails / WANTED + 60
    while time.monotonic() < end and server.number_taken() < mails:
        time.sleep(0.1)
    end = time.monotonic() + 30
    while time.monotonic() < end and any(scene.counts()):
        time.sleep(0.1)


def _report(scene: Stage, server: RelayProcess, mails: int, codes: Sequence[int], begun: float, first: float) -> Report:
    handed = server.handed()
    taken = [one for one in handed if one.what == "taken"]
    pace = _pace(taken, begun + first, mails)
    dead_letters, left = scene.dead_letters(), scene.counts()
    figures = {
        "mails taken": len({one.n for one in taken}),
        "refused": len(handed) - len(taken),
        "seconds in all": f"{max((one.moment for one in taken), default=begun) - begun:.0f}",
        f"a second, after the first {first:g} s": f"{pace.mean:.1f}",
        "in ten seconds of that, the least and the most": f"{pace.least:.1f} {pace.most:.1f}",
        "receives": scene.sum_of("received"),
        "dead letters": dead_letters,
    }
    claims = {
        "no dead letter": dead_letters == 0,
        "all taken": {one.n for one in taken} == set(range(mails)),
        "none doubled": not doubled(taken),
        f"at least {WANTED:g} a second after that": pace.mean >= WANTED,
        "nothing left, exit code 0": (*left, *codes) == (0, 0, 0, 0),
    }
    return Report("", figures, claims)


def _pace(taken: Sequence[Handed], start: float, mails: int) -> Pace:
    """Between `start` and the tail."""
    moments = sorted(one.moment for one in taken)[: mails - TAIL]
    measured = [moment for moment in moments if moment >= start]
    if len(measured) < 2:
        return Pace(0.0, 0.0, 0.0)
    tens = Counter(int((moment - start) // 10) for moment in measured)
    whole = [tens[ten] / 10 for ten in range(int((measured[-1] - start) // 10))] or [0.0]
    return Pace((len(measured) - 1) / (measured[-1] - measured[0]), min(whole), max(whole))
