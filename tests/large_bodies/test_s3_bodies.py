"""S3Bodies: by moto's S3 over real sockets, and by servers that answer badly."""

from __future__ import annotations

import gc
import json
import os
import threading
import warnings
from collections.abc import Iterator

import boto3
import pytest

from millpond.app.config import load
from millpond.commands.check_bodies import check_bodies
from millpond.errors import ConfigError, MillpondError
from millpond.large_bodies import s3_bodies
from millpond.large_bodies.body_store import BodyDenied, BodyGone, BodyStoreError, BodyUnreadable
from millpond.large_bodies.s3_bodies import S3Bodies
from tests.dynamo_server import KEYS, listen
from tests.http_server import HANG_UP, Server
from tests.worker_process import WorkerProcess, local_sqs, write_project

BUCKET = "large-bodies"
CLASS = "software.amazon.payloadoffloading.PayloadS3Pointer"


class Stop(MillpondError):
    pass


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server, _ = listen()
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client("s3", endpoint_url=url, **KEYS)
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="a b/ü+%", Body=b"x" * 100_000)
    client.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example-key-0000000000")
    monkeypatch.setattr(s3_bodies, "BODY_ATTEMPTS", 1)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def bodies_at(url: str) -> S3Bodies:
    return S3Bodies("eu-west-1", url, 4)


def ignore(size: int) -> None:
    pass


def test_a_body_comes_as_it_was_put_and_its_size_before_it(s3):
    sizes: list[int] = []
    bodies = bodies_at(s3)
    assert bodies.get(BUCKET, "a b/ü+%", sizes.append) == b"x" * 100_000
    assert bodies.get(BUCKET, "empty", sizes.append) == b""
    assert sizes == [100_000, 0]


