"""What only a store over a network can do: lose an answer, be down, refuse, and hold items of others."""

from __future__ import annotations

import json
import socket

import gevent
import pytest
from gevent.event import Event

from millpond.claims.claim import Claimed, Done, key_of
from millpond.claims.dynamodb import DynamoClaims, connect_table
from millpond.errors import ClaimStoreError, ConfigError
from tests.claims.conftest import TABLE
from tests.claims.contract import LAPSED, NOW, WEEK, claim, fresh
from tests.claims.opened import DynamoStores


@pytest.fixture(params=["wire", "boto3"])
def client(request):
    return request.param


@pytest.fixture
def store(table, client):
    return DynamoStores(TABLE, client).open()


def open_table(name, client="wire"):
    return DynamoClaims(connect_table(name, "us-east-1", 5, client), WEEK)


def refusal(code, status=400):
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "not for you"})
    return lambda name: (status, body.encode())


def lose_first_answer(server):
    """DynamoDB does what it is asked, and the connection breaks before it has answered."""
    lost = []

    def after(name):
        lost.append(name)
        return len(lost) > 1

    server.application.after = after
    return lost


# --- an answer that is lost: botocore makes the call again


def test_a_claim_whose_answer_was_lost_is_recognised_by_its_token(table, store):
    key = fresh()
    calls = lose_first_answer(table)
    assert claim(store, key, "a") == Claimed(0)
    assert calls == ["UpdateItem", "UpdateItem"]


@pytest.mark.parametrize("failures", [None, 0, 3])
def test_a_release_whose_answer_was_lost_is_done(table, store, failures):
    key = fresh()
    claim(store, key, "a")
    calls = lose_first_answer(table)
    assert store.release(key, "a", failures, NOW)
    assert calls == ["UpdateItem", "UpdateItem"]
    assert claim(store, key, "b") == Claimed(failures or 0)


def test_a_renewal_and_a_done_mark_whose_answers_were_lost_are_done(table, store):
    key = fresh()
    claim(store, key, "a")
    lose_first_answer(table)
    assert store.renew(key, "a", NOW + 90, NOW)
    lose_first_answer(table)
    assert store.complete(key, "a", NOW)
    assert claim(store, key, "b") == Done(NOW)


# --- what it costs


def test_each_step_of_an_events_life_is_one_call(table, store):
    key = fresh()
    calls = table.application.calls = []
    claim(store, key, "a")
    store.renew(key, "a", NOW + 90, NOW)
    store.release(key, "a", 1, NOW)
    claim(store, key, "b")  # with the failures of before
    claim(store, key, "c", LAPSED)
    claim(store, key, "d", LAPSED)  # busy
    store.complete(key, "c", LAPSED)
    claim(store, key, "d", LAPSED)  # done
    assert calls == ["UpdateItem"] * 8


def test_a_record_of_the_longest_key_is_one_write_unit(table, store):
    key = key_of("t" * 300, "\U0001f600" * 52)
    claim(store, key, "0123456789abcdef" * 2, digest="f" * 64)
    store.release(key, "0123456789abcdef" * 2, 100, NOW)
    claim(store, key, "0123456789abcdef" * 2, digest="f" * 64)
    store.complete(key, "0123456789abcdef" * 2, NOW)
    item = table.client.get_item(TableName=TABLE, Key={"id": {"S": key}})["Item"]
    size = sum(len(name) + len(str(next(iter(value.values()))).encode()) for name, value in item.items())
    assert 500 < size < 1_024
    assert item["expires"]["N"].isdigit(), "the time-to-live takes whole numbers alone"


def test_calls_of_many_greenlets_wait_side_by_side(table, store):
    came, all_here = [], Event()

    def wait_for_the_others(name):
        came.append(name)
        if len(came) == 20:
            all_here.set()
        all_here.wait()

    table.application.before = wait_for_the_others
    gevent.joinall([gevent.spawn(claim, store, fresh(), "a") for _ in range(20)], raise_error=True)
    assert len(came) == 20


# --- what fails


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("AccessDeniedException", 400, "refuses dynamodb:UpdateItem (give the worker's role this right"),
        ("UnrecognizedClientException", 400, "refuses dynamodb:UpdateItem (give the worker's role this right"),
        ("ThrottlingException", 400, "throttles dynamodb:UpdateItem (make its billing on demand"),
        ("ProvisionedThroughputExceededException", 400, "throttles dynamodb:UpdateItem (make its billing on demand"),
        ("InternalServerError", 500, "failed dynamodb:UpdateItem (InternalServerError)"),
    ],
)
def test_a_refused_call_is_a_sentence_with_the_table_and_the_remedy(table, client, monkeypatch, code, status, said):
    monkeypatch.setattr("millpond.claims.table_boto.TABLE_ATTEMPTS", 1)
    monkeypatch.setattr("millpond.claims.table_wire.BACK_OFF_SECONDS", ())
    store = DynamoStores(TABLE, client).open()
    table.application.before = refusal(code, status)
    for call in (
        lambda: claim(store, fresh(), "a"),
        lambda: store.renew("k", "a", NOW, NOW),
        lambda: store.complete("k", "a", NOW),
        lambda: store.release("k", "a", 1, NOW),
        lambda: store.release("k", "a", None, NOW),
    ):
        with pytest.raises(ClaimStoreError) as raised:
            call()
        assert str(raised.value).startswith(f"the claim table {TABLE} {said}")
        assert raised.value.code == code


def test_a_table_that_is_not_there_is_named_with_the_command_that_makes_it(table, client):
    with pytest.raises(ClaimStoreError, match="the claim table nowhere is not there in us-east-1") as raised:
        claim(open_table("nowhere", client), fresh(), "a")
    assert "aws dynamodb create-table --region us-east-1 --table-name nowhere" in str(raised.value)


