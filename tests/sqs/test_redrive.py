"""Redrive policies, as SQS writes them and as nobody should."""

from __future__ import annotations

import pytest

from millpond.sqs.redrive import read_redrive

ARN = "arn:aws:sqs:eu-west-1:123456789012:dead.fifo"


@pytest.mark.parametrize(
    ("policy", "redrive"),
    [
        (f'{{"deadLetterTargetArn": "{ARN}", "maxReceiveCount": 5}}', ("123456789012", "dead.fifo", 5)),
        (f'{{"deadLetterTargetArn": "{ARN}", "maxReceiveCount": "5"}}', ("123456789012", "dead.fifo", 5)),
        (f'{{"deadLetterTargetArn": "{ARN}", "maxReceiveCount": 1000}}', ("123456789012", "dead.fifo", 1000)),
        (f'{{"deadLetterTargetArn": "{ARN}", "maxReceiveCount": 1001}}', ("123456789012", "dead.fifo", 0)),
        (f'{{"deadLetterTargetArn": "{ARN}", "maxReceiveCount": 0}}', ("123456789012", "dead.fifo", 0)),
        (f'{{"deadLetterTargetArn": "{ARN}", "maxReceiveCount": 2.5}}', ("123456789012", "dead.fifo", 0)),
        (f'{{"deadLetterTargetArn": "{ARN}", "maxReceiveCount": true}}', ("123456789012", "dead.fifo", 0)),
        (f'{{"deadLetterTargetArn": "{ARN}", "maxReceiveCount": {"9" * 5_000}}}', ("123456789012", "dead.fifo", 0)),
        (f'{{"deadLetterTargetArn": "{ARN}"}}', ("123456789012", "dead.fifo", 0)),
        ('{"maxReceiveCount": 5}', ("", "", 5)),
        ('{"deadLetterTargetArn": "dead", "maxReceiveCount": 5}', ("", "", 5)),
        ('{"deadLetterTargetArn": ["a:b:c"]}', ("", "", 0)),
        ('{"deadLetterTargetArn": null}', ("", "", 0)),
        ("[" * 10_000 + "]" * 10_000, ("", "", 0)),
        ('{"a": ' + "[" * 10_000 + "]" * 10_000 + "}", ("", "", 0)),
        ("\ud800", ("", "", 0)),
        ("", ("", "", 0)),
        ("nonsense", ("", "", 0)),
    ],
)
def test_a_redrive_policy_is_read_whatever_it_says(policy, redrive):
    read = read_redrive({"RedrivePolicy": policy})
    assert (read.account, read.name, read.max_receive_count) == redrive
    assert bool(read.nameless) is not bool(read.name)
    assert len(read.nameless) < 1_000


def test_a_queue_without_a_redrive_policy_has_none():
    assert read_redrive({}).nameless == "this queue has no dead-letter queue"
