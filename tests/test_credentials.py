"""Keys: renewed behind the calls' backs, waited for only where there are none, loaded afresh where they are refused."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from botocore.credentials import Credentials as StaticCredentials
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import CredentialRetrievalError, EndpointConnectionError
from gevent.event import Event

from millpond import credentials as module
from millpond.credentials import ADVISORY_SECONDS, LOOK_SECONDS, Credentials
from millpond.errors import AccessDenied, QueueError, Unreachable
from millpond.sigv4 import Keys


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
    """Each call looks at the expiry: as if LOOK_SECONDS had gone by since the call before."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += LOOK_SECONDS
        return now[0]

    monkeypatch.setattr(module, "monotonic", monotonic)


@pytest.fixture
def provider(clock):
    return Provider()


def background_done() -> None:
    for thread in threading.enumerate():
        if thread.name == "credentials":
            thread.join()


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
    background_done()
    assert credentials.keys() == Keys("refresh1", "s", "t")


def test_between_two_looks_at_the_expiry_nothing_is_asked():
    provider = Provider()
    credentials = Credentials(provider.load)
    credentials.keys()
    provider.pass_time(3599)
    assert credentials.keys().access_key == "load1"
    background_done()
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
        background_done()
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


def test_an_interrupt_of_the_one_who_asks_lets_the_next_one_ask(provider):
    provider.refresh = lambda: gevent.sleep(10)
    credentials = Credentials(provider.load)
    credentials.keys()
    provider.pass_time(3601)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        credentials.keys()
    provider.refresh = lambda: None
    assert credentials.keys().access_key == "refresh2"


def test_keys_that_were_refused_are_loaded_from_the_beginning_once_for_all_who_had_them(provider):
    credentials = Credentials(provider.load)
    refused = credentials.keys()
    calls = [gevent.spawn(credentials.renew, refused) for _ in range(5)]
    gevent.joinall(calls, raise_error=True)
    assert {call.value.access_key for call in calls} == {"load2"} == {credentials.keys().access_key}
    assert provider.loads == 2


def test_a_reload_that_fails_leaves_the_keys_as_they_were(clock):
    found = [StaticCredentials("id", "secret")]
    credentials = Credentials(lambda: found.pop() if found else None)
    keys = credentials.keys()
    with pytest.raises(AccessDenied, match="no credentials"):
        credentials.renew(keys)
    assert credentials.keys() is keys


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
