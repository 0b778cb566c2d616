"""StatsD: what goes over the wire, when, and what cannot hurt the worker."""

from __future__ import annotations

import json
import re
import socket
import typing
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from millpond import message
from millpond.observe import metrics as module
from millpond.observe import statsd_packets as packets_module
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import Metrics
from millpond.observe.statsd_packets import DatadogNaming, GraphiteNaming, Naming, metric_name
from millpond.observe.statsd_sender import StatsdSender


class Server:
    """A StatsD server that only listens."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(5)
        self.port: int = self._socket.getsockname()[1]

    def packet(self) -> str:
        """The next packet; waits for it."""
        return self._socket.recv(65_536).decode("ascii")

    def packets(self) -> list[str]:
        """All that have arrived: over the loopback, what was sent has."""
        self._socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.packet())
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(5)

    def lines(self) -> list[str]:
        return [line for packet in self.packets() for line in packet.split("\n")]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def metrics_to(server: Server, host: str = "127.0.0.1", naming: Naming | None = None, **times) -> Metrics:
    """Metrics that send to the server."""
    return Metrics(StatsdSender(host, server.port, naming or GraphiteNaming("mill", "worker.1"), **times), **times)


@pytest.fixture
def make(server):
    """Metrics that send to the server; closed after the test."""
    made = []

    def make(host: str = "127.0.0.1", naming: Naming | None = None, **times) -> Metrics:
        made.append(metrics_to(server, host, naming, **times))
        return made[-1]

    yield make
    for metrics in made:
        metrics.close()


class VirtualTime:
    """A clock that moves only by sleeping. It ends the greenlet that sleeps past `until`."""

    def __init__(self, until: float) -> None:
        self.now = 0.0
        self.until = until
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        if self.now > self.until + 1e-6:
            raise gevent.GreenletExit

    @property
    def times(self):
        return {"clock": self.clock, "sleep": self.sleep}


def run(metrics: Metrics) -> None:
    """The sender, until its virtual time is over."""
    metrics.start()
    metrics._greenlet.join()


@pytest.fixture
def lookups(monkeypatch, server):
    """What the name server answers: an exception to raise, or None for the server's address. Counts the calls."""

    class Lookups:
        answer: Exception | None = None
        calls = 0

        def __call__(self, host, port, **kind):
            self.calls += 1
            if self.answer is not None:
                raise self.answer
            return [
                (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", port, 0, 0)),
                (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", port)),
            ]

    lookups = Lookups()
    monkeypatch.setattr(socket, "getaddrinfo", lookups)
    return lookups


# --- lines and packets


def test_a_counter_is_summed_and_sent_once(server, make):
    metrics = make()
    metrics.counter(MetricKey("succeeded", "emails")).total += 1
    metrics.counter(MetricKey("succeeded", "emails")).total += 4
    metrics.counter(MetricKey("retried", "emails")).total += 1
    metrics.flush()
    assert server.packets() == ["mill.emails.succeeded:5|c\nmill.emails.retried:1|c"]
    metrics.flush()
    assert server.packets() == []


def test_a_timer_sends_each_time_in_milliseconds(server, make):
    metrics = make()
    metrics.timer(MetricKey("duration", "emails")).add(12.34567)
    metrics.timer(MetricKey("duration", "emails")).add(3)
    metrics.flush()
    assert server.lines() == ["mill.emails.duration:12.346|ms", "mill.emails.duration:3.000|ms"]


def test_a_time_below_zero_is_zero(server, make):
    metrics = make()
    metrics.timer(MetricKey("latency", "emails")).add(-5.0)
    metrics.timer(MetricKey("latency", "emails")).add(float("nan"))
    metrics.flush()
    assert server.lines() == ["mill.emails.latency:0.000|ms"] * 2


def test_a_gauge_is_read_at_each_flush_and_names_its_process(server, make):
    values = iter([3, 4.25])
    metrics = make()
    metrics.gauge(MetricKey("in_hand", "emails"), lambda: next(values))
    metrics.flush()
    metrics.flush()
    assert server.lines() == ["mill.emails.in_hand.worker_1:3.0|g", "mill.emails.in_hand.worker_1:4.25|g"]


def test_a_negative_gauge_is_set_and_not_subtracted(server, make):
    metrics = make()
    metrics.gauge(MetricKey("worker.level"), lambda: -7)
    metrics.flush()
    assert server.packets() == ["mill.worker.level.worker_1:0|g\nmill.worker.level.worker_1:-7.0|g"]


def test_a_gauge_that_cannot_be_read_is_left_out_and_takes_no_other_with_it(server, make):
    metrics = make()
    metrics.gauge(MetricKey("worker.broken"), lambda: 1 / 0)
    metrics.gauge(MetricKey("worker.text"), lambda: "many")
    metrics.gauge(MetricKey("worker.endless"), lambda: float("inf"))
    metrics.gauge(MetricKey("worker.good"), lambda: 1)
    metrics.flush()
    assert server.lines() == ["mill.worker.good.worker_1:1.0|g"]


@pytest.mark.parametrize("naming", [GraphiteNaming, DatadogNaming])
def test_counters_go_first_and_no_packet_mixes_or_is_too_large(server, make, naming):
    metrics = make(naming=naming("p" * 200, "q" * 200))
    for number in range(60):
        metrics.timer(MetricKey("duration", "emails", "t" * 200)).add(number)
        metrics.gauge(MetricKey(f"worker.gauge_{number}"), lambda: 5)
        metrics.counter(MetricKey("succeeded", "emails", f"number_{number}")).total += 1
    metrics.flush()
    packets = server.packets()
    kinds = [{line.split("|")[1] for line in packet.split("\n")} for packet in packets]
    assert all(len(kind) == 1 for kind in kinds)
    order = [kind.pop() for kind in kinds]
    assert order == sorted(order)  # c, g, ms
    assert set(order) == {"c", "g", "ms"}
    assert max(map(len, packets)) <= 512


def test_of_many_times_of_one_name_two_hundred_are_sent_with_their_rate(server, make):
    metrics = make()
    for number in range(1000):
        metrics.timer(MetricKey("duration", "emails")).add(number)
    for number in range(200):
        metrics.timer(MetricKey("latency", "emails")).add(number)
    metrics.flush()
    lines = server.lines()
    sampled = [line for line in lines if "duration" in line]
    assert len(sampled) == 200
    assert all(line.endswith("|ms|@0.200000") for line in sampled)
    assert len(set(sampled)) == 200
    assert [line for line in lines if "latency" in line] == [f"mill.emails.latency:{n}.000|ms" for n in range(200)]


def test_early_and_late_times_have_equal_chances(make, server):
    metrics = make()
    for number in range(20_000):
        metrics.timer(MetricKey("duration", "emails")).add(number)
    metrics.flush()
    values = [float(re.search(r":([\d.]+)\|", line).group(1)) for line in server.lines()]
    mean = sum(values) / len(values)
    assert abs(mean - 10_000) < 6 * (20_000 / 12**0.5) / 200**0.5  # six standard deviations


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("emails.succeeded", "emails.succeeded"),
        ("a b:c|d@e#f/g", "a_b_c_d_e_f_g"),
        ("zwölf\n😀\ud800", "zw_lf___"),
        (".a..b.", "a.b"),
        ("x" * 500, "x" * 120),
    ],
)
def test_a_name_is_made_fit_for_statsd(server, make, name, sent):
    assert metric_name(name) == sent
    metrics = make(naming=GraphiteNaming("", "one"))
    metrics.counter(MetricKey("x", name)).total += 1
    metrics.flush()
    assert server.lines() == [f"{metric_name(sent + '.x')}:1|c"]


