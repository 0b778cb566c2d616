"""docs/deploy/README.md: its commands make the queues, its sums are right, its options are those of e2e.py."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import e2e
from tests.worker_process import ROOT, LocalQueues, local_sqs

PAGE = (ROOT / "docs/deploy/README.md").read_text()
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[number]


@pytest.fixture
def sqs(tmp_path: Path) -> Iterator[LocalQueues]:
    with local_sqs(tmp_path) as queues:
        yield queues


def made(sqs: LocalQueues) -> dict[str, Any]:
    """What a reader of the page now has, by SQS's own words."""
    shown: dict[str, Any] = {}
    for name in ("emails", "emails-dead"):
        attributes = sqs.sqs.get_queue_attributes(QueueUrl=sqs.url(name), AttributeNames=["All"])["Attributes"]
        wanted = ("VisibilityTimeout", "ReceiveMessageWaitTimeSeconds", "MessageRetentionPeriod")
        shown[name] = [int(attributes[key]) for key in wanted]
        if "RedrivePolicy" in attributes:
            shown[name].append(json.loads(attributes["RedrivePolicy"]))
    return shown


POLICY = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:emails-dead", "maxReceiveCount": 17}
EXPECTED = {"emails": [60, 20, 345_600, POLICY], "emails-dead": [30, 0, 1_209_600]}


@pytest.mark.slow
def test_the_queues_are_made_by_the_aws_commands_as_they_stand(sqs: LocalQueues) -> None:
    """By boto3, which takes the same arguments: the command line itself would bring a botocore of its own."""
    commands = [shlex.split(line) for line in block("sh").splitlines()]
    assert [command[:2] for command in commands] == [["aws", "sqs"]] * 3
    for _, _, operation, *options in commands:
        arguments = {}
        for name, value in zip(options[::2], options[1::2], strict=True):
            key = "".join(part.capitalize() for part in name.removeprefix("--").split("-"))
            arguments[key] = json.loads(value) if value.startswith("{") else value
        if "QueueUrl" in arguments:
            arguments["QueueUrl"] = sqs.url(arguments["QueueUrl"].rpartition("/")[2])
        if policy := arguments.get("Attributes", {}).get("RedrivePolicy"):
            ours = policy.replace("eu-west-1:123456789012", "us-east-1:000000000000")
            arguments["Attributes"]["RedrivePolicy"] = ours
        getattr(sqs.sqs, operation.replace("-", "_"))(**arguments)
    assert made(sqs) == EXPECTED


@pytest.mark.slow
def test_the_queues_are_made_by_the_code_as_it_stands(sqs: LocalQueues) -> None:
    environ = {"PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": sqs.endpoint, **KEYS}
    program = [sys.executable, "-c", block("python")]
    done = subprocess.run(program, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"{sqs.url('emails')}\n"
    assert made(sqs) == EXPECTED


@pytest.mark.parametrize(
    "row", re.findall(r"^\| ([^|]+) \| ([^|]+) \| (\d+\.\d\d) \|$", PAGE, re.MULTILINE), ids=lambda row: row[0][:40]
)
def test_each_sum_is_what_its_row_says(row: tuple[str, str, str]) -> None:
    what, sum_of, dollars = row
    assert re.fullmatch(r"[\d.x/+() e]+", sum_of), what
    assert f"{eval(sum_of.replace('x', '*')):.2f}" == dollars


def test_its_options_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    table = PAGE.partition("| option | what it does |")[2]
    named = re.findall(
        r"--[a-z][a-z-]+", "\n".join(line.split("|")[1] for line in table.splitlines() if line[:1] == "|")
    )
    with pytest.raises(SystemExit):
        e2e.main(["--help"])
    assert set(named) == set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
