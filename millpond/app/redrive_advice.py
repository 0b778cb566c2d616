"""Redrive advice: what maxReceiveCount and the attempts of the handlers give together, and what to set."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress

from millpond.app.config import RetrySettings
from millpond.app.retry_policy import Span, policy_of
from millpond.app.routing import Route
from millpond.sqs.limits import MAX_RECEIVES
from millpond.sqs.queue_url import place_of
from millpond.sqs.redrive import Redrive

#: How far maxReceiveCount should be above max_attempts: what is given back, in a deploy or while a server is down, is a
#: receive too. At the smaller one and below it is advised to set the larger one, with which the local queue is made.
LEAST_REDRIVE_MARGIN, GOOD_REDRIVE_MARGIN = 5, 10


def longest_policy(routes: Mapping[str, Route], retry: RetrySettings) -> RetrySettings:
    """The policy of the handler with the most attempts, over the longest time; [retry] where there is none."""
    policies = [policy_of(route, retry) for route in routes.values()]
    return max(policies, key=lambda policy: (policy.max_attempts, Span.of(policy)), default=retry)


def good_count(policy: RetrySettings) -> int:
    """The maxReceiveCount that leaves room for all attempts of a policy and for what is given back."""
    return min(MAX_RECEIVES, policy.max_attempts + GOOD_REDRIVE_MARGIN)


def redrive_shortfall(count: int, policy: RetrySettings) -> str:
    """What a maxReceiveCount cuts off, and what to set; "" where it leaves room enough."""
    attempts, better = policy.max_attempts, f"set it to {good_count(policy)}"
    if count > attempts + LEAST_REDRIVE_MARGIN or count >= good_count(policy):
        return ""
    if count == 1:
        lost = "one receive whose answer is lost, one worker that dies, and the message is a dead letter"
        return f"maxReceiveCount = 1: {lost}: {better}"
    if count < attempts:
        text = f"maxReceiveCount = {count} ends what fails after {count} receives, in {Span.of(policy, count)}"
        return f"{text}, and not after max_attempts = {attempts}, in {Span.of(policy)}: {better}"
    text = f"maxReceiveCount = {count} against max_attempts = {attempts}: what is given back, as in a deploy, is a"
    return f"{text} receive too, so a message may be a dead letter before its last attempt: {better}"


def set_count_command(url: str, redrive: Redrive, count: int) -> str:
    """The shell command that sets maxReceiveCount of a queue; "" where its policy cannot be read."""
    fields = None
    with suppress(ValueError, RecursionError):
        fields = json.loads(redrive.policy)
    if not isinstance(fields, dict):
        return ""
    place = place_of(url)
    options = ["--queue-url", url, *(["--region", place.region] if place.region else [])]
    if not place.aws:
        options += ["--endpoint-url", place.endpoint_url]
    attributes = json.dumps({"RedrivePolicy": json.dumps({**fields, "maxReceiveCount": str(count)})})
    return shlex.join(["aws", "sqs", "set-queue-attributes", *options, "--attributes", attributes])
