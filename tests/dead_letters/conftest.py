"""A local SQS in this process, with queues and dead letters in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from millpond.local import LocalSqs, api
from millpond.local import server as local_server
from millpond.local.account import Account
from millpond.local.operations import BatchAnswer, Failed, SendMessageBatch
from millpond.local.sqs_error import SqsError
from tests.dead_letters.letters import Letters


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSqs]:
    monkeypatch.setattr(local_server, "STOP_SECONDS", 0)
    server = LocalSqs(port=0)
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


@pytest.fixture
def letters(server: LocalSqs) -> Letters:
    return Letters(server)


@pytest.fixture
def fifo(server: LocalSqs) -> Letters:
    return Letters(server, ".fifo")


class Refusals:
    """Of what is sent to the queue `emails` each `every`-th entry, or each `every_call`-th call, is refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.every = self.every_call = 0
        self.shape = "ServiceUnavailable"
        self.loses_answers = False
        self._entries = self._calls = 0
        monkeypatch.setitem(api._PLAIN, "SendMessageBatch", self._send)

    def _send(self, account: Account, request: SendMessageBatch) -> Any:
        if not request.queue_url.endswith(("/emails", "/emails.fifo")):
            return Account.send_message_batch(account, request)
        self._calls += 1
        if self.every_call and self._calls % self.every_call == 0:
            raise SqsError(self.shape, "not now")
        entries = request.entries
        refused = []
        for entry in list(entries):
            self._entries += 1
            if self.every and self._entries % self.every == 0:
                entries.remove(entry)
                error = SqsError(self.shape, "not now")
                refused.append(Failed(entry.id, error.code, error.text, error.sender_fault))
        answer = Account.send_message_batch(account, request) if entries else BatchAnswer()
        answer.failed += refused
        if self.loses_answers:
            answer.successful = answer.successful[1:]
        return answer


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    return Refusals(monkeypatch)
