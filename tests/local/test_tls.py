"""millpond.local over TLS: an SDK that is given the authority, and clients that speak something else."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from gevent import socket

from bench import certificate
from millpond.local import LocalSqs
from tests.local.processes import FIRST_LINE


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, server.pem and server.key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate.make(folder)
    return folder


@pytest.fixture
def server(authority: Path) -> Iterator[LocalSqs]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    server = LocalSqs(port=0, tls=context)
    server.start()
    yield server
    server.stop()


def create_queue(endpoint: str, authority: Path) -> str:
    """By boto3, with the authority alone trusted; the queue's URL."""
    client = boto3.client(
        "sqs",
        region_name="us-east-1",
        endpoint_url=endpoint,
        verify=str(authority / "ca.pem"),
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )
    try:
        return str(client.create_queue(QueueName="q")["QueueUrl"])
    finally:
        client.close()


def test_over_tls_queue_urls_are_https(server: LocalSqs, authority: Path) -> None:
    assert server.url.startswith("https://127.0.0.1:")
    assert create_queue(server.url, authority) == server.create_queue("q") == f"{server.url}/000000000000/q"


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["nothing", "plain HTTP"])
def test_a_client_that_speaks_no_tls_is_hung_up_on_without_a_word(
    server: LocalSqs, authority: Path, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = server.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # so it is where the server left bytes unread
            while client.recv(1_000):  # an alert of TLS may come
                pass
    assert create_queue(server.url, authority)
    assert capfd.readouterr().err == ""


def test_the_command_takes_a_certificate_and_a_key(authority: Path) -> None:
    files = ["--certificate", str(authority / "server.pem"), "--key", str(authority / "server.key")]
    with start(*files) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert FIRST_LINE.fullmatch(first.replace("https://", "http://"))
        url = first.split()[3]
        assert url.startswith("https://")
        assert create_queue(url, authority) == f"{url}/000000000000/q"
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("files", [["missing.pem"], ["server.pem"], ["server.pem", "--key", "ca.pem"]])
def test_files_that_make_no_certificate_are_one_line_and_exit_3(authority: Path, files: list[str]) -> None:
    with start("--certificate", *files, folder=authority) as process:
        out, error = process.communicate(timeout=10)
    assert (process.returncode, out) == (3, "")
    assert error.startswith(f"millpond.local: --certificate {files[0]} cannot be read: ")
    assert error.count("\n") == 1


def start(*arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
    root = Path(__file__).parent.parent.parent
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "millpond.local", "--port", "0", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
