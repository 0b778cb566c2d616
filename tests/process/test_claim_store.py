"""Which store of claims a process opens, and what ends its boot."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from millpond.app.config import load
from millpond.app.routing import Route
from millpond.claims.claim import TableFinding
from millpond.claims.dynamodb import DynamoClaims
from millpond.claims.memory import MemoryClaims
from millpond.errors import ConfigError
from millpond.process.claim_store import check_store, open_store
from tests.dynamo_server import dynamo
from tests.worker_process import ROOT, WorkerProcess, local_queues, write_project

REAL = 'url = "https://sqs.eu-west-1.amazonaws.com/1/mails"'
LOCAL = 'url = "local"'
JOBS = """
from millpond import handler

@handler("ok", idempotent=True)
def ok(payload: dict) -> None:
    pass
"""
CONFIG = '[worker]\nhandlers = ["jobs"]\n[queues.work]\nurl = "local"\nwait_seconds = 1\n[local]\nport = 0\n'


def routes(*idempotent: str) -> dict[str, Route]:
    names = {"plain": False} | dict.fromkeys(idempotent, True)
    return {name: Route(name, name, json.loads, print, idempotent=one) for name, one in names.items()}


@pytest.fixture
def settings(tmp_path):
    def settings(*queues: str, table: str = "", more: str = ""):
        texts = [f"[queues.q{number}]\n{queue}" for number, queue in enumerate(queues)]
        path = tmp_path / "config.toml"
        path.write_text("\n".join([*texts, "[idempotency]", f'table = "{table}"', 'region = "eu-west-1"', more]))
        return load(path, {})

    return settings


def test_no_store_is_opened_where_no_handler_is_idempotent(settings):
    assert open_store(settings(REAL, table="claims"), routes()) is None


def test_the_local_queue_has_its_claims_in_memory(settings):
    assert isinstance(open_store(settings(LOCAL, LOCAL), routes("a")), MemoryClaims)


def test_a_table_counts_for_the_local_queue_too(settings):
    assert isinstance(open_store(settings(LOCAL, table="claims"), routes("a")), DynamoClaims)


@pytest.mark.parametrize("queues", [[REAL], [REAL, LOCAL]])
def test_a_real_queue_without_a_table_is_an_error_that_names_the_types(settings, queues):
    with pytest.raises(ConfigError, match=r"^\[idempotency\] table is empty, but .* \(a, b\): name one"):
        open_store(settings(*queues), routes("b", "a"))


def test_a_store_has_a_connection_for_each_message_in_hand(settings):
    store = open_store(settings(f"{REAL}\nprefetch = 50", table="claims"), routes("a"))
    assert store._table._calls.connections._most == 150


@pytest.mark.parametrize("table", ["x", "a b", "claims/of mine", "arn:aws:s3:::bucket"])
def test_a_table_name_that_is_none_is_a_finding(settings, table):
    with pytest.raises(ConfigError, match=r"\[idempotency\] table = .*the name or the ARN of a table of DynamoDB"):
        settings(REAL, table=table)


@pytest.mark.parametrize("table", ["", "millpond-claims", "arn:aws:dynamodb:eu-west-1:123456789012:table/claims"])
def test_a_table_is_a_name_or_an_arn(settings, table):
    assert settings(REAL, table=table).idempotency.table == table


@pytest.mark.parametrize("seconds", ["59", "31_536_001", "1.5", "-1"])
def test_an_expiry_that_makes_no_sense_is_a_finding(settings, seconds):
    with pytest.raises(ConfigError, match=r"\[idempotency\] expires_seconds = .*60 to 31536000 seconds"):
        settings(REAL, more=f"expires_seconds = {seconds}")


class Found:
    def __init__(self, *findings: TableFinding) -> None:
        self.check = lambda: findings


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("millpond.process.claim_store.LOOK_AGAIN_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_denial_that_is_over_at_the_second_look_ends_no_boot():
    store = Found(TableFinding("error", "denied"))
    answers = [store.check(), Found(TableFinding("ok", "fine")).check()]
    store.check = lambda: answers.pop(0)
    check_store(store)
    assert answers == []


@pytest.mark.usefixtures("at_once")
def test_what_makes_a_store_useless_ends_the_boot():
    store = Found(TableFinding("ok", "fine"), TableFinding("error", "one is wrong"), TableFinding("error", "two"))
    with pytest.raises(ConfigError) as raised:
        check_store(store)
    assert raised.value.findings == ("[idempotency] table: one is wrong", "[idempotency] table: two")


def test_what_may_pass_and_what_is_not_as_it_should_be_is_logged(caplog):
    caplog.set_level(logging.INFO)
    check_store(
        Found(
            TableFinding("ok", "fine"),
            TableFinding("note", "not known"),
            TableFinding("warning", "it grows"),
            TableFinding("error", "it is down", may_pass=True),
        )
    )
    lines = [(record.event, record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("claims.table", "WARNING", "it grows"),
        ("claims.failed", "WARNING", "it is down (no idempotent handler begins until that is over)"),
    ]


def test_a_worker_without_claims_loads_nothing_of_dynamodb():
    code = """
from gevent import monkey
monkey.patch_all()
import sys
from millpond.process import boot
from millpond.commands import check
loaded = [name for name in sys.modules if name.startswith("millpond.claims")]
assert sorted(loaded) == ["millpond.claims", "millpond.claims.claim", "millpond.claims.memory"], loaded
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


@pytest.mark.slow
def test_a_worker_runs_each_event_once_by_its_table(tmp_path):
    with dynamo() as server:
        server.create("boot-claims")
        config = f'{CONFIG}[idempotency]\ntable = "boot-claims"\n'
        write_project(tmp_path, JOBS, config)
        with WorkerProcess(tmp_path, AWS_ENDPOINT_URL_DYNAMODB=server.url, LOG_LEVEL="info") as worker:
            queues = local_queues(worker)
            worker.expect("worker.ready")
            body = json.dumps({"event_type": "ok", "event_id": "7", "payload": {}})
            queues.sqs.send_message(QueueUrl=queues.url("work"), MessageBody=body)
            worker.expect("message.succeeded", event_id="7")
            queues.sqs.send_message(QueueUrl=queues.url("work"), MessageBody=body)
            worker.expect("message.discarded", event_id="7", cause="duplicate")
        [item] = server.client.scan(TableName="boot-claims")["Items"]
        assert item["id"] == {"S": "ok 7"}
        assert "done_at" in item


@pytest.mark.slow
def test_a_worker_whose_table_is_missing_says_how_to_make_it(tmp_path):
    with dynamo() as server:
        write_project(tmp_path, JOBS, f'{CONFIG}[idempotency]\ntable = "nowhere"\n')
        with WorkerProcess(tmp_path, AWS_ENDPOINT_URL_DYNAMODB=server.url) as worker:
            assert worker.exit_code() == 3
    assert "[idempotency] table: the claim table nowhere is not there in us-east-1 (create it: aws" in worker.stderr
    assert "Traceback" not in worker.stderr