@pytest.mark.parametrize("kind", [{"key": "pk"}, {"of": "N"}, {"sort": "range"}])
def test_a_table_with_another_key_is_named_with_the_key_that_it_needs(table, client, kind):
    name = f"other-{client}-{'-'.join(kind)}"
    table.create(name, **kind)
    with pytest.raises(ClaimStoreError, match="it needs the partition key `id`, a string, and no sort key"):
        claim(open_table(name, client), fresh(), "a")


def test_a_store_that_is_down_is_named_with_its_url(client, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{port}")
    with pytest.raises(ClaimStoreError, match=f"cannot be reached at http://127.0.0.1:{port}") as raised:
        claim(DynamoStores(TABLE, client).open(), fresh(), "a")
    assert raised.value.code == ""


def test_a_store_that_never_answers_is_given_up_in_time(table, store, monkeypatch):
    for module in ("table_wire", "table_boto"):
        monkeypatch.setattr(f"millpond.claims.{module}.TABLE_CALL_SECONDS", 0.3)
    table.application.before = lambda name: gevent.sleep(1)
    with pytest.raises(ClaimStoreError, match=r"cannot be reached at .*: no answer in 0.[23]\d* s"):
        claim(store, fresh(), "a")


def test_credentials_that_are_missing_are_a_sentence(table, client, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("millpond.sqs.credentials.needs_no_credentials", lambda url: False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(ClaimStoreError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        claim(DynamoStores(TABLE, client).open(), fresh(), "a")


def test_a_table_without_a_region_is_found_when_it_is_opened(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(
        ConfigError, match=r"\[idempotency\] table = claims: its region is not known: set \[idempotency\]"
    ):
        connect_table("claims", "", 1)


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_REGION", "eu-west-1"), ("AWS_DEFAULT_REGION", "eu-central-1"), ("", "")]
)
def test_the_region_is_the_settings_or_else_the_sdks_own(monkeypatch, variable, value):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    if not variable:
        assert connect_table("claims", "eu-north-1", 1).url == "https://dynamodb.eu-north-1.amazonaws.com/"
        return
    monkeypatch.setenv(variable, value)
    assert connect_table("claims", "", 1).region == value
    assert connect_table("claims", "eu-north-1", 1).region == "eu-north-1"


@pytest.mark.parametrize(
    "item", [{}, {"token": {"S": "a"}}, {"token": {"N": "1"}}, {"expires": {"N": "1"}, "failures": {"N": "1.5"}}]
)
def test_an_item_that_others_wrote_is_named_and_not_touched(table, store, item):
    key = fresh()
    table.client.put_item(TableName=TABLE, Item={"id": {"S": key}, **item})
    for call in (lambda: claim(store, key, "a"), lambda: store.read(key)):
        with pytest.raises(ClaimStoreError, match="is not one of Millpond's: give claims a table of their own"):
            call()
    assert not store.complete(key, "a", NOW)
    assert table.client.get_item(TableName=TABLE, Key={"id": {"S": key}})["Item"] == {"id": {"S": key}, **item}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("name", ["lease_until", "expires", "done_at"])
def test_a_number_that_is_none_is_no_moment(table, store, name, number):
    """DynamoDB takes none; something between may say one, and the worker would wait for it without an end."""
    numbers = {"lease_until": "0", "expires": "9999999999", "failures": "0", "done_at": "1", name: number}
    item = {"token": {"S": "a"}, "digest": {"S": "d"}, **{field: {"N": text} for field, text in numbers.items()}}
    said = {"__type": "x#ConditionalCheckFailedException", "message": "", "Item": item}
    table.application.before = lambda name: (400, json.dumps(said).encode())
    with pytest.raises(ClaimStoreError, match="is not one of Millpond's"):
        claim(store, fresh(), "b")


def test_a_dynamodb_that_does_not_say_what_stands_there_is_no_licence_to_run(table, store):
    key = fresh()
    claim(store, key, "a")
    table.application.before = refusal("ConditionalCheckFailedException")
    with pytest.raises(ClaimStoreError, match="does not say what stands there"):
        claim(store, key, "b")


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"{}", b"\x00\xff"])
def test_a_gateways_own_page_is_no_write(table, store, monkeypatch, body):
    monkeypatch.setattr("millpond.claims.table_wire.BACK_OFF_SECONDS", ())
    key = fresh()
    claim(store, key, "a")
    table.application.before = lambda name: (200, body)
    writes = [
        lambda: claim(store, fresh(), "a"),
        lambda: store.renew(key, "a", LAPSED, NOW),
        lambda: store.complete(key, "a", NOW),
        lambda: store.release(key, "a", 1, NOW),
        lambda: store.release(key, "a", None, NOW),
    ]
    for write in writes:
        with pytest.raises(ClaimStoreError, match=r"is not DynamoDB's|cannot be reached"):
            write()
    table.application.before = lambda name: None
    assert store.read(key).token == "a"


def test_a_record_that_the_table_deletes_between_two_writes_of_a_claim_is_claimed(table, store):
    key = fresh()
    claim(store, key, "a")
    writes = []

    def delete_before_the_second(name):
        writes.append(name)
        if len(writes) == 2:
            writes.append("deleted")
            table.client.delete_item(TableName=TABLE, Key={"id": {"S": key}})

    table.application.before = delete_before_the_second
    assert claim(store, key, "b", NOW + 2 * WEEK) == Claimed(0)
    assert writes == ["UpdateItem", "UpdateItem", "deleted", "DeleteItem", "UpdateItem"]
