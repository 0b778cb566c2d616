"""The e-mail handler itself: how it is declared, set up, interrupted and taken down."""

from __future__ import annotations

from pathlib import Path

import gevent
import pytest

import millpond.mail
from handlers.email import send_email, teardown
from millpond.app.routing import routes
from millpond.errors import Interrupt, TimeLimitExceeded
from tests.mail.jobs import (
    job,
    message,
    use,
)
from tests.smtp_server import HANG, ScriptedServer


def test_the_handler_is_declared_for_its_type_with_the_time_that_smtp_takes():
    route = routes(["handlers.email"])["email.send"]
    assert (route.timeout_seconds, route.max_attempts, route.where) == (900, None, "handlers.email.send_email")
    assert (route.breaker.failures, route.breaker.outage_failures) == (0, 5)  # greylisting is no outage


def test_the_handler_of_the_wheel_is_this_file_and_no_copy():
    assert Path(millpond.mail.__file__).with_name("handler.py").readlink() == Path("../../handlers/email.py")


def test_a_handler_that_was_not_set_up_says_so():
    with pytest.raises(RuntimeError, match="setup"):
        send_email(job(), message())


def test_an_interrupt_leaves_the_handler_as_it_came():
    with ScriptedServer({"end": [HANG]}) as server:
        use(server)
        mine = message()
        sender = gevent.spawn(send_email, job(), mine)
        assert server.hung.acquire(timeout=30)
        gevent.get_hub().loop.run_callback(sender.throw, TimeLimitExceeded("900 s"))
        with pytest.raises(Interrupt):
            sender.get()
        assert mine.follow_ups == ()
        send_email(job(), message())
        teardown()
    assert len(server.taken) == 1


def test_teardown_says_quit_and_may_be_called_twice():
    with ScriptedServer() as server:
        use(server)
        send_email(job(), message())
        teardown()
        teardown()
    assert server.commands[-1] == "QUIT"
