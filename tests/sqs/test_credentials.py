"""Keys: renewed behind the calls' backs, waited for only where there are none, loaded afresh where they are refused."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from botocore.credentials import Credentials as StaticCredentials
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import CredentialRetrievalError, EndpointConnectionError
from gevent.event import Event
from gevent.threadpool import ThreadPool

from millpond.errors import AccessDenied, QueueError, Unreachable
from millpond.foreign.text import shown
from millpond.sqs import credentials as module
from millpond.sqs.credentials import (
    ADVISORY_SECONDS,
    EXPIRY_LOOK_SECONDS,
    RELOAD_SECONDS,
    Credentials,
    credentials_loader,
)
from millpond.sqs.endpoint import Endpoint
from millpond.sqs.sigv4 import Keys


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(20):
        yield


class Provider:
    """A provider whose keys are good for `lifetime` s. `refresh`: what the next refreshes do before they answer."""

    def __init__(self, lifetime: float = 3600) -> None:
        self.lifetime = lifetime
        self.now = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
        self.loads = self.refreshes = 0
        self.refresh: Callable[[], object] = lambda: None

    def load(self) -> RefreshableCredentials:
        self.loads += 1
        keys = self._keys(f"load{self.loads}")
        expiry = datetime.datetime.fromisoformat(keys.pop("expiry_time"))
        return RefreshableCredentials(
            **keys, expiry_time=expiry, refresh_using=self._refreshed, method="test", time_fetcher=lambda: self.now
        )

    def pass_time(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)

    def _refreshed(self) -> dict[str, str]:
        self.refreshes += 1
        self.refresh()
        return self._keys(f"refresh{self.refreshes}")

    def _keys(self, name: str) -> dict[str, str]:
        expiry = self.now + datetime.timedelta(seconds=self.lifetime)
        return {"access_key": name, "secret_key": "s", "token": "t", "expiry_time": expiry.isoformat()}


@pytest.fixture
def clock(monkeypatch):
    """Each call looks at the expiry: as if EXPIRY_LOOK_SECONDS had gone by since the call before."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += EXPIRY_LOOK_SECONDS
        return now[0]

    monkeypatch.setattr(module, "monotonic", monotonic)


@pytest.fixture
def provider(clock):
    return Provider()


def settled() -> None:
    """What goes on behind the calls' backs has ended, unless it waits for something."""
    for _ in range(20):
        gevent.sleep(0)


def test_keys_that_do_not_expire_are_loaded_once(clock):
    loads: list[int] = []

    def load() -> StaticCredentials:
        loads.append(1)
        return StaticCredentials("id", "secret")

    credentials = Credentials(load)
    assert {credentials.keys() for _ in range(5)} == {Keys("id", "secret", "")}
    assert len(loads) == 1


def test_keys_that_expire_soon_are_renewed_while_the_calls_go_on_with_them(provider):
    answered = Event()
    provider.refresh = answered.wait
    credentials = Credentials(provider.load)
    assert credentials.keys().access_key == "load1"
    provider.pass_time(3600 - ADVISORY_SECONDS - 1)
    assert credentials.keys().access_key == "load1"
    gevent.idle()
    assert provider.refreshes == 0
    provider.pass_time(2)
    for _ in range(5):
        assert credentials.keys().access_key == "load1"
        gevent.idle()
    assert provider.refreshes == 1  # one at a time
    answered.set()
    settled()
    assert credentials.keys() == Keys("refresh1", "s", "t")


def test_between_two_looks_at_the_expiry_nothing_is_asked():
    provider = Provider()
    credentials = Credentials(provider.load)
    credentials.keys()
    provider.pass_time(3599)
    assert credentials.keys().access_key == "load1"
    settled()
    assert provider.refreshes == 0


def test_a_renewal_that_fails_keeps_the_keys_until_they_expire_and_is_told_then(provider):
    def fail() -> None:
        raise CredentialRetrievalError(provider="test", error_msg="the metadata service is down")

    provider.refresh = fail
    credentials = Credentials(provider.load)
    credentials.keys()
    provider.pass_time(3600 - 60)
    for _ in range(3):
        assert credentials.keys().access_key == "load1"
        settled()
    assert provider.refreshes == 3
    provider.pass_time(61)
    with pytest.raises(AccessDenied, match=r"the metadata service is down.*AWS_ACCESS_KEY_ID") as caught:
        credentials.keys()
    assert caught.value.code == "CredentialRetrievalError"
    provider.refresh = lambda: None
    assert credentials.keys().access_key.startswith("refresh")


def test_calls_wait_where_there_are_no_valid_keys_and_one_of_them_asks(provider):
    answered = Event()
    credentials = Credentials(provider.load)
    credentials.keys()
    provider.pass_time(3601)
    provider.refresh = answered.wait
    calls = [gevent.spawn(credentials.keys) for _ in range(10)]
    gevent.idle()
    assert not any(call.ready() for call in calls)
    answered.set()
    gevent.joinall(calls, raise_error=True)
    assert {call.value.access_key for call in calls} == {"refresh1"}
    assert provider.refreshes == 1


