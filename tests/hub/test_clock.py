import gevent
import pytest
from gevent.event import Event

from millpond.hub.clock import SystemClock


@pytest.mark.parametrize("how", ["timer", "soon"])
def test_what_a_call_in_the_hub_raises_goes_to_on_error(how):
    clock, failed, errors = SystemClock(), Event(), []
    clock.on_error = lambda error: (errors.append(error), failed.set())

    def fail():
        raise SystemExit("a defect of the engine")

    if how == "timer":
        clock.timer(0.001, fail)
    else:
        clock.soon(fail)
    assert failed.wait(5)
    assert [str(error) for error in errors] == ["a defect of the engine"]


def test_a_timer_that_was_cancelled_never_rings():
    rung = []
    SystemClock().timer(0.001, lambda: rung.append(True)).cancel()
    gevent.sleep(0.01)
    assert rung == []
