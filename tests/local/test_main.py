"""`python -m millpond.local`, as a process: what it prints, and how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.local.conftest import client_of
from tests.local.processes import first_line, local_process


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with local_process("--port", "0", "--queue", "jobs", "--queue", "other") as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_names_itself_and_its_queues_and_ends_in_order(process: subprocess.Popen[str], number: int) -> None:
    url = first_line(process)
    assert process.stdout is not None
    assert process.stderr is not None
    names = ["jobs", "jobs-dead", "other", "other-dead"]
    assert [process.stdout.readline() for _ in names] == [f"{url}/000000000000/{name}\n" for name in names]
    sqs = client_of(url)
    sqs.send_message(QueueUrl=f"{url}/000000000000/jobs", MessageBody="m")
    policy = sqs.get_queue_attributes(QueueUrl=f"{url}/000000000000/jobs", AttributeNames=["RedrivePolicy"])
    assert policy["Attributes"]["RedrivePolicy"] == (
        '{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:jobs-dead","maxReceiveCount":17}'
    )
    sqs.close()
    process.send_signal(number)
    assert process.wait(10) == 0
    assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_a_name_that_ends_with_fifo_makes_a_fifo_queue_and_its_dead_letter_queue() -> None:
    with local_process("--port", "0", "--queue", "orders.fifo") as process:
        url = first_line(process)
        assert process.stdout is not None
        names = ["orders.fifo", "orders-dead.fifo"]
        assert [process.stdout.readline() for _ in names] == [f"{url}/000000000000/{name}\n" for name in names]
        sqs = client_of(url)
        shown = [sqs.get_queue_attributes(QueueUrl=name, AttributeNames=["All"])["Attributes"] for name in names]
        sqs.close()
        process.terminate()
    assert [(each["FifoQueue"], each["ContentBasedDeduplication"]) for each in shown] == [("true", "false")] * 2
    assert shown[0]["RedrivePolicy"] == (
        '{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:orders-dead.fifo","maxReceiveCount":17}'
    )


def test_a_taken_port_is_one_line_and_exit_3(process: subprocess.Popen[str]) -> None:
    port = first_line(process).rpartition(":")[2]
    with local_process("--port", port) as second:
        out, error = second.communicate(timeout=10)
    assert (second.returncode, out) == (3, "")
    assert re.fullmatch(r"millpond\.local: cannot listen on 127\.0\.0\.1:\d+: .*in use.*--port.*\n", error)


def test_a_name_that_no_queue_can_have_is_one_line_and_exit_3() -> None:
    with local_process("--port", "0", "--queue", "no/name") as process:
        out, error = process.communicate(timeout=10)
    assert (process.returncode, out) == (3, "")
    assert re.fullmatch(r"millpond\.local: --queue: .*no/name.*\n", error)
    assert "no/name-dead" not in error


def test_without_a_queue_it_says_how_one_is_made() -> None:
    with local_process("--port", "0") as process:
        first_line(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "no queue yet: --queue NAME, or CreateQueue\n"
        process.kill()
