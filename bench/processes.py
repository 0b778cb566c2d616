"""One worker process and two, with a handler that computes for 1 ms: messages a second, side by side in short rounds.

Both groups run from the beginning; the one whose round it is not is stopped (SIGSTOP). So other work on the machine
meets both. Two figures say what two processes bring: messages a second as they came, and the same without the time in
which a worker was ready to run and another program had its core (run_delay of the kernel's scheduler): that is what
cores of their own would give, but for the share of the queue's server, which is taken off again.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.environment import ROOT
from bench.options import Options
from bench.process import ALL_CORES, cpu_seconds, tree
from bench.servers import Server

HANDLER_SECONDS = 0.001
ROUNDS, ROUND_SECONDS, WARM_SECONDS = 8, 1.5, 1.0
#: Messages of which the feed makes its answers; they come over and over.
PREPARED = 10_000
#: What two cores are to bring.
LEAST_RATIO = 1.8
#: More than this part of the machine for others, and the messages a second are not to be judged by; and more than this
#: and nothing is: who shares a core pays for the other's use of its caches.
MOST_OTHERS, FAR_TOO_MUCH = 0.03, 0.25

CONFIG = """
[worker]
control = false
handlers = ["bench.burn"]
processes = {number}
[sqs]
endpoint_url = "{endpoint}"
[queues.bench]
url = "{url}"
prefetch = 50
[log]
format = "json"
succeeded_per_second = 0
"""


@dataclass(frozen=True)
class Moment:
    """What the kernel has counted so far, in seconds: CPU, and waiting for a core while ready to run."""

    time: float
    messages: int
    workers: float
    waited: float
    parent: float
    server: float
    machine: float  # busy, all programs
    steal: float


@dataclass(frozen=True)
class Round:
    """Between two moments. `number`: of worker processes."""

    number: int
    began: Moment
    ended: Moment

    def spent(self, name: str) -> float:
        return float(getattr(self.ended, name) - getattr(self.began, name))

    @property
    def per_second(self) -> float:
        return self.spent("messages") / self.spent("time")

    @property
    def per_second_alone(self) -> float:
        """Without the waits for a core; where all cores are the workers', their server takes its part of them."""
        seconds = self.spent("time") - self.spent("waited") / self.number
        server = self.spent("server") if self.number >= len(ALL_CORES) else 0.0
        return self.spent("messages") / (seconds + server / len(ALL_CORES))

    @property
    def others(self) -> float:
        """The part of all cores that other programs, and other virtual machines, had."""
        own = self.spent("workers") + self.spent("parent") + self.spent("server")
        return (self.spent("machine") - own + self.spent("steal")) / (self.spent("time") * len(ALL_CORES))


def run(options: Options) -> None:
    os.sched_setaffinity(0, ALL_CORES)  # what is started here may run on all
    loops = loops_of(HANDLER_SECONDS)
    with feed(PREPARED, loops) as server, ExitStack() as stack:
        groups = [stack.enter_context(group(server, number)) for number in (1, 2)]
        for one in groups:
            one.go_on(WARM_SECONDS)
        rounds = [one.round() for _ in range(2 if options.quick else ROUNDS) for one in groups]
    report(rounds)


def loops_of(seconds: float) -> int:
    """How many turns of a loop take this long: on the fastest of many tries, as nothing else runs."""
    number = 20_000
    least = min(_seconds_of(number) for _ in range(200))
    return round(number * seconds / least)


def _seconds_of(number: int) -> float:
    began = time.perf_counter()
    for _ in range(number):
        pass
    return time.perf_counter() - began


class Feed(Server):
    """The server of prepared answers."""

    def deleted(self) -> int:
        return int(self.call("Bench.State")["deleted"])