# --- the sender


def test_the_sender_sends_by_itself(server, make):
    metrics = make()
    metrics.start()
    metrics.start()  # one sender, whatever is called
    metrics.counter(MetricKey("succeeded", "emails")).total += 1
    assert server.packet() == "mill.emails.succeeded:1|c"


@pytest.mark.parametrize(("names", "bursts"), [(30, 2), (1_000, 10)])
def test_the_packets_of_a_second_are_spread_over_it_in_ten_bursts_at_the_most(server, make, names, bursts):
    time = VirtualTime(until=0.999)
    metrics = make(**time.times)
    for number in range(names):
        metrics.counter(MetricKey(f"number_{number}", "emails")).total += 1
    run(metrics)
    packets = server.packets()
    assert len(packets) >= bursts
    assert time.sleeps == pytest.approx([0.08] * bursts + [1 - 0.08 * bursts])


def test_a_quiet_second_is_one_sleep(server, make):
    time = VirtualTime(until=2.5)
    run(make(**time.times))
    assert time.sleeps == [1, 1, 1]
    assert server.packets() == []


def test_the_sender_survives_any_error(server, make, monkeypatch, caplog):
    time = VirtualTime(until=1.5)
    metrics = make(**time.times)
    metrics.counter(MetricKey("succeeded", "emails")).total += 1
    packets = packets_module.Packer.packets

    def fail_once(*arguments):
        monkeypatch.setattr(packets_module.Packer, "packets", packets)
        metrics.counter(MetricKey("retried", "emails")).total += 1
        raise RuntimeError("a bug")

    monkeypatch.setattr(packets_module.Packer, "packets", fail_once)
    run(metrics)
    assert server.lines() == ["mill.emails.succeeded:1|c", "mill.emails.retried:1|c"]
    assert [(record.event, record.levelname) for record in caplog.records] == [("metrics.failed", "WARNING")]


# --- the address


def test_a_name_that_cannot_be_resolved_delays_and_loses_nothing(server, make, lookups, caplog):
    lookups.answer = socket.gaierror(-2, "Name or service not known")
    time = VirtualTime(until=24.5)

    def at_each_second(seconds: float) -> None:
        time.sleep(seconds)
        if time.now == 15:
            metrics.counter(MetricKey("succeeded", "emails")).total += 3
            lookups.answer = None

    metrics = make("statsd.example", clock=time.clock, sleep=at_each_second)
    metrics.counter(MetricKey("succeeded", "emails")).total += 2
    run(metrics)
    assert lookups.calls == 3  # at 0, 10 and 20 seconds
    assert server.lines() == ["mill.emails.succeeded:5|c"]
    (record,) = caplog.records
    assert record.event == "statsd.unreachable"
    assert "cannot resolve [statsd] host = statsd.example" in record.getMessage()


