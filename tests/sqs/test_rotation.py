"""Keys that were rotated where they are kept: found at the first refusal, by either client."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gevent
import pytest

from millpond.errors import AccessDenied
from millpond.sqs.clients import connect
from millpond.sqs.codes import KEY_CODES
from millpond.sqs.lifeline import rescue
from tests.http_server import Server, sqs_answer


class Guarded(Server):
    """An SQS that knows one access key, and refuses all others with `code`."""

    def __init__(self) -> None:
        super().__init__()
        self.valid = "OLD"
        self.code = "InvalidClientTokenId"
        self.asked_by: list[str] = []

    def _answer(self, sock: Any, step: Any) -> None:
        wire = self.requests[-1]
        key = re.findall(rb"Credential=([^/]*)/", wire)[0].decode()
        self.asked_by.append(key)
        if key != self.valid:
            body = json.dumps({"__type": f"com.amazonaws.sqs#{self.code}", "message": "no"}).encode()
            return super()._answer(sock, sqs_answer(body, b"403 Forbidden"))
        named = re.findall(rb"(?i)amazonsqs\.(\w+)", wire)[0]
        body = b'{"Successful":[{"Id":"0"}],"Failed":[]}' if named.endswith(b"Batch") else b'{"Messages":[]}'
        return super()._answer(sock, sqs_answer(body))


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(30):
        yield


@pytest.fixture
def server():
    server = Guarded()
    yield server
    server.close()


@pytest.fixture
def file(monkeypatch, tmp_path):
    """~/.aws/credentials, and nothing else to take keys from."""
    path = tmp_path / "credentials"
    monkeypatch.setattr("millpond.sqs.credentials.needs_no_credentials", lambda url: False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    write(path, "OLD")
    return path


def write(path: Path, key: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n")


def connected(server: Guarded, client: Any) -> Any:
    return connect(f"{server.url}/123456789012/q", client=client, wait_seconds=1, polls=1, settles=1)


@pytest.mark.parametrize("client", ["wire", "boto3"])
@pytest.mark.parametrize("code", sorted(KEY_CODES))
def test_keys_rotated_in_the_file_are_found_at_the_first_refusal(server, file, client, code):
    queue = connected(server, client).queue(f"{server.url}/123456789012/q")
    assert queue.receive(1, 1, 30) == []
    write(file, "NEW")
    server.valid, server.code = "NEW", code
    assert queue.receive(1, 1, 30) == []
    assert queue.delete(["handle"]) == [None]
    assert server.asked_by == ["OLD", "OLD", "NEW", "NEW"]


@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_while_the_keys_stay_wrong_no_call_is_made_twice_and_the_file_is_read_now_and_then(
    server, file, client, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr("millpond.sqs.credentials.monotonic", lambda: now[0])
    queue = connected(server, client).queue(f"{server.url}/123456789012/q")
    server.valid = "NEW"
    for _ in range(5):
        with pytest.raises(AccessDenied):
            queue.receive(1, 1, 30)
    assert server.asked_by == ["OLD"] * 5
    write(file, "NEW")
    with pytest.raises(AccessDenied):
        queue.receive(1, 1, 30)  # looked a moment ago
    now[0] += 60
    assert queue.receive(1, 1, 30) == []


@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_the_watchdogs_thread_gets_rotated_keys_with_the_next_hand_over(server, file, client):
    sqs = connected(server, client)
    url = f"{server.url}/123456789012/q"
    way = rescue(sqs, url, "", "")
    assert way is not None
    way.hand_over()
    write(file, "NEW")
    server.valid = "NEW"
    assert sqs.queue(url).receive(1, 1, 30) == []  # any call of the hub's finds them
    way.hand_over()
    assert gevent.get_hub().threadpool.spawn(way.change_visibility, [("handle", 30)]).get() == [None]
    assert server.asked_by == ["OLD", "NEW", "NEW"]


def test_keys_that_only_the_watchdogs_thread_was_refused_are_found_by_the_hand_over(server, file):
    way = rescue(connected(server, "wire"), f"{server.url}/123456789012/q", "", "")
    assert way is not None
    way.hand_over()
    write(file, "NEW")
    server.valid = "NEW"
    with pytest.raises(AccessDenied):
        gevent.get_hub().threadpool.spawn(way.change_visibility, [("handle", 30)]).get()
    way.hand_over()
    assert gevent.get_hub().threadpool.spawn(way.change_visibility, [("handle", 30)]).get() == [None]
