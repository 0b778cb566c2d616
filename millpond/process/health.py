"""Health: what `/healthz` and `/readyz` answer: whether the worker does its work, and whether it takes more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from http import HTTPStatus

from millpond.engine.consumer import Consumer
from millpond.http.http_server import PlainAnswer, Routes
from millpond.process.core import Core

#: How often is looked what the pollers do.
HEALTH_LOOK_SECONDS = 5.0
#: A queue on which a poll is due, and none has begun for this long, hangs: a poll begins within 10 s of its turn.
HANGS_SECONDS = 60.0


class Stage(Enum):
    """Where in its life a process is.

    | from | to | when |
    |---|---|---|
    | BOOTING | READY | it begins to receive (`worker.ready`) |
    | BOOTING, READY | DRAINING | a signal, `--until-empty`, a refusal or a crash: `Core.stop` |
    """

    BOOTING = "booting: no queue is received from yet"
    READY = "ready"
    DRAINING = "draining: no message is received any more"


class Health:
    """What is known of one process from outside. That it answers at all shows that the hub turns.

    A queue is well as long as its pollers do something that ends by itself (an open receive, a rest after a failure),
    or are rightly silent: all permits are in hand, or an open breaker has made the intake narrow. Failures of SQS are
    not held against the worker: to start it again mends no outage.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._is_ready = False
        self._consumers: Sequence[Consumer] = ()
        self._well_at: dict[str, float] = {}  # of each queue: when it was seen to be well

    @property
    def routes(self) -> Routes:
        return {"/healthz": self.healthz, "/readyz": self.readyz}

    @property
    def stage(self) -> Stage:
        if self._core.stopping:
            return Stage.DRAINING
        return Stage.READY if self._is_ready else Stage.BOOTING

    def ready(self, consumers: Sequence[Consumer]) -> None:
        """Begin to look at these queues: the worker receives."""
        self._consumers, self._is_ready = consumers, True
        self._core.spawn(self._keep_looking)

    def draining(self) -> None:
        """Nothing: Core knows."""

    def ended(self) -> None:
        """Nothing: the process ends."""

    def healthz(self) -> PlainAnswer:
        self.look()
        return health_of(self.stage, self._well_at, self._core.clock.now())

    def readyz(self) -> PlainAnswer:
        return readiness_of(self.stage)

    def _keep_looking(self) -> None:
        """A queue that was full a moment ago is not silent since its last poll, which may be an hour ago."""
        while not self._core.wait(HEALTH_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Note when each queue was well."""
        now = self._core.clock.now()
        for consumer in self._consumers:
            self._well_at[consumer.name] = max(self._well_at.get(consumer.name, now), consumer.pollers.well_until(now))


def health_of(stage: Stage, well_at: Mapping[str, float], now: float) -> PlainAnswer:
    """200 where every queue was well a moment ago; `well_at` may be ahead, for a receive that is open."""
    silent = {name: now - at for name, at in well_at.items() if now - at > HANGS_SECONDS}
    if stage is not Stage.READY or not silent:
        return PlainAnswer(HTTPStatus.OK, stage.value)
    lines = [
        f"{name}: no poll has begun for {seconds:.0f} s, though one is due: start this worker again"
        for name, seconds in silent.items()
    ]
    return PlainAnswer(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(lines))


def readiness_of(stage: Stage) -> PlainAnswer:
    """200 from `worker.ready` on until the drain."""
    return PlainAnswer(HTTPStatus.OK if stage is Stage.READY else HTTPStatus.SERVICE_UNAVAILABLE, stage.value)
