"""An hour of a worker that sends mails, with a deploy, a mail server that fails, and a quiet: for the pictures.

`python -m tests.browser.example_hour` serves it, and prints its port.

The numbers are made up, by chance with a fixed seed, and go the way of real ones: through the metrics of a process that
is not there, the real page and its real server.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from types import SimpleNamespace

import gevent
from gevent.event import Event
from gevent.socket import wait_read

from millpond.app.http_settings import HttpSettings
from millpond.http.http_server import HttpServer
from millpond.message import Outcome
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import MetricSecond
from millpond.process.history import History
from millpond.process.hour_marks import MarkedState
from millpond.process.letter_desk import LetterDesk
from millpond.process.live_page import LivePage
from millpond.process.snapshot import QueueDepth, QueueSnapshot, RunningSnapshot, Snapshot, TypeSnapshot, WorkerSnapshot

#: 03:14 UTC of a night; the process has run for 52 minutes.
NOW, RUN_SECONDS = 1_795_662_840.0, 52 * 60
OUTAGE, QUIET = range(24 * 60, 35 * 60), range(41 * 60, 44 * 60)
MAIL, REPORT = "email.send", "report.make"
DOWN, UNKNOWN = "SMTPServerDisconnected: Connection unexpectedly closed", "SMTPRecipientsRefused: 550 no such user"


class Night:
    """What LivePage and History need of a Core and of an Observer; its clock is set."""

    def __init__(self) -> None:
        self.clock = SimpleNamespace(now=lambda: self.at, time=lambda: self.at, sleep=gevent.sleep, event=Event)
        self.at = NOW - RUN_SECONDS
        self.totals: Counter[MetricKey] = Counter()
        self.queues, self.hour, self.why, self.stopping = None, None, "", False

    def on_look(self) -> None:
        """Nothing is older than this."""

    def take(self, most: int = 100, bodies: bool = False) -> Snapshot:
        """The end of the hour."""
        minutes = self.hour.minutes
        return Snapshot(
            taken=self.at,
            worker=worker(self.hour.minute),
            queues=[
                queue("emails", 38, 412, 21.0, 7, *self.ended(MAIL)),
                queue("reports", 6, 0, 0.0, 0, *self.ended(REPORT)),
            ],
            types=[
                kind(MAIL, 36, minutes, *self.ended(MAIL), concurrency=40),
                kind(REPORT, 4, minutes, *self.ended(REPORT)),
            ],
            running=[running(number) for number in range(6)],
            running_number=40,
        )

    def ended(self, event_type: str) -> tuple[dict[str, int], dict[str, int]]:
        """Outcomes and causes."""
        counts = {key.name: number for key, number in self.totals.items() if key.event_type == event_type}
        causes = {name: counts.pop(name) for name in ("failed", "unavailable") if name in counts}
        return counts, causes


def worker(minute: object) -> WorkerSnapshot:
    numbers = {"pid": 4242, "slots_busy": 40, "slots": 100, "permits_free": 56, "in_hand": 44, "hub_blocked": 1}
    known = {"memory_bytes": 71_000_000, "bytes_in_hand": 0, "max_bytes_in_hand": 1, "leases_rescued": 0, "stuck": 0}
    texts = {"name": "mailer.1", "version": "0.1.0", "state": "running", "why": "", "log_level": "info"}
    times = {"started": NOW - RUN_SECONDS, "uptime_seconds": RUN_SECONDS}
    return WorkerSnapshot(**numbers, **known, **texts, **times, minute=minute)


def queue(
    name: str, in_hand: int, visible: int, oldest: float, dead: int, outcomes: dict[str, int], causes: dict[str, int]
) -> QueueSnapshot:
    depth = QueueDepth(
        asked=NOW, visible=visible, in_flight=in_hand, delayed=9, oldest_seconds=oldest, dead_letters=dead
    )
    numbers = {"in_hand": in_hand, "ready": 2, "held": 0, "oldest_in_hand_seconds": 1.4, "polls_open": 2, "pollers": 2}
    more = {"last_receive_seconds": 0.3, "failing_receives": 0, "weight": 1.0, "received": 61_436, "requests": 13_102}
    rest = {"redelivered": 0, "abandoned": 0, "requests_per_1000": 213.0, "leases": {}, "under_way": {}}
    texts = {"name": name, "url": f"https://sqs.eu-west-1.amazonaws.com/123456789012/{name}", "intake": "open"}
    return QueueSnapshot(
        **texts, state="receiving", outcomes=outcomes, causes=causes, depth=depth, **numbers, **more, **rest
    )


def kind(
    name: str,
    at_work: int,
    minutes: dict,
    outcomes: dict[str, int],
    causes: dict[str, int],
    concurrency: int = 0,
) -> TypeSnapshot:
    breaker = {"breaker": "closed", "breaker_reason": "", "breaker_seconds": 0.0, "rate": 0.0, "held": 0}
    return TypeSnapshot(
        event_type=name,
        handler=f"handlers.{name}",
        running=at_work,
        concurrency=concurrency,
        outcomes=outcomes,
        causes=causes,
        minute=minutes.get(name),
        **breaker,
    )


def running(number: int) -> RunningSnapshot:
    is_report = number < 2
    return RunningSnapshot(
        event_type=REPORT if is_report else MAIL,
        event_id=f"{'report' if is_report else 'order'}-{random.Random(number).randrange(10_000, 99_999)}",
        message_id=f"{number}",
        queue="reports" if is_report else "emails",
        attempt=2 if number == 3 else 1,
        seconds=(14.2, 9.7, 0.41, 0.38, 0.22, 0.06)[number],
        limit_seconds=60.0,
        lease_seconds_left=58.0 - number,
        interrupted=False,
        stands_at="handlers/reports.py:31 in render" if is_report else "millpond/mail/smtp.py:188 in send",
    )


def second_of(at: int, chance: random.Random) -> MetricSecond:
    """What one second of the hour brings."""
    busy = 19 + 5 * math.sin(at / 500) + chance.gauss(0, 1.5)
    mails = 0 if at in QUIET else round(busy * (1.8 if OUTAGE.stop < at < OUTAGE.stop + 240 else 1))
    failing = round(mails * 0.7) if at in OUTAGE else int(mails and chance.random() < 0.06)
    failing, waiting = (min(failing, 2), failing) if at in OUTAGE else (failing, 0)
    well = max(0, mails - failing - waiting)
    counts = {
        MetricKey("succeeded", "emails", MAIL): well,
        MetricKey("retried", "emails", MAIL): failing + waiting,
        MetricKey("failed", "emails", MAIL): failing,
        MetricKey("unavailable", "emails", MAIL): waiting,
        MetricKey("succeeded", "reports", REPORT): int(at not in QUIET and chance.random() < 0.2),
    }
    late = late_seconds(at)
    times = {
        MetricKey("latency", "emails", MAIL): [
            1000 * (late + chance.lognormvariate(-1.2, 0.6)) for _ in range(well + bool(mails))
        ],
        MetricKey("duration", "emails", MAIL): [
            1000 * chance.lognormvariate(-0.1 if at in OUTAGE else -1.4, 0.5)
            for _ in range(well + failing + bool(mails))
        ],
    }
    if counts[MetricKey("succeeded", "reports", REPORT)]:
        times[MetricKey("duration", "reports", REPORT)] = [1000 * chance.lognormvariate(2, 0.4)]
    times = {key: values for key, values in times.items() if values}
    return MetricSecond({key: number for key, number in counts.items() if number}, times, {})


def late_seconds(at: int) -> float:
    """How long mails have waited: longer and longer while the server is down, less and less after it."""
    if at in OUTAGE:
        return (at - OUTAGE.start) / 12
    return max(0.0, 55 - (at - OUTAGE.stop) / 4) if at > OUTAGE.stop else 0.0


def live(night: Night) -> History:
    """Let the hour go by."""
    chance, history = random.Random(7), History(night, night)
    for at in range(RUN_SECONDS):
        night.at += 1
        history.hour.take(second := second_of(at, chance))
        night.totals.update(second.counts)
        history.marks.look(night.at, state_at(at))
        failed = second.counts.get(MetricKey("failed", "emails", MAIL), 0)
        for _ in range(failed):
            fail(history, MAIL, DOWN if at in OUTAGE else f"{UNKNOWN} <guest-{at}@mail.example>", at)
        if at % 260 == 100:
            night.totals[MetricKey("failed", "reports", REPORT)] += 1
            night.totals[MetricKey("retried", "reports", REPORT)] += 1
            fail(history, REPORT, f"TimeoutError: no answer from warehouse:5432 after {at % 7 + 3} s", at)
    return history


def state_at(at: int) -> MarkedState:
    shut = {MAIL: "421 <mx.example> closes the connection"} if OUTAGE.start + 20 <= at < OUTAGE.stop else {}
    return MarkedState(frozenset({"emails", "reports"} if at in QUIET else ()), shut, int(at > 12 * 60))


def fail(history: History, event_type: str, error: str, at: int) -> None:
    desk = SimpleNamespace(route=SimpleNamespace(event_type=event_type))
    fields = {"event_id": f"order-{50_000 + at}", "queue": "emails" if event_type == MAIL else "reports"}
    history.failures.note(SimpleNamespace(desk=desk), Outcome("retried", "failed", "", error), fields)


def main() -> None:
    """Serve the page of that hour until the reader of its port has gone."""
    night, settings = Night(), HttpSettings(listen="127.0.0.1:0")
    history, desk = live(night), LetterDesk(night, {}, False)
    server = HttpServer(("127.0.0.1", 0), {}, "[http]", LivePage(settings, night, night, history, desk).gated)
    server.start()
    print(server.port, flush=True)
    wait_read(0)
    server.stop()


if __name__ == "__main__":
    main()
