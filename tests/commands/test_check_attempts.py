"""What `check` and the boot say of attempts: how long they take, and where maxReceiveCount ends them too soon."""

import json
import logging
import shlex

import msgspec
import pytest

from millpond.app.config import RetrySettings, load
from millpond.app.redrive_advice import good_count, longest_policy, redrive_shortfall, set_count_command
from millpond.commands import check
from millpond.commands.check_queue import _fifo, check_queue
from millpond.commands.finding import Finding
from millpond.process.attribute_lookup import AttributeLookup
from millpond.sqs.redrive import read_redrive
from tests.commands.test_check import POLICY, REAL, route, with_policy

RETRY = RetrySettings()
ALL = "max_attempts = 7, in 35 to 70 minutes"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (3, f"ends what fails after 3 receives, in 40 to 80 seconds, and not after {ALL}"),
        (5, f"ends what fails after 5 receives, in 6.7 to 13 minutes, and not after {ALL}"),
        (7, "against max_attempts = 7: what is given back, as in a deploy, is a receive too, so a message may be a"),
    ],
)
def test_a_usual_max_receive_count_is_said_to_end_the_attempts_too_soon_and_a_command_mends_it(tmp_path, count, said):
    policy = POLICY | {"maxReceiveCount": count}
    (tmp_path / "config.toml").write_text(f'[queues.mails]\nurl = "{REAL}"')
    settings, sqs = load(tmp_path / "config.toml", {}), with_policy(**policy)
    [finding] = [one for one in check_queue("mails", settings, route(), sqs.connect) if one.command]
    assert finding.level == "warning"
    assert finding.text.startswith(f"maxReceiveCount = {count} {said}")
    assert finding.text.endswith(": set it to 17")
    *start, attributes = shlex.split(finding.command)
    aws = ["aws", "sqs", "set-queue-attributes", "--queue-url", REAL, "--region", "eu-west-1", "--attributes"]
    assert start == aws
    assert json.loads(json.loads(attributes)["RedrivePolicy"]) == POLICY | {"maxReceiveCount": "17"}


def test_the_commands_that_mend_stand_below_the_table_where_they_can_be_copied(monkeypatch, capsys):
    found = [Finding("warning", "queues.mails", "too few", "aws sqs mend 'this one'")]
    monkeypatch.setattr(check, "preflight", lambda settings, environ: found)
    check.run(None, {})
    assert "\nto mend it:\naws sqs mend 'this one'\n" in capsys.readouterr().out


def test_how_long_a_message_is_tried_is_said_for_all_types_and_for_each_that_has_its_own_schedule():
    own = {"quick": msgspec.structs.replace(route()["ok"], max_attempts=3, backoff=(5, 60))}
    once = {"once": msgspec.structs.replace(route()["ok"], max_attempts=1)}
    texts = [finding.text for finding in check._attempts(RetrySettings(), route() | own | once)]
    assert texts == [
        "a message that always fails is a dead letter after 7 attempts, in 35 to 70 minutes and what its handler takes",
        "one of type once after its first attempt, by its own settings",
        "one of type quick after 3 attempts, in 11 to 20 seconds and what its handler takes, by its own settings",
    ]


class Learner:
    """The consumer, as a lookup sees it."""

    name, has_dead_letters = "mails", True

    def learn(self, max_receive_count, max_bytes):
        self.max_receive_count = max_receive_count


@pytest.mark.parametrize(("count", "lines"), [(3, 1), (12, 1), (13, 0), (17, 0)])
def test_the_boot_says_once_what_max_receive_count_to_set_by_which_command(caplog, count, lines):
    sqs = with_policy(**POLICY | {"maxReceiveCount": count})
    sqs.url = REAL
    AttributeLookup(None, sqs, Learner(), RetrySettings()).learn()
    found = [record for record in caplog.records if record.event == "queue.few_receives"]
    assert len(found) == lines
    for record in found:
        assert record.levelno == logging.WARNING
        assert f": set it to 17, by: aws sqs set-queue-attributes --queue-url {REAL} " in record.getMessage()
        assert json.loads(shlex.split(record.getMessage())[-1])


@pytest.mark.parametrize("attempts", [1, 7, 989, 990, 995, 1_000, 5_000])
def test_what_is_advised_is_enough_and_no_more_than_sqs_takes(attempts):
    policy = RetrySettings(attempts, 20, 1_800)
    assert redrive_shortfall(min(1_000, attempts + 10), policy) == ""
    assert redrive_shortfall(min(1_000, attempts + 5) - 1, policy).endswith(f": set it to {min(1_000, attempts + 10)}")


@pytest.mark.parametrize("policy", ["", "[]", "nonsense", "[" * 100_000])
def test_no_command_is_made_of_a_policy_that_cannot_be_read(policy):
    assert set_count_command(REAL, read_redrive({"RedrivePolicy": policy}), 17) == ""


def test_a_queue_elsewhere_than_at_amazon_is_named_with_its_endpoint():
    policy = json.dumps(POLICY | {"maxReceiveCount": "3"})
    command = set_count_command("http://127.0.0.1:9324/000000000000/q", read_redrive({"RedrivePolicy": policy}), 17)
    assert " --endpoint-url http://127.0.0.1:9324 " in command
    assert "--region" not in command


def test_the_handler_with_the_most_attempts_decides_how_many_receives_are_good():
    routes = route() | {"long": msgspec.structs.replace(route()["ok"], max_attempts=12)}
    assert good_count(longest_policy(route(), RetrySettings())) == 17
    assert good_count(longest_policy(routes, RetrySettings())) == 22
    assert good_count(longest_policy({}, RetrySettings(3))) == 13
    slow = msgspec.structs.replace(route()["ok"], backoff=(30, 3_600))
    assert longest_policy(route() | {"slow": slow}, RETRY) == longest_policy({"slow": slow} | route(), RETRY)
    assert longest_policy(route() | {"slow": slow}, RETRY).max_seconds == 3_600


@pytest.mark.parametrize(
    ("attempts", "said"), [(None, "for 35 to 70 minutes: "), (3, "for 40 to 80 seconds: "), (1, "")]
)
def test_on_a_fifo_queue_it_is_said_for_how_long_a_message_that_fails_holds_up_its_group(attempts, said):
    texts = [finding.text for finding in _fifo("queues.mails", longest_policy(route(max_attempts=attempts), RETRY))]
    held = [text for text in texts if "holds up its group" in text]
    assert len(held) == (said != "")
    assert all(said in text for text in held)