def test_it_is_found_by_the_settings_of_the_sdk_too(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
    assert S3Bodies("", "", 1).get(BUCKET, "empty", ignore) == b""


def test_what_take_raises_comes_out_and_nothing_is_read(server):
    server.script.append([b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 1_000])

    def take(size: int) -> None:
        raise Stop(size)

    bodies = bodies_at(server.url)
    with pytest.raises(Stop, match="1000000000") as caught:
        bodies.get(BUCKET, "a", take)
    assert caught.traceback  # so nothing is closed for want of a reference
    server.wait_until_open(0)  # the connection is not kept: its body would come over it


def test_an_answer_for_which_there_is_no_memory_may_come_later(s3, monkeypatch):
    bodies = bodies_at(s3)

    def fail(**_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(bodies._client, "get_object", fail)
    with pytest.raises(BodyStoreError, match="MemoryError"):
        bodies.get(BUCKET, "a", ignore)


def test_a_body_is_deleted_and_one_that_is_not_there_is_no_error(s3):
    client = boto3.client("s3", endpoint_url=s3, **KEYS)
    client.put_object(Bucket=BUCKET, Key="done", Body=b"x")
    bodies = bodies_at(s3)
    bodies.remove(BUCKET, "done")
    bodies.remove(BUCKET, "done")
    with pytest.raises(BodyGone):
        bodies.get(BUCKET, "done", ignore)


def test_a_bucket_that_is_not_there_is_said_and_may_come(s3):
    with pytest.raises(BodyStoreError, match="the bucket nowhere is not there in eu-west-1: create it, or correct"):
        bodies_at(s3).get("nowhere", "a", ignore)


def s3_error(status: bytes, code: str, message: str = "so") -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return b"HTTP/1.1 %b\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (s3_error(b"404 Not Found", "NoSuchKey"), BodyGone, "so"),
        (
            s3_error(b"403 Forbidden", "AccessDenied", "not authorized"),
            BodyDenied,
            "S3 refuses s3:GetObject on large-bodies: give the worker's role this right (not authorized)",
        ),
        (
            s3_error(b"403 Forbidden", "InvalidObjectState", "not valid for its storage class"),
            BodyUnreadable,
            "S3 cannot give it as it is kept (InvalidObjectState: not valid for its storage class)",
        ),
        (s3_error(b"400 Bad Request", "KeyTooLongError"), BodyUnreadable, "S3 cannot give it"),
        (
            s3_error(b"400 Bad Request", "InvalidRequest", "stored with another key"),
            BodyDenied,
            "S3 refuses s3:GetObject on large-bodies: InvalidRequest: stored with another key",
        ),
        (s3_error(b"403 Forbidden", "SignatureDoesNotMatch"), BodyDenied, "S3 refuses s3:GetObject"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", BodyDenied, "S3 refuses s3:GetObject"),
        (
            s3_error(b"503 Slow Down", "SlowDown"),
            BodyStoreError,
            "S3 failed s3:GetObject on large-bodies: SlowDown: so",
        ),
        (s3_error(b"500 Oh", "InternalError"), BodyStoreError, "S3 failed s3:GetObject on large-bodies: InternalError"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", BodyStoreError, "S3 failed s3:GetObject"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", BodyStoreError, "S3 failed s3:GetObject"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
            BodyStoreError,
            "IncompleteReadError: 5 read, but total bytes expected is 100",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", BodyStoreError, ""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            BodyStoreError,
            "does not say how large the body is: is that S3?",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            BodyStoreError,
            "",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx-amz-checksum-crc32: AAAAAA==\r\n\r\nabc",
            BodyStoreError,
            "hecksum",
        ),
        (b"garbage\r\n\r\n", BodyStoreError, "S3 cannot be reached for large-bodies"),
        (HANG_UP, BodyStoreError, "S3 cannot be reached for large-bodies (s3:GetObject)"),
    ],
)
def test_each_bad_answer_is_one_of_four_errors(server, answer, kind, text):
    ends = answer is HANG_UP or b"short" in answer or b"garbage" in answer
    server.script.append([answer, HANG_UP] if ends and answer is not HANG_UP else [answer])
    with pytest.raises((BodyGone, BodyUnreadable, BodyStoreError)) as caught:
        bodies_at(server.url).get(BUCKET, "a", ignore)
    found, said = type(caught.value), str(caught.value)
    del caught
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # urllib3 leaves the connection of an answer whose length is no number to the collector
    assert found is kind
    assert text in said


def test_a_delete_of_a_body_that_is_gone_is_no_error_and_any_other_answer_is_one_that_the_remover_knows(server):
    server.script.append([s3_error(b"404 Not Found", "NoSuchKey")])  # Google's S3 says so
    bodies_at(server.url).remove(BUCKET, "a")
    server.script.append([s3_error(b"403 Forbidden", "InvalidObjectState", "not valid for its storage class")])
    with pytest.raises(BodyStoreError, match="InvalidObjectState: not valid"):
        bodies_at(server.url).remove(BUCKET, "a")


@pytest.mark.clock
def test_a_server_that_never_answers_or_trickles_is_given_up_in_time(server, monkeypatch):
    monkeypatch.setattr(s3_bodies, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(s3_bodies, "REMOVE_SECONDS", 0.2)
    server.answers_from = 10
    bodies = bodies_at(server.url)
    with pytest.raises(BodyStoreError, match=r"S3 has not answered for large-bodies in 0.2 s \(s3:GetObject\)"):
        bodies.get(BUCKET, "a", ignore)
    with pytest.raises(BodyStoreError, match=r"S3 has not answered for large-bodies in 0.2 s \(s3:DeleteObject\)"):
        bodies.remove(BUCKET, "a")


def test_keys_that_were_rotated_are_found_at_the_first_refusal(server, monkeypatch, tmp_path):
    file = tmp_path / "credentials"
    text = "[default]\naws_access_key_id = AKIA{}\naws_secret_access_key = example-key-0000000000\n"
    file.write_text(text.format("OLD"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr("millpond.sqs.credentials.needs_no_credentials", lambda url: False)
    bodies = bodies_at(server.url)
    server.script.append(
        [lambda: file.write_text(text.format("NEW")), s3_error(b"403 Forbidden", "InvalidAccessKeyId")]
    )
    server.script.append([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"])
    assert bodies.get(BUCKET, "a", ignore) == b"abc"
    assert [b"AKIANEW" in request for request in server.requests] == [False, True]


def test_without_credentials_it_waits_as_for_s3(server, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setattr("millpond.sqs.credentials.needs_no_credentials", lambda url: False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(BodyStoreError, match="S3 cannot be asked for large-bodies: no credentials"):
        bodies_at(server.url).get(BUCKET, "a", ignore)


def test_without_a_region_the_boot_ends():
    with pytest.raises(ConfigError, match=r"\[large_bodies\] region: it is not known where the buckets are"):
        S3Bodies("", "", 1)


# --- check


def checked(tmp_path, url: str, *buckets: str) -> list[tuple[str, str]]:
    path = tmp_path / "config.toml"
    path.write_text(
        '[queues.q]\nurl = "local"\n'
        f'[large_bodies]\nbuckets = {json.dumps(buckets)}\nendpoint_url = "{url}"\nregion = "eu-west-1"\n'
    )
    return [(one.level, one.text) for one in check_bodies(load(path, {}))]


def test_check_looks_at_each_bucket(s3, server, tmp_path):
    assert checked(tmp_path, s3) == []
    assert checked(tmp_path, s3, BUCKET, "", "nowhere") == [
        ("ok", "bodies in large-bodies can be read"),
        (
            "error",
            "the bucket nowhere is not there in eu-west-1: create it, or correct [large_bodies] region (NoSuchBucket)",
        ),
    ]
    server.script.append(s3_error(b"403 Forbidden", "AccessDenied", "not authorized"))
    [(level, text)] = checked(tmp_path, server.url, BUCKET)
    assert level == "warning"
    assert text.startswith(
        "S3 refuses s3:GetObject on large-bodies: give the worker's role this right (not authorized);"
    )


@pytest.mark.parametrize("bucket", ["ab", "a b", "a/b", "s3://large-bodies", 'x" "'])
def test_what_is_no_bucket_is_a_finding(tmp_path, bucket):
    with pytest.raises(ConfigError, match="a list of buckets"):
        checked(tmp_path, "http://127.0.0.1:9", bucket)


HANDLERS = """
from millpond import Reject, handler

@handler("job")
def job(payload: dict) -> None:
    if payload["n"] == 2:
        raise Reject("never")
    print("worked on", len(payload["text"]))
"""


def worker_config(url: str, s3: str) -> str:
    return f"""
[worker]
handlers = ["jobs"]
[queues.q]
url = "{url}"
wait_seconds = 1
[large_bodies]
buckets = ["{BUCKET}"]
endpoint_url = "{s3}"
delete_after_success = true
"""


@pytest.mark.slow
def test_a_worker_reads_bodies_in_s3_and_deletes_them_after_their_messages(s3, tmp_path):
    client = boto3.client("s3", endpoint_url=s3, **KEYS)
    with local_sqs(tmp_path) as queues:
        url = queues.create("q")
        for n in range(4):
            body = {"event_type": "job", "event_id": f"e{n}", "payload": {"n": n, "text": "x" * 1_100_000}}
            client.put_object(Bucket=BUCKET, Key=f"worker/{n}", Body=json.dumps(body).encode())
            pointer = [CLASS, {"s3BucketName": BUCKET, "s3Key": f"worker/{n}"}]
            size = {"DataType": "Number", "StringValue": "1100060"}
            queues.sqs.send_message(
                QueueUrl=url, MessageBody=json.dumps(pointer), MessageAttributes={"ExtendedPayloadSize": size}
            )
        queues.sqs.send_message(QueueUrl=url, MessageBody=json.dumps([CLASS, {"s3BucketName": "x", "s3Key": "y"}]))
        folder = write_project(tmp_path / "p", HANDLERS, worker_config(url, s3))
        with WorkerProcess(folder, "--until-empty", AWS_REGION="us-east-1") as worker:
            assert worker.exit_code() == 1  # some are dead letters
            done = sorted(line["event_id"] for line in worker.all("message.succeeded"))
            assert done == ["e0", "e1", "e3"]
        letters = [json.loads(letter["Body"])[1]["s3Key"] for letter in queues.receive("q-dead", 1)]
        assert sorted(letters) == ["worker/2", "y"]
    left = client.list_objects_v2(Bucket=BUCKET, Prefix="worker/")
    assert [one["Key"] for one in left["Contents"]] == ["worker/2"]  # its dead letter leads to it


FUNCTION = """
import gc
import json
from pathlib import Path
from millpond.lambda_ import entry

class Context:
    aws_request_id = "1"
    def get_remaining_time_in_millis(self):
        return 20_000

print(json.dumps(entry("config.toml")(json.loads(Path("event.json").read_text()), Context())))
"""


@pytest.mark.slow
def test_a_lambda_function_deletes_a_body_after_its_message(s3, tmp_path):
    client = boto3.client("s3", endpoint_url=s3, **KEYS)
    body = {"event_type": "job", "payload": {"n": 1, "text": "x"}}
    client.put_object(Bucket=BUCKET, Key="function", Body=json.dumps(body).encode())
    with local_sqs(tmp_path) as queues:
        url = queues.create("q")
        for key in ("function", "gone"):
            pointer = json.dumps([CLASS, {"s3BucketName": BUCKET, "s3Key": key}])
            queues.sqs.send_message(QueueUrl=url, MessageBody=pointer)
        records = [
            {"messageId": one["MessageId"], "receiptHandle": one["ReceiptHandle"], "body": one["Body"]}
            for one in queues.receive("q", 1)
        ]
        folder = write_project(tmp_path / "p", HANDLERS, worker_config(url, s3))
        (folder / "event.json").write_text(json.dumps({"Records": records}))
        with WorkerProcess(folder, program=("-c", FUNCTION), AWS_REGION="us-east-1") as function:
            assert function.exit_code() == 0
            assert "worked on 1" in function.output()
            assert '{"batchItemFailures": []}' in [line["message"] for line in function.lines]
        [letter] = queues.receive("q-dead", 1)
        assert queues.counts("q")[1] == 1  # the other one is Lambda's to delete
    assert json.loads(letter["Body"])[1]["s3Key"] == "gone"
    assert client.list_objects_v2(Bucket=BUCKET, Prefix="function")["KeyCount"] == 0