@contextmanager
def feed(*arguments: int) -> Iterator[tuple[Feed, str]]:
    """`python -m bench.feed`, and its queue's URL."""
    command = [sys.executable, "-m", "bench.feed", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        server = Feed("feed", process, url.partition("/0000")[0], None)
        try:
            yield server, url
        finally:
            server.close()
            process.kill()


class Group:
    """A worker of `number` processes; stopped but in its rounds."""

    def __init__(self, server: Feed, number: int, pid: int) -> None:
        self._server = server
        self._number = number
        self._pid = pid
        self._workers = [pid] if number == 1 else [one for one in tree(pid) if one != pid]

    def go_on(self, seconds: float) -> None:
        for one in self._workers:
            os.kill(one, signal.SIGCONT)
        time.sleep(seconds)
        self.stop()

    def stop(self) -> None:
        for one in self._workers:
            os.kill(one, signal.SIGSTOP)

    def round(self) -> Round:
        for one in self._workers:
            os.kill(one, signal.SIGCONT)
        time.sleep(0.2)  # what came while it was stopped is worked through
        began = self._now()
        time.sleep(ROUND_SECONDS)
        ended = self._now()
        self.stop()
        return Round(self._number, began, ended)

    def _now(self) -> Moment:
        machine, steal = machine_seconds()
        return Moment(
            time=time.monotonic(),
            messages=self._server.deleted(),
            workers=sum(map(cpu_seconds, self._workers)),
            waited=sum(map(waited_seconds, self._workers)),
            parent=0.0 if self._number == 1 else cpu_seconds(self._pid),
            server=self._server.cpu_seconds(),
            machine=machine,
            steal=steal,
        )


@contextmanager
def group(fed: tuple[Feed, str], number: int) -> Iterator[Group]:
    """A worker that is ready, and stopped."""
    server, url = fed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.toml").write_text(CONFIG.format(number=number, endpoint=server.url, url=url))
        environ = {"PATH": os.environ["PATH"], "HOME": name, "PYTHONPATH": str(ROOT), "AWS_REGION": "us-east-1"}
        environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
        command = [sys.executable, str(ROOT / "worker.py"), "-c", str(folder / "config.toml")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
        pids = [process.pid]
        try:
            await_ready(folder / "log", number, process)
            pids = tree(process.pid)
            one = Group(server, number, process.pid)
            one.stop()
            yield one
        except OSError as error:
            raise RuntimeError(f"{error}:\n{(folder / 'log').read_text()[-60_000:]}") from error
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def await_ready(log: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    """Returns once so many workers are ready. Raises RuntimeError with what was said where that does not come."""
    end = time.monotonic() + 30
    while log.read_text().count("worker.ready") < number:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the worker does not get ready:\n{log.read_text()[-2_000:]}")
        time.sleep(0.05)


def waited_seconds(pid: int) -> float:
    """How long the main thread of a process was ready to run, and another one had the core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def machine_seconds() -> tuple[float, float]:
    """What all programs have used, and what the host took (steal)."""
    user, nice, system, _, _, interrupts, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + interrupts + soft) / ticks, steal / ticks


def report(rounds: list[Round]) -> None:
    pairs = list(zip(rounds[::2], rounds[1::2], strict=True))
    for number in (1, 2):
        own = [one for one in rounds if one.number == number]
        total = {
            name: sum(one.spent(name) for one in own) for name in ("messages", "workers", "server", "parent", "time")
        }
        print(
            f"  {number} at work: {statistics.median(one.per_second for one in own):,.0f} messages/s, "
            f"{statistics.median(one.per_second_alone for one in own):,.0f} with cores of their own; "
            f"CPU a message: workers {1e6 * total['workers'] / total['messages']:,.0f} us, "
            f"server {1e6 * total['server'] / total['messages']:.1f} us; "
            f"parent {100 * total['parent'] / total['time']:.2f} % of a core; "
            f"others had {100 * statistics.median(one.others for one in own):.1f} % of {len(ALL_CORES)} cores, "
            f"steal {sum(one.spent('steal') for one in own):.2f} s",
            flush=True,
        )
    came = statistics.median(two.per_second / one.per_second for one, two in pairs)
    alone = statistics.median(two.per_second_alone / one.per_second_alone for one, two in pairs)
    others = statistics.median(one.others for one in rounds)
    print(f"  two bring {came:.2f} times the messages of one ({alone:.2f} with cores of their own)", flush=True)
    if others > FAR_TOO_MUCH:
        print(f"  {LEAST_RATIO} or not cannot be said: others had {100 * others:.0f} % of the machine", flush=True)
        return
    judged, what = (came, "as they came") if others <= MOST_OTHERS else (alone, "with cores of their own")
    verdict = "reached" if judged >= LEAST_RATIO else "MISSED"
    print(f"  {LEAST_RATIO} is {verdict}, judged by messages {what}", flush=True)
