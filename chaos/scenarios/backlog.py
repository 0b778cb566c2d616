"""Backlog: messages of a healthy type, so many that some always wait."""

from __future__ import annotations

import threading

from chaos.scenarios.jobs import Job
from chaos.scenarios.stage import Stage

#: Messages that wait or run, at least; they are sent so many at a time, and their numbers begin here.
WAITING, AT_ONCE, FIRST = 400, 50, 100_000


class Backlog(threading.Thread):
    """Sends until it is stopped. Nothing else may end well on the stage but what its own type does, or a few more."""

    def __init__(self, scene: Stage, event_type: str, seconds: float) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.error: Exception | None = None
        self._scene = scene
        self._type, self._seconds = event_type, seconds
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            while not self._ending.wait(0.1):
                while self.sent - self._scene.number("ok") < WAITING:
                    first = FIRST + self.sent
                    self._scene.send(self._type, [Job(n, self._seconds) for n in range(first, first + AT_ONCE)])
                    self.sent += AT_ONCE
        except Exception as error:  # raised by `stop`
            self.error = error

    @staticmethod
    def has(n: int) -> bool:
        """Whether a message of this number is one of these."""
        return n >= FIRST

    def stop(self) -> None:
        self._ending.set()
        self.join()
        if self.error is not None:
            raise self.error
