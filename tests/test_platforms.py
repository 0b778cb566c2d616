"""One handler file, unchanged: the same 200 messages end the same by the worker and by a Lambda function.

(What is built as an image runs them too: see tests/platforms/messages.py.)
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.invocations import runtime_api
from tests.invocations.runtime_api import EventSourceMapping, Lambda
from tests.platforms import messages
from tests.platforms.messages import CONFIG, HANDLERS, MAX_RECEIVE_COUNT, NUMBER, SAMPLES, Story
from tests.worker_process import LocalQueues, WorkerProcess, local_sqs

pytestmark = pytest.mark.slow


class Run(NamedTuple):
    stories: dict[str, Story]
    letters: dict[int, tuple[str, str]]
    counts: tuple[int, int, int]


@pytest.fixture(scope="module")
def queues(tmp_path_factory):
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        yield queues


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "config.toml").write_text(CONFIG)
    shutil.copytree(HANDLERS, folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def until_over(queues: LocalQueues, name: str, process: WorkerProcess, ids: list[str]) -> None:
    end = time.monotonic() + 60
    while not messages.is_over(process.lines):
        assert process.running, process.output()
        assert time.monotonic() < end, messages.unexpected(messages.stories(process.lines, ids))
        time.sleep(0.02)


def seen_of(queues: LocalQueues, name: str, process: WorkerProcess, ids: list[str]) -> Run:
    stories = messages.stories(process.lines, ids)
    return Run(stories, messages.letters(queues, f"{name}-dead", ids), queues.counts(name))


@pytest.fixture(scope="module")
def by_worker(queues, project) -> Run:
    url, name = queues.create("worker", MAX_RECEIVE_COUNT), "worker"
    ids = messages.send(queues, name)
    environ = {**runtime_api.AWS, "SQS_QUEUE_URL": url}
    with WorkerProcess(project, "-c", "config.toml", **environ) as worker:
        until_over(queues, name, worker, ids)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.output()
        return seen_of(queues, name, worker, ids)


@pytest.fixture(scope="module")
def by_lambda(queues, project) -> Run:
    url, name = queues.create("lambda", MAX_RECEIVE_COUNT), "lambda"
    ids = messages.send(queues, name)
    with runtime_api.running() as api, Lambda(project, api, SQS_QUEUE_URL=url) as function:
        EventSourceMapping(queues, name, api).run_until_empty(60)
        until_over(queues, name, function, ids)
        return seen_of(queues, name, function, ids)


def test_there_are_200_messages_and_all_that_can_become_of_one():
    assert len(SAMPLES) == NUMBER == 200
    ends = {sample.story[-1].partition(" ")[0].partition(":")[0] for sample in SAMPLES}
    assert ends == {"succeeded", "discarded", "dead_lettered"}


def test_by_the_worker_each_message_ends_as_it_should(by_worker):
    assert messages.unexpected(by_worker.stories) == []


def test_by_lambda_each_message_ends_as_it_should(by_lambda):
    assert messages.unexpected(by_lambda.stories) == []


def test_both_end_the_same(by_worker, by_lambda):
    differing = {number for number, story in by_worker.stories.items() if by_lambda.stories[number] != story}
    assert [(by_worker.stories[number], by_lambda.stories[number]) for number in sorted(differing)] == []
    assert by_worker == by_lambda
    assert by_worker.counts == (0, 0, 0)


def test_the_body_of_a_dead_letter_is_as_it_was_sent(by_lambda):
    dead = {number for number, sample in enumerate(SAMPLES) if sample.story[-1].startswith("dead_lettered")}
    assert set(by_lambda.letters) == dead
    assert all(body == SAMPLES[number].body for number, (body, _) in by_lambda.letters.items())
