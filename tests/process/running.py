"""A whole process on a virtual clock, with real consumers; signals are delivered as gevent's watchers do."""

import types

import gevent
from gevent.event import Event

from millpond.errors import (
    AccessDenied,
    Interrupt,
)
from millpond.observe.metrics import Metrics
from millpond.process.core import Core
from millpond.process.observer import Observer
from millpond.process.refusals import Refusals
from millpond.process.service import Service
from millpond.process.steering import Steering
from millpond.process.wiring import Queues
from tests.handlers import fine
from tests.rig import Rig
from tests.virtual import settle

LONG = 60.0


class Wired(Rig):
    """A rig whose core greenlets and slots are the process's."""

    def __init__(self, core, clock, handlers, **settings):
        self.core = core
        super().__init__(clock, handlers, **settings)
        clock.on_error = core.crash

    def spawn(self, function, *args):
        return self.core.spawn(function, *args)


class Process:
    """A service with its consumers, run in a greenlet; `exit_code` and `ended_at` are set when it is over."""

    def __init__(self, clock, drain_seconds, concurrency):
        self.clock = clock
        self.metrics = Metrics()
        self.core = Core(concurrency, drain_seconds, clock, self)
        self.refusals = Refusals(self.core)
        self.observer = Observer(self.core, "test")
        self.steering = Steering(self.core, self.observer)
        self.exit_code = None
        self.ended_at = None

    def start(self, rigs=None, teardowns=(), until_empty=False, followers=(), **queues):
        self.clock.on_error = self.core.crash  # a rig has its own
        consumers = [rig.consumer for rig in (self.rigs if rigs is None else rigs)]
        self.refusals.watch(consumers)
        queues = Queues(consumers, self.refusals, **queues)
        options = {"teardowns": teardowns, "until_empty": until_empty, "followers": followers}
        self.service = Service(self.core, self.metrics, queues, self.observer, self.steering, **options)
        self.core.install_signals()
        gevent.spawn(self._run)
        settle()

    def _run(self):
        self.exit_code = self.service.run()
        self.ended_at = self.clock.now()

    def signal(self, number):
        self.act(number)
        settle()

    def on_signal(self, act):
        """As ExitSignals does: what a signal calls."""
        self.act = act

    def allow(self, seconds, code):
        self.allowed = (seconds, code)

    end_within = allow


class TimedEvent(Event):
    """A gevent event whose time-outs are the virtual clock's."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def wait(self, timeout=None):
        return super().wait() if timeout is None else bool(wait_for([self], timeout, self._clock) and self.is_set())


def wait_for(objects, seconds, clock):
    """gevent.wait for the first of them, or so many virtual seconds."""
    over = Event()
    timer = clock.timer(seconds, over.set)
    gevent.wait([*objects, over], count=1)
    timer.cancel()
    return not over.is_set()


def virtual_gevent(clock):
    """gevent, whose time-outs and sleeps are the virtual clock's."""

    def wait(objects, timeout, count):
        wait_for(objects, timeout, clock)

    def joinall(greenlets, timeout=None):
        if timeout is None:
            gevent.joinall(greenlets)
        else:
            wait_for([gevent.spawn(gevent.joinall, greenlets)], timeout, clock)

    return types.SimpleNamespace(**vars(gevent) | {"wait": wait, "joinall": joinall, "sleep": clock.sleep})


class Stubborn:
    """A handler that swallows whatever is thrown into it."""

    def __call__(self, payload, message):
        while True:
            try:
                Event().wait()
            except Interrupt:
                continue


def events(caplog):
    return [getattr(record, "event", "") for record in caplog.records]


def die():
    raise RuntimeError("a defect of the engine")


def two_queues(process, *denied):
    """A process whose two queues are "a" and "b"; those that are `denied` answer no receive."""
    one = process({"job": fine}, {"job": fine}, wait_seconds=1, start=False)
    names = dict(zip(("a", "b"), one.rigs, strict=True))
    for name, rig in names.items():
        rig.consumer.name = name
        rig.first_failures = types.SimpleNamespace(append=lambda error, name=name: one.refusals.note(name, error))
        rig.consumer._first_receive_failed = rig.first_failures.append
        rig.queue.script["receive"] += [AccessDenied("no right")] * 1_000 if name in denied else []
    one.start()
    return one, names