def test_a_name_that_no_dns_can_hold_is_no_error(make, caplog):
    metrics = make("a" * 300 + ".example")
    metrics.counter(MetricKey("succeeded", "emails")).total += 1
    metrics.flush()
    assert "cannot resolve" in caplog.text


def test_a_name_is_looked_up_again_each_minute_and_a_failure_keeps_the_address(server, make, lookups, caplog):
    time = VirtualTime(until=75.5)

    def fail_later(seconds: float) -> None:
        time.sleep(seconds)
        lookups.answer = socket.gaierror(-3, "Temporary failure in name resolution") if time.now > 30 else None

    metrics = make("statsd.example", clock=time.clock, sleep=fail_later)
    metrics.gauge(MetricKey("worker.one"), lambda: 1)
    run(metrics)
    assert lookups.calls == 3  # at 0, 60 and 70 seconds
    assert len(server.lines()) == 76
    assert len(caplog.records) == 1


def test_a_new_address_is_used_from_then_on(server, make, lookups):
    other = Server()
    time = VirtualTime(until=119.5)
    metrics = make("statsd.example", **time.times)
    metrics.gauge(MetricKey("worker.one"), lambda: 1)

    def move(seconds: float) -> None:
        time.sleep(seconds)
        metrics._sinks[0]._socket._port = other.port

    metrics._sleep = metrics._sinks[0]._sleep = move
    run(metrics)
    assert len(server.lines()) == 60
    assert len(other.lines()) == 60
    other.close()


def test_a_failing_send_is_no_error_and_looks_the_name_up_sooner(make, lookups, monkeypatch):
    time = VirtualTime(until=11.5)
    metrics = make("statsd.example", **time.times)
    monkeypatch.setattr(metrics._sinks[0]._socket, "_port", 0)  # sendto() to port 0: Invalid argument
    metrics.gauge(MetricKey("worker.one"), lambda: 1)
    run(metrics)
    assert lookups.calls == 2  # at 0 and 10 seconds


def test_the_server_is_asked_for_on_ipv4_first(server, make, lookups):
    metrics = make("localhost")
    metrics.counter(MetricKey("succeeded", "emails")).total += 1
    metrics.flush()
    assert server.lines() == ["mill.emails.succeeded:1|c"]


# --- off, and closed


def test_without_a_host_nothing_is_sent(make, lookups):
    metrics = Metrics()
    metrics.start()
    metrics.counter(MetricKey("succeeded", "emails")).total += 1
    metrics.timer(MetricKey("duration", "emails")).add(5)
    metrics.gauge(MetricKey("worker.one"), lambda: 1 / 0)
    metrics.flush()
    metrics.close()
    assert lookups.calls == 0


def test_close_sends_what_is_left_at_once(server, make):
    asleep, ended = Event(), Event()

    def sleep(seconds: float) -> None:
        asleep.set()
        try:
            gevent.sleep(3600)
        finally:
            ended.set()

    metrics = make(sleep=sleep)
    for number in range(100):
        metrics.counter(MetricKey(f"number_{number}", "emails")).total += 1
    metrics.start()
    asleep.wait()  # the first of the packets is out, the others are to be spread
    assert len(server.packets()) == 1
    metrics.counter(MetricKey("late", "emails")).total += 1
    metrics.close()
    assert ended.is_set()
    lines = server.lines()
    assert lines[-1] == "mill.emails.late:1|c"
    assert len(lines) > 80


def test_after_close_nothing_raises_and_nothing_is_sent(server, make):
    metrics = make()
    metrics.start()
    metrics.close()
    metrics.counter(MetricKey("succeeded", "emails")).total += 1
    metrics.timer(MetricKey("duration", "emails")).add(5)
    metrics.flush()
    metrics.close()
    assert server.packets() == []


def test_close_does_not_wait_for_a_name_server(make, monkeypatch):
    asked = Event()

    def never(*arguments, **kind):
        asked.set()
        Event().wait()

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(module, "LAST_FLUSH_SECONDS", 0.01)
    metrics = make("statsd.example")
    metrics.start()
    asked.wait()
    closed = gevent.spawn(metrics.close)
    closed.join(5)
    assert closed.ready()


def test_the_dashboard_shows_every_outcome_and_every_cause():
    text = (Path(__file__).parent.parent.parent / "dashboards" / "graphite" / "dashboard.json").read_text()
    panels = {panel["title"]: panel for panel in json.loads(text)["panels"]}
    targets = [panels[title]["targets"][0]["target"] for title in ("Outcomes", "Causes")]
    outcomes, causes = (set(re.search(r"{(.*)}", target)[1].split(",")) for target in targets)
    assert outcomes == set(typing.get_args(message.OutcomeName))
    assert causes == set(typing.get_args(message.Cause)) - {""}
