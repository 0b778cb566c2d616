"""Which exceptions are the other side's, and which of them ask for fewer: those of libraries, and of liars."""

from __future__ import annotations

import errno
import io
import pickle
import smtplib
import socket
import ssl
import time
import urllib.error
from datetime import UTC, datetime, timedelta
from email.message import Message as Headers
from email.utils import format_datetime
from http import HTTPStatus
from http.client import RemoteDisconnected
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import botocore.exceptions
import gevent
import pytest
import requests
import urllib3

from millpond.errors import AccessDenied, Stopped, Throttled, Unanswered
from millpond.foreign.other_side import AT_FAULT, MAX_ERRORS, NO_SIGNS, SENDING_RATE, Signs, signs_of


def of_library(name: str, base: type[BaseException] = Exception, **attributes: Any) -> BaseException:
    """An exception of a library that is not installed here: its class derives from one of this name."""
    module, _, kind = name.rpartition(".")
    above = type(kind, (base,), {"__module__": module})
    return type("Derived", (above,), {"__module__": "elsewhere", **attributes})("why")


def client_error(code: str, message: str = "", status: int = 400, headers: dict[str, str] | None = None) -> Exception:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    return botocore.exceptions.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, "SendEmail"
    )


def requests_error(status: int, **headers: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    with pytest.raises(requests.HTTPError) as raised:
        response.raise_for_status()
    return raised.value


def urllib_error(status: int, **headers: str) -> urllib.error.HTTPError:
    fields = Headers()
    for name, value in headers.items():
        fields[name.replace("_", "-")] = value
    return urllib.error.HTTPError("https://api.example", status, "no", fields, io.BytesIO())


THEIRS = [
    ConnectionRefusedError(111, "refused"),
    ConnectionResetError(),
    BrokenPipeError(),
    RemoteDisconnected(),
    TimeoutError("timed out"),
    socket.gaierror(-2, "Name or service not known"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
    ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    ssl.SSLCertVerificationError("certificate has expired"),
    urllib.error.HTTPError("https://api.example", 503, "no", Headers(), io.BytesIO()),
    gevent.Timeout(5),
    smtplib.SMTPServerDisconnected("Connection unexpectedly closed"),
    requests.ConnectionError("refused"),
    requests.ReadTimeout("slow"),
    requests.exceptions.ChunkedEncodingError("cut"),
    urllib3.exceptions.ReadTimeoutError(None, "/", "slow"),  # type: ignore[arg-type]
    urllib3.exceptions.ProtocolError("cut"),
    of_library("aiohttp.client_exceptions.ClientConnectionError"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="https://api.example"),
    botocore.exceptions.ConnectTimeoutError(endpoint_url="https://api.example"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="https://api.example"),
    botocore.exceptions.ConnectionClosedError(endpoint_url="https://api.example"),
    of_library("httpx.NetworkError"),
    of_library("httpx.TimeoutException"),
    of_library("redis.exceptions.ConnectionError"),
    of_library("pymongo.errors.ConnectionFailure"),
    of_library("psycopg.OperationalError", sqlstate=None),
    of_library("psycopg.OperationalError", sqlstate="57P01"),
    of_library("psycopg2.OperationalError", pgcode="53300"),
    client_error("ServiceUnavailable", status=503),
    requests_error(502),
    requests_error(504),
    Unanswered("SQS did not answer"),
    of_library("google.api_core.exceptions.GoogleAPICallError", code=HTTPStatus.SERVICE_UNAVAILABLE),
]


@pytest.mark.parametrize("error", THEIRS, ids=repr)
def test_an_error_of_the_network_or_of_a_server_is_the_other_sides(error):
    assert signs_of(error) == Signs(other_side=True)


OWN = [
    ValueError("no"),
    KeyError("number"),
    FileNotFoundError(2, "no such file"),
    OSError(errno.EMFILE, "Too many open files"),
    EOFError("Ran out of input"),
    pickle.UnpicklingError("invalid load key"),
    requests.exceptions.MissingSchema("no schema"),
    requests_error(400),
    requests_error(404),
    requests_error(500),
    urllib_error(401),
    client_error("ValidationException"),
    botocore.exceptions.NoCredentialsError(),
    of_library("redis.exceptions.ResponseError"),
    of_library("psycopg.OperationalError", sqlstate="40P01"),  # a deadlock
    of_library("psycopg2.OperationalError", pgcode="55P03"),  # a lock that is not free
    of_library("psycopg.errors.UniqueViolation", sqlstate="23505"),
    of_library("redis_of_mine.ConnectionError"),
    AccessDenied("no rights"),
    of_library("own.Error", status="503", code=None, response="503"),
    of_library("own.Error", status=True),
]


@pytest.mark.parametrize("error", OWN, ids=repr)
def test_any_other_error_is_the_messages_own(error):
    assert signs_of(error) == NO_SIGNS


THROTTLES = [
    requests_error(429),
    urllib_error(429),
    client_error("Throttling", "Maximum sending rate exceeded."),
    client_error("ThrottlingException"),
    client_error("TooManyRequestsException", status=429),
    client_error("SlowDown", status=503),
    client_error("ProvisionedThroughputExceededException"),
    client_error("MessageRejected", "Maximum sending rate exceeded - today"),
    of_library("httpx.HTTPStatusError", response=SimpleNamespace(status_code=429, headers={})),
    of_library("stripe.RateLimitError", http_status=429, code="rate_limit"),
    Throttled("SQS asks for fewer"),
]


@pytest.mark.parametrize("error", THROTTLES, ids=repr)
def test_an_answer_that_asks_for_fewer_is_too_fast(error):
    assert signs_of(error) == Signs(other_side=True, too_fast=True)


@pytest.mark.parametrize("make", [requests_error, urllib_error])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_read_as_seconds(make, status):
    assert signs_of(make(status, Retry_After="120")) == Signs(True, True, 120.0)


def test_retry_after_is_read_as_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    after = signs_of(requests_error(429, Retry_After=soon)).after
    assert after is not None
    assert 85 < after <= 90
    past = format_datetime(datetime.fromtimestamp(time.time() - 60, UTC), usegmt=True)
    assert signs_of(requests_error(429, Retry_After=past)).after == 0.0


@pytest.mark.parametrize("text", ["soon", "-5", "", "Mon, 99 Foo 2026", "1e9", "9" * 5_000])
def test_a_retry_after_that_nobody_can_read_is_none(text):
    assert signs_of(requests_error(429, Retry_After=text)) == Signs(True, True)
    assert signs_of(requests_error(503, Retry_After=text)) == Signs(True)


@pytest.mark.parametrize("text", ["%a, %d %b %Y %H:%M:%S -0000", "%a %b %d %H:%M:%S %Y"])
def test_a_date_without_a_zone_is_utc_wherever_the_worker_runs(monkeypatch, text):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        later = time.strftime(text, time.gmtime(time.time() + 30))
        assert signs_of(requests_error(429, Retry_After=later)).after == pytest.approx(30, abs=2)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retry_after_of_an_aws_answer_is_read_too():
    assert signs_of(client_error("SlowDown", status=503, headers={"retry-after": "7"})).after == 7.0


# --- what led to it


def raised_from(*errors: BaseException, suppressed: bool = False) -> BaseException:
    """The last of them, to which the others led, one to another."""
    for before, after in pairwise(errors):
        after.__context__ = before
        after.__suppress_context__ = suppressed
    return errors[-1]


def test_what_led_to_an_error_counts_however_it_is_wrapped():
    assert signs_of(raised_from(ConnectionRefusedError(), OSError("no"), KeyError("x"))).other_side
    assert signs_of(raised_from(requests_error(429, Retry_After="3"), KeyError("x"))).after == 3.0
    caused = ValueError("no")
    caused.__cause__ = TimeoutError()
    assert signs_of(caused).other_side


def test_an_error_of_the_network_counts_through_the_layers_of_a_database():
    """As SQLAlchemy and Django raise them: each from the one below."""
    driver = of_library("psycopg.OperationalError", sqlstate=None)
    wrapper = of_library("sqlalchemy.exc.OperationalError", code="e3q8", orig=driver)
    wrapper.__cause__ = driver
    assert signs_of(raised_from(wrapper, ValueError("no invoice"))) == Signs(other_side=True)


def test_an_error_that_was_left_behind_on_purpose_does_not_count():
    assert signs_of(raised_from(ConnectionRefusedError(), KeyError("x"), suppressed=True)) == NO_SIGNS


def test_one_that_asks_for_fewer_counts_more_than_a_lost_connection_before_it():
    assert signs_of(raised_from(requests_error(429), ConnectionResetError())).too_fast


def test_the_members_of_a_group_count():
    group = ExceptionGroup("all", [ValueError("no"), ExceptionGroup("some", [KeyError("x"), TimeoutError()])])
    assert signs_of(group).other_side
    assert signs_of(ExceptionGroup("all", [ValueError("no")])) == NO_SIGNS


def test_a_chain_without_an_end_has_one():
    first, second = ValueError("one"), ValueError("two")
    first.__context__, second.__context__ = second, first
    assert signs_of(first) == NO_SIGNS
    chain = [ValueError(str(number)) for number in range(100_000)]
    assert signs_of(raised_from(ConnectionRefusedError(), *chain)) == NO_SIGNS
    for error in chain:
        error.__context__ = None  # or its end would be too deep for C
    deep: BaseException = TimeoutError()
    for _ in range(2 * MAX_ERRORS):
        deep = ExceptionGroup("deep", [deep])  # type: ignore[list-item]
    assert signs_of(deep) == NO_SIGNS


# --- liars


class Nasty(Exception):
    """Everything that can be asked of it raises."""

    def __getattribute__(self, name: str) -> object:
        raise SystemExit(f"no {name}")


class NastyConnection(Nasty, ConnectionResetError): ...


class Raises:
    """An answer whose every part raises, or is not what it seems."""

    def __getattr__(self, name: str) -> object:
        raise KeyboardInterrupt

    def get(self, name: str) -> object:
        raise KeyboardInterrupt


def test_an_error_that_raises_whatever_it_is_asked_shows_its_class_alone():
    assert signs_of(Nasty()) == NO_SIGNS
    assert signs_of(NastyConnection()) == Signs(other_side=True)
    assert signs_of(raised_from(ConnectionRefusedError(), Nasty())).other_side


@pytest.mark.parametrize(
    "attributes",
    [
        {"response": Raises()},
        {"response": {"Error": None}},
        {"response": {"Error": {"Code": ["unhashable"], "Message": None}}},
        {"response": {"ResponseMetadata": 5}},
        {"__class__": property(lambda self: ConnectionError)},
        {"__cause__": property(lambda self: ConnectionResetError())},
    ],
    ids=str,
)
def test_what_cannot_be_read_shows_nothing(attributes):
    assert signs_of(of_library("own.Error", **attributes)) == NO_SIGNS


@pytest.mark.parametrize(
    ("attributes", "signs"),
    [
        ({"status": 503, "headers": Raises()}, AT_FAULT),
        ({"status": 502, "headers": [("retry-after", "3")]}, AT_FAULT),
        ({"status_code": 429, "headers": [("retry-after", "3")]}, Signs(True, True)),
        ({"response": {"Error": None, "ResponseMetadata": {"HTTPStatusCode": 503}}}, AT_FAULT),
        ({"response": {"Error": {"Code": "Throttling", "Message": None}}}, Signs(True, True)),
        ({"response": {"Error": {"Code": "SlowDown"}, "ResponseMetadata": None}}, Signs(True, True)),
        ({"response": {"Error": {"Code": ["x"], "Message": SENDING_RATE}}}, Signs(True, True)),
    ],
    ids=str,
)
def test_what_cannot_be_read_hides_nothing_else(attributes, signs):
    assert signs_of(of_library("own.Error", **attributes)) == signs


def test_an_answer_that_cannot_be_read_hides_no_lost_connection():
    lost = ConnectionResetError()
    lost.response = {"Error": None, "ResponseMetadata": 5}  # type: ignore[attr-defined]
    assert signs_of(lost) == AT_FAULT


def test_an_interrupt_that_comes_while_it_is_read_is_not_lost():
    def interrupted(self: object) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        signs_of(of_library("own.Error", response=property(interrupted)))
