"""Which client calls the table, and what our own does when a call fails."""

from __future__ import annotations

import json

import pytest

from millpond.claims.claim import Claimed, Done
from millpond.claims.dynamodb import connect_table
from millpond.claims.table_boto import BotoTable
from millpond.claims.table_wire import WireTable
from millpond.errors import ClaimStoreError
from tests.claims.conftest import TABLE
from tests.claims.contract import NOW, claim, fresh
from tests.claims.opened import DynamoStores


@pytest.fixture
def store(table):
    return DynamoStores(TABLE).open()


def answer(code, status=400):
    return status, json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"}).encode()


def test_the_table_is_called_by_our_own_client(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(connect_table("claims", "eu-west-1", 5), WireTable)


def test_the_table_is_called_by_boto3_where_the_settings_say_so_or_a_proxy_is_in_the_way(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_DYNAMODB", raising=False)
    assert isinstance(connect_table("claims", "eu-west-1", 5, "boto3"), BotoTable)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert isinstance(connect_table("claims", "eu-west-1", 5), BotoTable)


@pytest.mark.parametrize("client", ["wire", "boto3"])
@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("AWS_USE_FIPS_ENDPOINT", "https://dynamodb-fips.us-east-1.amazonaws.com/"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "https://dynamodb.us-east-1.api.aws/"),
    ],
)
def test_the_endpoint_is_the_sdks_by_its_own_settings(monkeypatch, client, variable, url):
    monkeypatch.delenv("AWS_ENDPOINT_URL_DYNAMODB", raising=False)
    monkeypatch.setenv(variable, "true")
    assert connect_table("claims", "us-east-1", 5, client).url == url


@pytest.mark.parametrize(
    "first", [answer("ThrottlingException"), answer("InternalServerError", 500), (503, b"<html>busy</html>")]
)
def test_what_dynamodb_refuses_for_now_is_sent_again(table, store, monkeypatch, first):
    monkeypatch.setattr("millpond.claims.table_wire.BACK_OFF_SECONDS", (0.001, 0.001))
    answers = [first, first]
    table.application.before = lambda name: answers.pop() if answers else None
    assert claim(store, fresh(), "a") == Claimed(0)
    assert answers == []


def test_what_dynamodb_refuses_for_good_is_not_sent_again(table, store):
    calls = table.application.calls = []
    table.application.before = lambda name: answer("AccessDeniedException")
    with pytest.raises(ClaimStoreError):
        claim(store, fresh(), "a")
    assert calls == ["UpdateItem"]  # the keys of an emulator are made up: there are no others


def test_a_call_is_sent_three_times_at_most(table, store, monkeypatch):
    monkeypatch.setattr("millpond.claims.table_wire.BACK_OFF_SECONDS", (0.001, 0.001))
    calls = table.application.calls = []
    table.application.before = lambda name: answer("ProvisionedThroughputExceededException")
    with pytest.raises(ClaimStoreError, match="throttles dynamodb:UpdateItem"):
        claim(store, fresh(), "a")
    assert calls == ["UpdateItem"] * 3


def test_a_done_mark_that_was_written_twice_is_done(table, store, monkeypatch):
    """The first one was written, and its answer was a 500 of a load balancer."""
    monkeypatch.setattr("millpond.claims.table_wire.BACK_OFF_SECONDS", (0.001, 0.001))
    key, lost = fresh(), []
    claim(store, key, "a")
    table.application.after = lambda name: bool(lost) or lost.append(name)
    assert store.complete(key, "a", NOW)
    assert lost == ["UpdateItem"]
    assert claim(store, key, "b") == Done(NOW)
