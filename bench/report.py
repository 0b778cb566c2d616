"""bench/results.json as tables and plots: writes bench/README.md between its marks, and bench/*.svg."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench import growth, latency, results
from bench.consumers import CONSUMERS
from bench.options import Options
from bench.plot import Bars, bars
from bench.results import Row, middle, values
from tests.steps import Cost

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- figures: written by python -m bench report -->", "<!-- end of figures -->"

#: Dollars for a million requests to a standard queue, beyond the free million a month, in US East (N. Virginia) as in
#: most regions (aws.amazon.com/sqs/pricing); every 64 KiB of a call count as one request.
DOLLARS_PER_MILLION = 0.40
HOURS_PER_MONTH = 730

SERVERS = {"tls": "TLS, millpond.local", "plain": "plain HTTP, millpond.local", "fauxqs": "plain HTTP, fauxqs"}
LABELS = {consumer.name: consumer.label for consumer in CONSUMERS}


def run(_: Options) -> None:
    everything = results.load()
    made: dict[str, Callable[[list[Row]], str]] = {
        "compare": _compare, "latency": _latency, "idle": _idle, "floor": _floor, "growth": _growth,
        "instructions": _instructions,
    }  # fmt: skip
    parts = [make(everything[name]["rows"]) for name, make in made.items() if name in everything]
    if "compare" in everything:
        parts.append(_machine(everything["compare"]))
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + "\n\n".join([BEGIN, *parts, END]) + rest.partition(END)[2])
    print(f"  {README.relative_to(HERE.parent)}: {', '.join(name for name in made if name in everything)}", flush=True)


def _compare(rows: list[Row]) -> str:
    parts = []
    for server, title in SERVERS.items():
        for concurrency in sorted({row["concurrency"] for row in rows if row["server"] == server}):
            some = [row for row in rows if row["server"] == server and row["concurrency"] == concurrency]
            parts.append(f"### {title}, {concurrency} at once\n\n{_consumers(some)}")
    _write("cpu", _cpu_plot(rows))
    return "\n\n".join(parts)


def _consumers(rows: list[Row]) -> str:
    head = [
        "consumer", "CPU, times Millpond's", "µs CPU a message", "each run", "messages/s", "each run",
        "requests a message", "$ a million messages", "peak MiB", "first message, s", "server busy",
    ]  # fmt: skip
    ours = middle(_good(rows), "cpu_us", consumer="millpond")
    return _table(head, [_consumer(name, [row for row in rows if row["consumer"] == name], ours) for name in LABELS])


def _consumer(name: str, rows: list[Row], ours: float | None) -> list[str]:
    good = _good(rows)
    if not good:
        why = "failed" if rows else "not in this series"
        return [LABELS[name], why, *[""] * 9]
    cpu = median(values(good, "cpu_us"))
    calls = middle(good, "calls_per_message")
    return [
        LABELS[name] + ("" if len(good) == len(rows) else f" ({len(rows) - len(good)} runs failed)"),
        f"**{cpu / ours:.2f}**" if ours else "",
        f"{cpu:.0f}",
        _each(good, "cpu_us"),
        f"{median(values(good, 'per_second')):,.0f}",
        _each(good, "per_second"),
        "" if calls is None else f"{calls:.3f}",
        "" if calls is None else f"{calls * DOLLARS_PER_MILLION:.3f}",
        f"{median(values(good, 'peak_mib')):.0f}",
        f"{median(values(good, 'start_seconds')):.2f}",
        f"{max(values(good, 'server_busy')):.0%}",
    ]


def _cpu_plot(rows: list[Row]) -> str:
    good = _good(rows)
    lines = [
        Bars(
            label,
            [middle(good, "cpu_us", consumer=name, server="tls", concurrency=number) for number in (100, 500)],
            ours=name == "millpond",
        )
        for name, label in LABELS.items()
    ]
    note = "User + system time of the consumer's processes on one core, over TLS; median of the runs; less is better"
    return bars("CPU per message, microseconds", note, ["100 at once", "500 at once"], lines)


def _latency(rows: list[Row]) -> str:
    good = _good(rows)
    head = ["consumer", "load", "messages/s", "p50, ms", "each run", "p99, ms", "p99 above the bare loop's", "each run"]
    names = {latency.BARE.name: latency.BARE.label, **LABELS}
    lines = []
    for load in ("100", "80 %"):
        bare = middle(good, "p99_ms", consumer=latency.BARE.name, load="100")
        for name, label in names.items():
            some = [row for row in good if row["consumer"] == name and row["load"] == load]
            if some:
                p99 = median(values(some, "p99_ms"))
                above = "" if bare is None or load != "100" else f"{p99 - bare:+.1f}"
                lines.append([
                    label, f"{load} of its full load" if load != "100" else "100 a second", f"{some[0]['rate']:,.0f}",
                    f"{median(values(some, 'p50_ms')):.1f}", _each(some, "p50_ms", 1), f"{p99:.1f}", above,
                    _each(some, "p99_ms", 1),
                ])  # fmt: skip
    plotted = [
        Bars(
            label,
            [middle(good, key, consumer=name, load="100") for key in ("p50_ms", "p99_ms")],
            ours=name == "millpond",
        )
        for name, label in names.items()
    ]
    note = "100 messages a second over TLS, 100 at once; median of the runs; less is better"
    _write("latency", bars("Send to handler's start, milliseconds", note, ["p50", "p99"], plotted, "{:.1f}"))
    return f"### Latency\n\n![latency](latency.svg)\n\n{_table(head, lines)}"


def _idle(rows: list[Row]) -> str:
    head = ["consumer", "requests an hour", "$ a month", "share of a core"]
    lines = []
    for row in rows:
        dollars = row["calls_per_hour"] * HOURS_PER_MONTH * DOLLARS_PER_MILLION / 1e6
        share = f"{row['core_share']:.2%}"
        lines.append([LABELS[row["consumer"]], f"{row['calls_per_hour']:.0f}", f"{dollars:.2f}", share])
    return f"### An idle queue\n\n{_table(head, lines)}"


def _floor(rows: list[Row]) -> str:
    head = [
        "server", "at once", "Millpond, times the floor", "floor, µs a message", "each run", "Millpond, µs a message",
        "each run", "greenlet, timer, decode", "receive of ten", "delete of ten",
    ]  # fmt: skip
    lines = []
    for server in ("tls", "plain"):
        for concurrency in sorted({row["concurrency"] for row in rows}):
            some = [row for row in rows if row["server"] == server and row["concurrency"] == concurrency]
            floor, ours = (median(values(some, key)) for key in ("floor_us", "millpond_us"))
            pieces = [f"{median(values(some, key)):.1f}" for key in ("message_us", "receive_us", "delete_us")]
            lines.append([
                SERVERS[server], str(concurrency), f"**{ours / floor:.2f}**",
                f"{floor:.1f}", _each(some, "floor_us", 1), f"{ours:.1f}", _each(some, "millpond_us", 1), *pieces,
            ])  # fmt: skip
    return f"### The floor\n\n{_table(head, lines)}"


def _growth(rows: list[Row]) -> str:
    head = [
        "dimension", "value", "cost, times the first line's", "µs CPU a message", "each run", "messages/s", "peak MiB",
    ]  # fmt: skip
    base = median(values(rows, "cpu_us", dimension=growth.CASES[0].dimension, value=growth.CASES[0].value))
    points = list(dict.fromkeys((row["dimension"], row["value"]) for row in rows))
    lines, plotted = [], []
    for dimension, value in points:
        some = [row for row in rows if (row["dimension"], row["value"]) == (dimension, value)]
        cpu = median(values(some, "cpu_us"))
        peak = f"{median(values(some, 'peak_mib')):.1f}" if "peak_mib" in some[0] else ""
        per_second = f"{median(values(some, 'per_second')):,.0f}"
        lines.append([dimension, value, f"**{cpu / base:.2f}**", f"{cpu:.0f}", _each(some, "cpu_us"), per_second, peak])
        if dimension != "body":  # 256 KiB would make all other bars dots
            plotted.append(Bars(f"{value} {dimension}", [cpu], ours=True))
    note = "Over TLS; one dimension at a time, from 10,000 messages of 450 bytes, 100 at once; less is better"
    _write("growth", bars("Millpond's CPU per message, microseconds", note, [""], plotted))
    return f"### How Millpond's cost grows\n\n![growth](growth.svg)\n\n{_table(head, lines)}"


def _instructions(rows: list[Row]) -> str:
    counted = [row for row in rows if "what" in row]
    kinds = list(dict.fromkeys((row["what"], row["server"], row["concurrency"]) for row in counted))
    lines = []
    for what, server, concurrency in kinds:
        some = [
            row for row in counted if (row["what"], row["server"], row["concurrency"]) == (what, server, concurrency)
        ]
        found = [value / 1_000 for value in values(some, "instructions")]
        libraries = sorted(some[0]["libraries"].items(), key=lambda one: -one[1])
        lines.append([
            what, SERVERS.get(server, "none"), str(concurrency), f"**{median(found):.1f}**",
            " ".join(f"{value:.1f}" for value in found), f"{(max(found) / min(found) - 1):.1%}",
            ", ".join(f"{name} {number / 1_000:.1f}" for name, number in libraries),
        ])  # fmt: skip
    head = ["a message", "server", "at once", "1,000 instructions", "each run", "apart", "by library (first run)"]
    return f"### Instructions\n\n{_table(head, lines)}\n\n{_steps([row for row in rows if 'function' in row])}"


def _steps(rows: list[Row]) -> str:
    """By file and by function."""
    files: defaultdict[str, Cost] = defaultdict(lambda: Cost(0, 0))
    for row in rows:
        files[row["function"].partition(":")[0]] += Cost(row["bytecodes"], row["frames"])
    functions = {row["function"]: Cost(row["bytecodes"], row["frames"]) for row in rows}
    total = sum(files.values(), Cost(0, 0))
    parts = [
        _table(
            [name, "bytecodes a message", "share", "frames a message"],
            [
                [where, f"{cost.bytecodes:.1f}", f"{cost.bytecodes / total.bytecodes:.1%}", f"{cost.frames:.2f}"]
                for where, cost in sorted(found.items(), key=lambda one: -one[1].bytecodes)[:most]
            ],
        )
        for name, found, most in (("file", {"all": total, **files}, 31), ("function", functions, 30))
    ]
    return "\n\n".join(parts)


def _machine(section: Row) -> str:
    told = ", ".join(f"{name} {text}" for name, text in section["machine"].items())
    return f"Taken {section['taken']} on: {told}."


def _good(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "error" not in row]


def _each(rows: Sequence[Row], key: str, digits: int = 0) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values(rows, key))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def _write(name: str, text: str) -> None:
    (HERE / f"{name}.svg").write_text(text)