def test_an_interrupt_of_the_one_who_asks_leaves_the_answer_to_the_others(provider):
    """Calls are cut after 10 s: a provider that takes 12 would else never be heard."""
    answered = Event()
    provider.refresh = answered.wait
    credentials = Credentials(provider.load)
    credentials.keys()
    provider.pass_time(3601)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        credentials.keys()
    answered.set()
    assert credentials.keys().access_key == "refresh1"
    assert provider.refreshes == 1


# --- a provider that hangs


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "PROVIDER_SECONDS", 0.1)


@pytest.mark.clock
def test_a_provider_that_hangs_once_at_a_renewal_is_asked_anew_and_the_keys_are_used_meanwhile(provider, impatient):
    never, credentials = Event(), Credentials(provider.load)
    provider.refresh = never.wait
    credentials.keys()
    provider.pass_time(3600 - ADVISORY_SECONDS + 1)
    for _ in range(3):
        assert credentials.keys().access_key == "load1"
        settled()
    assert provider.refreshes == 1
    gevent.sleep(0.15)
    assert credentials.keys().access_key == "load1"
    settled()
    assert credentials.keys().access_key == "load2"  # another provider: the first one's own lock is held for ever


@pytest.mark.clock
def test_where_there_are_no_keys_a_call_waits_no_longer_than_it_has_time_and_a_later_one_gets_them(provider, impatient):
    never, credentials = Event(), Credentials(provider.load)
    provider.refresh = never.wait
    credentials.keys()
    provider.pass_time(3601)
    began = time.monotonic()
    for seconds in (0.01, 0.05):
        with pytest.raises(Unreachable, match="credentials: their provider has not answered in"):
            credentials.keys(seconds)
    assert time.monotonic() - began < 0.1
    gevent.sleep(0.1)
    assert credentials.keys(0.05).access_key == "load2"


@pytest.mark.clock
def test_a_load_that_hangs_at_boot_is_bounded_and_asked_again(impatient):
    answers: list[Callable[[], Any]] = [Event().wait, lambda: StaticCredentials("id", "secret")]
    credentials = Credentials(lambda: answers.pop(0)())
    with pytest.raises(Unreachable, match="has not answered in 0"):
        credentials.keys(10)
    assert credentials.keys().access_key == "id"


@pytest.mark.clock
def test_an_answer_that_comes_after_a_later_one_is_not_used(provider, impatient):
    late, credentials = Event(), Credentials(provider.load)
    provider.refresh = late.wait
    credentials.keys()
    provider.pass_time(3601)
    with pytest.raises(Unreachable):
        credentials.keys()
    assert credentials.keys().access_key == "load2"
    late.set()
    settled()
    assert credentials.keys().access_key == "load2"


@pytest.mark.clock
def test_a_slow_provider_is_heard_even_though_nobody_waits_any_more(clock, impatient):
    late = Event()

    def load() -> StaticCredentials:
        late.wait()
        return StaticCredentials("id", "secret")

    credentials = Credentials(load)
    with pytest.raises(Unreachable):
        credentials.keys()
    late.set()
    settled()
    assert credentials.keys(0.001).access_key == "id"


@pytest.mark.parametrize("beside", [False, True], ids=["greenlets", "a real thread too"])
def test_threads_and_greenlets_wait_for_one_answer(provider, beside):
    answered, credentials = Event(), Credentials(provider.load)
    credentials.keys()
    provider.pass_time(3601)
    provider.refresh = answered.wait
    calls: list[Any] = [gevent.spawn(credentials.keys) for _ in range(3)]
    gevent.idle()
    pool = ThreadPool(2)
    calls += [pool.spawn(credentials.keys) for _ in range(2 if beside else 0)]
    gevent.sleep(0.05)
    answered.set()
    assert {call.get().access_key for call in calls} == {"refresh1"}
    assert provider.refreshes == 1
    pool.kill()


UNPATCHED = """
import sys, threading, time
from botocore.credentials import Credentials as Static
from millpond.sqs import credentials as module
module.PROVIDER_SECONDS = 0.2
never, answers = threading.Event(), []
def load():
    answers.append(1)
    if len(answers) == 1: never.wait()
    return Static("id", "secret")
credentials = module.Credentials(load)
try:
    credentials.keys(0.05)
except module.Unreachable as error:
    assert "has not answered" in str(error), error
else:
    raise SystemExit("no error")
time.sleep(0.2)
found = []
threads = [threading.Thread(target=lambda: found.append(credentials.keys().access_key)) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
assert found == ["id"] * 8 and len(answers) == 2, (found, answers)
assert "gevent" not in sys.modules
"""


