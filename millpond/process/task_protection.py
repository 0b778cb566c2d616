"""Task protection: ECS is asked not to stop this task while it works, neither by scale-in nor by a deployment."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from millpond.engine.consumer import Consumer
from millpond.foreign.text import shown
from millpond.hub.clock import Event
from millpond.observe import log
from millpond.process.core import Core
from millpond.process.ecs_agent import ProtectionRefused

#: What is asked for. After half of it, it is asked for again, where a handler runs longer than a drain would wait: only
#: then, or a worker that is never idle would hold up each deployment for ever.
PROTECTED_MINUTES = 10
RENEW_SECONDS = PROTECTED_MINUTES * 60 / 2
#: Without a message for this long, protection is given up: so there are two calls a minute at most.
IDLE_SECONDS = 60.0
#: Fargate waits for a drain no longer than this (stopTimeout).
MOST_DRAIN_SECONDS = 120.0
#: After a call that failed the next one waits: twice as long each time, to a minute.
FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 5.0, 60.0
#: While there is something to look at, it is looked at this often; the connection is looked at as often when idle.
PROTECTION_LOOK_SECONDS = 5.0
#: The end of the process waits this long for protection to be given up.
LAST_CALL_SECONDS = 1.0


class ProtectionAgent(Protocol):
    """Who protects: EcsAgent. Each call raises ProtectionRefused."""

    def protect(self, minutes: int) -> None: ...

    def give_up(self) -> None: ...

    def keep_open(self) -> None: ...


class Protection(NamedTuple):
    """What this task has, as far as is known, and when it may be asked for again."""

    until: float = 0.0  # protected so long; 0.0: not
    next_call: float = 0.0
    failures: int = 0  # in a row
    covered: bool = False  # since the last idle minute it has been protected once

    def wish(self, in_hand: int, is_long: bool, idle_since: float, ending: bool, now: float) -> bool | None:
        """What to ask for now: True, protect (also: for longer); False, give it up; None, nothing.

        `is_long`: a handler has run for longer than a drain would wait.
        """
        if in_hand and not ending:
            is_due = now >= self.until - RENEW_SECONDS and (is_long or not self.covered)
            return True if is_due and now >= self.next_call else None
        if now >= self.until:
            return None
        return False if ending or now >= max(self.next_call, idle_since + IDLE_SECONDS) else None

    def idle(self, idle_since: float, now: float) -> Protection:
        """What it is while nothing is in hand: after a minute of that the next message is the first one again."""
        return self._replace(covered=False) if now >= max(self.until, idle_since + IDLE_SECONDS) else self

    def after(self, protect: bool, failed: bool, now: float) -> Protection:
        """What it is after a call."""
        if failed:
            wait = min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**self.failures)
            return self._replace(next_call=now + wait, failures=self.failures + 1)
        return Protection(now + PROTECTED_MINUTES * 60, covered=True) if protect else Protection()


class TaskProtection:
    """Asks for protection when the first message comes, renews it for long handlers, and gives it up after a while
    without a message.

    A greenlet of its own makes the calls, and no message waits for one. It is woken before the deliveries of a receive
    are made ready, so that the call is on its way before their handlers begin.
    """

    def __init__(self, core: Core, agent: ProtectionAgent) -> None:
        self._core = core
        self._agent = agent
        self._consumers: Sequence[Consumer] = ()
        self._protection = Protection()
        self._idle_since = 0.0
        self._ended = False
        self._edge: Event = core.clock.event()  # the first message has come, or the process ends
        self._over: Event = core.clock.event()

    def start(self) -> None:
        """Open the connection, so that it is there when the first message comes."""
        self._core.spawn(self._run)

    def ready(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = consumers
        for consumer in consumers:
            consumer.on_busy = self._edge.set

    def draining(self) -> None:
        """Nothing: what is in hand is protected until it is done."""

    def ended(self) -> None:
        """Give protection up; wait a moment for that."""
        self._ended = True
        self._edge.set()
        self._over.wait(LAST_CALL_SECONDS)

    def _run(self) -> None:
        while self._step():
            pass
        self._over.set()

    def _step(self) -> bool:
        now, in_hand = self._core.clock.now(), sum(consumer.in_hand for consumer in self._consumers)
        ending = self._ended
        if in_hand:
            self._idle_since = now
        else:
            self._protection = self._protection.idle(self._idle_since, now)
        wish = self._protection.wish(in_hand, self._is_long(now), self._idle_since, ending, now)
        if wish is not None:
            self._ask(wish)
        elif not ending:
            with suppress(ProtectionRefused):  # the next call says so
                self._agent.keep_open()
            self._edge.wait(PROTECTION_LOOK_SECONDS)
            self._edge.clear()
        return not ending

    def _is_long(self, now: float) -> bool:
        since = now - min(self._core.drain_seconds, MOST_DRAIN_SECONDS)
        return any(0 < delivery.started <= since for consumer in self._consumers for delivery in consumer.hand)

    def _ask(self, protect: bool) -> None:
        error = ""
        try:
            self._agent.protect(PROTECTED_MINUTES) if protect else self._agent.give_up()
        except ProtectionRefused as refusal:
            error = str(refusal)
        if error and not self._protection.failures:
            text = f"cannot {'protect this task' if protect else 'give up the protection of this task'}: {shown(error)}"
            log.event(logging.WARNING, "protection.failed", f"{text}; the work goes on, and it is tried again")
        elif self._protection.failures and not error:
            log.event(logging.INFO, "protection.resumed", "the ECS agent does again what it is asked for")
        self._protection = self._protection.after(protect, bool(error), self._core.clock.now())
