"""Steering: what an operator may ask of a process while it runs, by a signal or by its control socket."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Sequence
from contextvars import Context
from types import FrameType
from typing import get_args

import gevent

from millpond.app.output_settings import LogLevel
from millpond.engine.consumer import Consumer
from millpond.errors import MillpondError
from millpond.foreign.nearest import did_you_mean
from millpond.foreign.text import shown
from millpond.hub.signals import ExitSignals
from millpond.observe import log
from millpond.observe.screen import counted
from millpond.process.core import Core
from millpond.process.dump import Dump
from millpond.process.observer import Observer

#: A hub without a pulse for this long stands still: a dump does not wait for it.
STANDS_STILL_SECONDS = 1.0
MOST_WEIGHT = 1_000.0
#: Stands for all queues: their names are not known yet during the boot.
_ALL = ""
_RESUME = "SIGUSR2, or `worker.py resume`, lets it receive again"


class SteeringRefused(MillpondError):
    """What was asked for cannot be done; the text says why."""


class Steering:
    """Quiet, resume, dump, the level of the log, the weights of queues. Nothing here blocks.

    SIGUSR1: quiet. SIGUSR2: resume. SIGQUIT: a dump. Once the drain has begun, quiet and resume do nothing. During the
    boot quiet counts for the time after it.
    """

    def __init__(self, core: Core, observer: Observer) -> None:
        self.on_quiet: Callable[[frozenset[str]], object] = lambda queues: None  # is called with each change of them
        self._quiet: frozenset[str] = frozenset()  # names of queues; _ALL: all of them
        self._core = core
        self._observer = observer

    def install_signals(self, signals: ExitSignals) -> None:
        """Obey the three signals from now on."""
        loop = gevent.get_hub().loop

        def act(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGQUIT and self._stands_still():
                Context().run(Dump(self._observer).write_at_once, frame)  # not in the context of the handler in the way
            else:
                loop.run_callback_threadsafe(self._signalled, number)

        signals.on_steering(act)

    def _stands_still(self) -> bool:
        pulse = self._core.pulse
        return self._observer.queues is not None and self._core.clock.now() - pulse.last > STANDS_STILL_SECONDS

    def _signalled(self, number: int) -> None:
        if number == signal.SIGQUIT:
            self.dump()
        elif not self._core.stopping:
            (self.quiet if number == signal.SIGUSR1 else self.resume)(by=signal.Signals(number).name)

    def dump(self) -> str:
        """Write a dump into the log, from a greenlet of its own."""
        self._core.spawn(Dump(self._observer).write)
        return "the dump is in the log of the worker"

    def start_quiet(self, queues: frozenset[str]) -> None:
        """Receive nothing of these from the start: the worker in whose place this one is was made to."""
        if queues:
            self._quiet = queues
            names = "any queue" if _ALL in queues else ", ".join(sorted(queues))
            text = f"the worker starts quiet, as the one was whose place it takes: it receives nothing from {names}"
            log.event(logging.WARNING, "worker.quiet", f"{text}; {_RESUME}", queues=sorted(queues - {_ALL}))

    def has_quieted(self, queue: str) -> bool:
        """Whether nothing is to be received of this queue."""
        return bool(self._quiet & {queue, _ALL})

    def quiet(self, queue: str = "", by: str = "an operator") -> str:
        """Receive nothing more, from this queue or from any; what is in hand goes on. Gives what is logged."""
        consumers = self._consumers(queue)
        self._set_quiet(self._quiet | {queue})
        for consumer in consumers:
            consumer.pollers.quiet()
        text = _quiet_text(by, consumers, self._core.clock.now())
        log.event(logging.WARNING, "worker.quiet", text, queues=[consumer.name for consumer in consumers])
        return text

    def resume(self, queue: str = "", by: str = "an operator") -> str:
        """Receive again, from this queue or from all. Gives what is logged."""
        consumers = self._consumers(queue)
        self._set_quiet(self._quiet_without(queue))
        for consumer in consumers:
            consumer.pollers.resume()
        names = [consumer.name for consumer in consumers]
        text = f"{by} lets the worker receive again: {', '.join(names) or 'all queues, once the boot is over'}"
        log.event(logging.INFO, "worker.resumed", text, queues=names)
        return text

    def set_level(self, level: str, by: str = "an operator") -> str:
        """Log what has this level from now on, until the process ends. Gives what is logged. Raises SteeringRefused."""
        if level not in get_args(LogLevel):
            raise SteeringRefused(f"{shown(level)} is no level of the log; {did_you_mean(level, get_args(LogLevel))}")
        before = logging.getLevelName(logging.getLogger().level).lower()
        log.set_level(level)
        if self._observer.queues is not None and self._observer.queues.processor is not None:
            self._observer.queues.processor.log_starts(log.is_debug)
        text = f"{by} changed the level of the log from {before} to {level}, until the process ends"
        log.on_demand(logging.INFO, "log.level", text, before=before, now=level)
        return text

    def set_weight(self, queue: str, text: str, by: str = "an operator") -> str:
        """Give a queue this weight until the process ends. Gives what is logged. Raises SteeringRefused."""
        if not queue:
            raise SteeringRefused("name the queue whose weight is to change")
        [consumer], weight = self._consumers(queue), _weight_of(text)
        before, consumer.share.weight = consumer.share.weight, weight
        said = f"{by} changed the weight of {queue} from {before:g} to {weight:g}, until the process ends"
        log.event(logging.INFO, "queue.weight", said, queue=queue, before=before, now=weight)
        return said

    def _quiet_without(self, queue: str) -> frozenset[str]:
        if not queue:
            return frozenset()
        names = {consumer.name for consumer in self._consumers("")} if _ALL in self._quiet else self._quiet
        return frozenset(names - {queue})

    def _set_quiet(self, queues: frozenset[str]) -> None:
        self._quiet = queues
        self.on_quiet(queues)

    def _consumers(self, queue: str) -> Sequence[Consumer]:
        """This queue, or all. Raises SteeringRefused where there is no such queue, or nothing is received any more."""
        if self._core.stopping:
            raise SteeringRefused("the worker drains: it receives nothing any more")
        queues = self._observer.queues
        consumers = queues.consumers if queues is not None else ()
        found = [consumer for consumer in consumers if queue in ("", consumer.name)]
        if queue and not found:
            known = did_you_mean(queue, [consumer.name for consumer in consumers], none="none yet, it boots")
            raise SteeringRefused(f"there is no queue {shown(queue)} in this worker; {known}")
        return found


def _weight_of(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= MOST_WEIGHT:
        raise SteeringRefused(f"{shown(text)} is no weight: a number above 0, at most {MOST_WEIGHT:g}")
    return weight


def _quiet_text(by: str, consumers: Sequence[Consumer], now: float) -> str:
    in_hand = sum(consumer.in_hand for consumer in consumers)
    names = ", ".join(consumer.name for consumer in consumers) or "any queue"
    goes_on = f"goes on with {counted(in_hand, 'message')} in hand"
    text = f"{by} made the worker quiet: it receives nothing from {names}, and {goes_on}"
    until = max((consumer.pollers.open_until() - now for consumer in consumers), default=0.0)
    if until > 0:
        text += f"; polls that are open may bring some for {until:.0f} s more"
    return f"{text}; {_RESUME}"