def test_in_an_unpatched_process_a_provider_that_hangs_is_given_up_too():
    done = subprocess.run([sys.executable, "-W", "error", "-c", UNPATCHED], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_credential_process_that_hangs_is_given_up_and_ended(monkeypatch, tmp_path):
    """Else one more of them would be left behind each half minute."""
    told = tmp_path / "pid"
    script = tmp_path / "keys.py"
    script.write_text(f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("millpond.sqs.credentials.PROCESS_SECONDS", 1.0)
    endpoint = Endpoint("https://sqs.eu-west-1.amazonaws.com/", "eu-west-1", "", False)
    credentials = Credentials(credentials_loader(endpoint))
    with pytest.raises(Unreachable, match="timed out"):
        credentials.keys()
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


# --- keys that SQS refuses


def test_keys_that_were_refused_are_loaded_from_the_beginning_once_for_all_who_had_them(provider):
    credentials = Credentials(provider.load)
    refused = credentials.keys()
    calls = [gevent.spawn(credentials.renew, refused) for _ in range(5)]
    gevent.joinall(calls, raise_error=True)
    assert {call.value.access_key for call in calls} == {"load2"} == {credentials.keys().access_key}
    assert provider.loads == 2


def test_refused_keys_are_looked_for_once_in_a_while_and_not_at_each_call(monkeypatch):
    now, loads = [1000.0], []
    monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def load() -> StaticCredentials:
        loads.append(1)
        return StaticCredentials("new" if len(loads) > 2 else "old", "secret")

    credentials = Credentials(load)
    keys = credentials.keys()
    for _ in range(5):
        assert credentials.renew(credentials.keys()).access_key == "old"
    assert len(loads) == 2
    now[0] += RELOAD_SECONDS
    assert credentials.renew(credentials.keys()).access_key == "new"
    now[0] += RELOAD_SECONDS
    assert credentials.renew(keys).access_key == "new"  # whoever still had the old ones asks nobody
    assert len(loads) == 3


def test_who_is_refused_while_fresh_keys_are_looked_for_waits_for_them(monkeypatch):
    monkeypatch.setattr(module, "monotonic", lambda: 1000.0)
    found, answers = Event(), ["old"]

    def load() -> StaticCredentials:
        if not answers:
            found.wait()
        return StaticCredentials(answers.pop() if answers else "new", "secret")

    credentials = Credentials(load)
    keys = credentials.keys()
    calls = [gevent.spawn(credentials.renew, keys) for _ in range(5)]
    gevent.sleep(0.01)
    found.set()
    assert {call.get().access_key for call in calls} == {"new"}


def test_a_reload_that_fails_leaves_the_keys_as_they_were(monkeypatch):
    monkeypatch.setattr(module, "monotonic", lambda: 1000.0)
    found = [StaticCredentials("id", "secret")]
    credentials = Credentials(lambda: found.pop() if found else None)
    keys = credentials.keys()
    with pytest.raises(AccessDenied, match="no credentials"):
        credentials.renew(keys)
    assert credentials.keys() is keys
    assert credentials.renew(keys) is keys  # a moment later nobody is asked, and the old answer is no news


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (None, AccessDenied, "no credentials: set AWS_ACCESS_KEY_ID"),
        (ValueError("the profile is nonsense"), AccessDenied, "the profile is nonsense"),
        (EndpointConnectionError(endpoint_url="https://sts.example"), Unreachable, r"sts\.example"),
    ],
)
def test_where_there_are_none_each_call_is_told_and_the_next_one_looks_again(error, kind, said):
    answers: list[Any] = [error, StaticCredentials("id", "secret")]

    def load() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    credentials = Credentials(load)
    with pytest.raises(QueueError, match=said) as caught:
        credentials.keys()
    assert type(caught.value) is kind
    assert credentials.keys().access_key == "id"


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\n", "a b", "ä"])
def test_keys_that_would_be_another_header_are_refused_and_not_shown(text):
    for keys in (StaticCredentials(text, "s", "t"), StaticCredentials("id", "s", text)):
        with pytest.raises(AccessDenied, match="a space or a line break") as caught:
            Credentials(lambda keys=keys: keys).keys()
        assert text not in str(caught.value)


def test_keys_that_were_replaced_twice_are_no_longer_looked_for_in_every_text(monkeypatch):
    """A role's keys are renewed each hour: ninety hours later, each log line was 38 times as dear."""
    loaded = [StaticCredentials(f"ACCESS-KEY-{n}", f"private-half-{n}", f"session-part-{n}") for n in range(3)]
    monkeypatch.setattr(module, "RELOAD_SECONDS", 0)
    keys = Credentials(iter(loaded).__next__)
    for _ in range(2):
        keys.renew(keys.keys())

    assert shown("ACCESS-KEY-2 private-half-1 session-part-1") == "*** *** ***"
    assert shown("ACCESS-KEY-0 private-half-0 session-part-0") == "ACCESS-KEY-0 private-half-0 session-part-0"
