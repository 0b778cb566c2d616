"""Fleet: the worker processes, and what is done to them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from chaos.hits import Hit
from chaos.moment import now
from tests.worker_process import WorkerProcess

#: Seconds between two SIGTERMs of a storm.
STORM_SECONDS = 0.1
#: Characters of what a worker has said, in a complaint.
SHOWN = 2_000
#: What the end of a drain may take beyond drain_seconds: the process is killed then, and that is a violation.
EXIT_GRACE_SECONDS = 10.0
#: What a boot may take on a busy machine.
BOOT_SECONDS = 60.0

CONFIG = """
[worker]
handlers = ["chaos.jobs.work"]
name = "{worker}"
concurrency = {settings.concurrency}
drain_seconds = {settings.drain_seconds}
[sqs]
region = "us-east-1"
endpoint_url = "{settings.endpoint}/{worker}"
{queues}
[retry]
max_attempts = 50
base_seconds = 1
max_seconds = 4
[log]
format = "json"
succeeded_per_second = 1
[handlers.work]
ledger = "{settings.ledger}"
worker = "{worker}"
seed = {settings.seed}
"""
QUEUE = """
[queues.{name}]
url = "{url}"
wait_seconds = {settings.wait_seconds}
visibility_seconds = {settings.visibility_seconds}
"""


class FleetSettings(msgspec.Struct, frozen=True):
    """The settings of every worker of a run. `endpoint`: the proxy's URL."""

    endpoint: str
    queue_urls: Sequence[str]
    ledger: str
    seed: int
    workers: int = 3
    concurrency: int = 100
    wait_seconds: int = 1
    visibility_seconds: int = 4
    drain_seconds: float = 5.0


class FleetEvent(msgspec.Struct, frozen=True):
    """One line of the process log. `until`: of a SIGSTOP, when it went on."""

    moment: float
    what: str  # start, ready, kill -9, SIGSTOP, SIGTERM storm, SIGTERM, exit
    worker: str
    pid: int
    until: float = 0.0
    exit_code: int | None = None


class Worker:
    """One process and its name, which no other process of the run has."""

    def __init__(self, name: str, folder: Path, settings: FleetSettings) -> None:
        queues = [
            QUEUE.format(name=url.rpartition("/")[2].replace(".", "-"), url=url, settings=settings)
            for url in settings.queue_urls
        ]
        config = folder / f"{name}.toml"
        config.write_text(CONFIG.format(worker=name, settings=settings, queues="".join(queues)))
        self.name = name
        self.process = WorkerProcess(
            folder, "-c", str(config), AWS_ACCESS_KEY_ID="chaos", AWS_SECRET_ACCESS_KEY="chaos"
        )


#: Starts a worker of this name, with its files in this folder.
Launch = Callable[[str, Path, FleetSettings], Worker]


class Fleet:
    """Some workers, each in a place: one that ends is replaced there.

    `log` has all that was done to them, `complaints` what they did and may not. `launch` starts one.
    """

    def __init__(self, folder: Path, settings: FleetSettings, stack: ExitStack, launch: Launch = Worker) -> None:
        self.log: list[FleetEvent] = []
        self.workers: list[Worker] = []
        self.complaints: list[str] = []
        self._folder = folder
        self._settings = settings
        self._stack = stack
        self._launch = launch
        self._places = [self._start() for _ in range(settings.workers)]
        for worker in self._places:
            self._wait_ready(worker)

    def strike(self, hit: Hit) -> None:
        """Do it, and see to it that a worker is at work in that place again."""
        worker = self._places[hit.place]
        match hit.blow:
            case "kill -9":
                self._kill(worker)
            case "SIGSTOP":
                self._suspend(worker, self._settings.visibility_seconds + hit.seconds)
                return
            case "SIGTERM storm":
                self._terminate(worker, hit.signals)
        self._replace(hit.place)

    def stop(self) -> None:
        """SIGTERM to all, and wait for them."""
        for worker in self._places:
            self._note("SIGTERM", worker)
            worker.process.signal(signal.SIGTERM)
        for worker in self._places:
            self._wait_exit(worker)

    def write_logs(self) -> None:
        """All that the workers have said, a file each."""
        for worker in self.workers:
            (self._folder / f"{worker.name}.log").write_text(worker.process.output())

    def check(self) -> None:
        """A worker that has ended by itself is a complaint, and is replaced."""
        for place, worker in enumerate(self._places):
            if not worker.process.running:
                self._wait_exit(worker)
                self.complaints.append(f"{worker.name} has ended by itself: {worker.process.output()[-SHOWN:]}")
                self._replace(place)

    def _replace(self, place: int) -> None:
        self._places[place] = self._start()
        self._wait_ready(self._places[place])

    def _start(self) -> Worker:
        worker = self._launch(f"w{len(self.workers)}", self._folder, self._settings)
        self.workers.append(worker)
        self._stack.enter_context(worker.process)
        self._note("start", worker)
        return worker

    def _wait_ready(self, worker: Worker) -> None:
        worker.process.expect("worker.ready", BOOT_SECONDS)
        self._note("ready", worker)

    def _kill(self, worker: Worker) -> None:
        self._note("kill -9", worker)
        worker.process.signal(signal.SIGKILL)
        self._wait_exit(worker)

    def _suspend(self, worker: Worker, seconds: float) -> None:
        moment = now()
        worker.process.signal(signal.SIGSTOP)
        time.sleep(seconds)
        worker.process.signal(signal.SIGCONT)
        self._note("SIGSTOP", worker, moment, until=now())

    def _terminate(self, worker: Worker, signals: int) -> None:
        self._note("SIGTERM storm", worker)
        for _ in range(signals):
            worker.process.signal(signal.SIGTERM)
            time.sleep(STORM_SECONDS)
        self._wait_exit(worker)

    def _wait_exit(self, worker: Worker) -> None:
        try:
            code = worker.process.exit_code(self._settings.drain_seconds + EXIT_GRACE_SECONDS)
        except AssertionError as error:
            self.complaints.append(f"{worker.name} does not end: {str(error)[-SHOWN:]}")
            worker.process.signal(signal.SIGKILL)
            code = worker.process.exit_code()
        self._note("exit", worker, exit_code=code)

    def _note(
        self, what: str, worker: Worker, moment: float = 0.0, until: float = 0.0, exit_code: int | None = None
    ) -> None:
        self.log.append(FleetEvent(moment or now(), what, worker.name, worker.process.pid, until, exit_code))


@contextmanager
def fleet(folder: Path, settings: FleetSettings, launch: Launch = Worker) -> Iterator[Fleet]:
    """Workers that run; none of them is left behind."""
    with ExitStack() as stack:
        yield Fleet(folder, settings, stack, launch)


class Striker(threading.Thread):
    """Strikes the fleet's workers, hit after hit, until it is stopped; the one under way is done to its end."""

    def __init__(self, target: Fleet, plan: Iterator[Hit]) -> None:
        super().__init__(daemon=True)
        self.struck = 0
        self.error: BaseException | None = None
        self._fleet = target
        self._plan = plan
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            for hit in self._plan:
                if self._ending.wait(hit.after_seconds):
                    break
                self._fleet.strike(hit)
                self.struck += 1
                self._fleet.check()
        except BaseException as error:  # raised by `stop`
            self.error = error

    def stop(self) -> None:
        self._ending.set()
        self.join()
        if self.error is not None:
            raise self.error
