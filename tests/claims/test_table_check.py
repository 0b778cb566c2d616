"""What the look at a table finds: told by name, with the command that helps."""

from __future__ import annotations

import json
import socket

import pytest

from tests.claims.conftest import TABLE
from tests.claims.test_dynamodb import open_table


def denied(*rights):
    body = json.dumps({"__type": "x#AccessDeniedException", "message": "not for you"}).encode()
    return lambda name: (400, body) if name in rights else None


def levels(findings):
    return [one.level for one in findings]


def test_a_table_that_fits_can_be_written_to_and_deletes_what_has_expired(table):
    findings = open_table(TABLE).check()
    assert [(one.level, one.text) for one in findings] == [
        ("ok", "the table claims in us-east-1 can be written to"),
        ("ok", "the table deletes what has expired, by its attribute expires"),
    ]
    assert (
        table.client.scan(
            TableName=TABLE,
            FilterExpression="contains(id, :check)",
            ExpressionAttributeValues={":check": {"S": "millpond check"}},
        )["Count"]
        == 0
    )


def test_a_table_that_is_missing_is_an_error_with_the_command_that_makes_it(table):
    [finding] = open_table("missing").check()
    assert (finding.level, finding.may_pass) == ("error", False)
    assert "is not there in us-east-1 (create it: aws dynamodb create-table" in finding.text


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ({"key": "pk"}, "the key of check-key is pk (HASH, S)"),
        ({"of": "N"}, "the key of check-of is id (HASH, N)"),
        ({"sort": "range"}, "the key of check-sort is id (HASH, S), range (RANGE, S)"),
    ],
)
@pytest.mark.parametrize("may_describe", [True, False])
def test_another_key_is_an_error_also_where_the_table_may_not_be_described(table, kind, named, may_describe):
    name = f"check-{next(iter(kind))}"
    if kind == {"of": "N"} and not may_describe:
        pytest.skip("moto looks at a condition before it looks at the key's type")
    if name not in table.client.list_tables()["TableNames"]:
        table.create(name, **kind)
    if not may_describe:
        table.application.before = denied("DescribeTable", "DescribeTimeToLive")
    *notes, finding = open_table(name).check()
    assert (finding.level, finding.may_pass) == ("error", False)
    assert (named if may_describe else "needs the partition key `id`, a string") in finding.text
    assert "aws dynamodb create-table" in finding.text
    assert levels(notes) == ([] if may_describe else ["note"])


@pytest.mark.parametrize("expires", ["", "ttl"])
def test_a_time_to_live_that_is_off_or_on_another_attribute_is_a_warning_with_the_command(table, expires):
    name = f"keeps-all-{expires or 'off'}"
    table.create(name, expires=expires)
    findings = open_table(name).check()
    assert levels(findings) == ["ok", "warning"]
    assert "aws dynamodb update-time-to-live --region us-east-1 --table-name keeps-all" in findings[1].text


def test_a_worker_that_may_only_write_can_work(table):
    table.application.before = denied("DescribeTable", "DescribeTimeToLive", "GetItem", "DeleteItem", "PutItem")
    findings = open_table(TABLE).check()
    assert levels(findings) == ["note", "ok", "note"]
    assert "that does not stop a worker" in findings[0].text


def test_a_worker_that_may_not_write_cannot_work(table):
    table.application.before = denied("UpdateItem")
    [finding] = open_table(TABLE).check()
    assert (finding.level, finding.may_pass) == ("error", False)
    assert "refuses dynamodb:UpdateItem (give the worker's role this right" in finding.text


def test_a_table_that_cannot_be_reached_may_pass(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{port}")
    [finding] = open_table(TABLE).check()
    assert (finding.level, finding.may_pass) == ("error", True)
    assert f"cannot be reached at http://127.0.0.1:{port}" in finding.text


def test_a_table_that_is_being_made_may_pass(table, monkeypatch):
    store = open_table(TABLE)
    call = store._table.call
    monkeypatch.setattr(
        store._table,
        "call",
        lambda name, **said: (
            {"Table": call(name)["Table"] | {"TableStatus": "CREATING"}}
            if name == "DescribeTable"
            else call(name, **said)
        ),
    )
    [finding] = store.check()
    assert (finding.level, finding.may_pass) == ("error", True)
    assert "is CREATING, not ACTIVE" in finding.text


@pytest.mark.parametrize("call", ["DescribeTable", "DescribeTimeToLive"])
def test_an_answer_that_lacks_what_dynamodb_says_stops_no_boot(table, call):
    table.application.before = lambda name: (200, b"{}") if name == call else None
    for finding in open_table(TABLE).check():
        if finding.level != "ok":
            assert f"gave an answer to dynamodb:{call} that is not DynamoDB's" in finding.text
            assert (finding.level, finding.may_pass) in [("error", True), ("note", False)]
