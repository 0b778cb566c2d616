"""deploy/terraform/ is what Terraform would take, and asks AWS for what docs/deploy/fargate.md promises."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from millpond import healthcheck
from millpond.app.config import RetrySettings, load
from millpond.app.redrive_advice import good_count
from tests.deploy.provider_schema import EXTRACT, used
from tests.deploy.terraform_check import as_list, encoded, findings, policies, wildcards
from tests.deploy.terraform_files import ROOT, STAGES, Stage, read, unquoted

APP = read(ROOT / "deploy/terraform/02-app")
REGISTRY = read(ROOT / "deploy/terraform/01-registry")
SDK = botocore.session.get_session()


def members(service: str, shape: str) -> set[str]:
    """The keys that an API takes in one of its objects."""
    return {*SDK.get_service_model(service).shape_for(shape).members}


@pytest.mark.parametrize("folder", STAGES, ids=lambda folder: folder.name)
def test_each_argument_is_known_and_each_reference_resolves(folder):
    assert findings(read(folder)) == []


def test_the_extract_of_the_schema_has_what_is_used_and_no_more():
    assert sorted(json.loads(EXTRACT.read_text())["types"]) == used()


# --- mistakes, each in a copy

MISTAKES = [
    (
        "queue.tf",
        "receive_wait_time_seconds  = 20",
        "receive_wait_seconds  = 20",
        "there is no argument receive_wait_seconds",
    ),
    ("queue.tf", "fifo_queue                 = var.fifo", 'fifo_queue = "maybe"', "fifo_queue is not a boolean"),
    ("queue.tf", "receive_wait_time_seconds  = 20", "url = 20", "url can only be read"),
    ("queue.tf", 'resource "aws_sqs_queue" "main"', 'resource "aws_sqs_queues" "main"', "there is no aws_sqs_queues"),
    (
        "queue.tf",
        "aws_sqs_queue.dead_letters.arn\n    max",
        "aws_sqs_queue.dead_letter.arn\n    max",
        "there is no aws_sqs_queue.dead_letter",
    ),
    ("queue.tf", "[aws_sqs_queue.main.arn]\n  })", "[aws_sqs_queue.main.url_arn]\n  })", "has no attribute url_arn"),
    (
        "queue.tf",
        "data.aws_iam_policy_document.main.json",
        "data.aws_iam_policy_document.man.json",
        "there is no data.aws_iam_policy_document.man",
    ),
    ("queue.tf", '"${var.name}-dead-letters', '"${var.nam}-dead-letters', "there is no var.nam"),
    ("queue.tf", "local.visibility_seconds", "local.visible_seconds", "there is no local.visible_seconds"),
    ("queue.tf", "max(var", "maximum(var", "there is no function maximum"),
    ("queue.tf", 'actions   = ["sqs:SendMessage"]', 'actions   = ["sqs:*"]', "the action sqs:* is a wildcard"),
    ("service.tf", "setting { #", "settings { #", "there is no argument settings"),
    ("service.tf", "    rollback = true\n", "", "deployment_circuit_breaker: rollback is missing"),
    ("service.tf", "  network_configuration {", "  network_configuration = {", "network_configuration is a block"),
    (
        "service.tf",
        "    enable   = true\n    rollback = true\n  }",
        "    enable   = true\n    rollback = true\n  }\n  alarms {\n  }\n  alarms {\n  }",
        "there can be one alarms only",
    ),
    ("service.tf", "aws_ecs_cluster.main[0].id", "aws_ecs_cluster.main.id", "aws_ecs_cluster.main is counted"),
    ("service.tf", "aws_iam_role.worker.arn", "aws_iam_role.worker[0].arn", "aws_iam_role.worker is not counted"),
    (
        "service.tf",
        'var.idempotency_table ? aws_dynamodb_table.claims[0].name : ""',
        "aws_dynamodb_table.claims[0].name",
        "is not always there",
    ),
    ("roles.tf", "    queue_arn       = aws_sqs_queue.main.arn\n", "", "worker.json needs queue_arn"),
    ("roles.tf", "/worker.json", "/workers.json", "there is no workers.json"),
    ("lambda.tf", "minimum_pollers =", "min_pollers =", "there is no argument min_pollers"),
    ("variables.tf", 'variable "cpu" {\n  type        = number', 'variable "cpu" {', "var.cpu needs a type"),
    ("variables.tf", 'variable "cpu"', 'variable "cpus"', "there is no var.cpu"),
    ("variables.tf", 'variable "cpu"', 'variable "cpus"', "var.cpus is not used"),
    ("../../policies/worker.json", '"sqs:ReceiveMessage"', '"sqs:*"', "the action sqs:* is a wildcard"),
    ("../../policies/worker.json", '"Resource": "${queue_arn}"', '"Resource": "*"', "on every resource"),
    ("../../policies/worker.json", "${dead_letter_arn}", "${dead_letters_arn}", "worker.json needs dead_letters_arn"),
]


@pytest.mark.parametrize(
    ("file", "right", "wrong", "finding"), MISTAKES, ids=[f"{one[0]}-{one[3]}" for one in MISTAKES]
)
def test_each_planted_mistake_is_found(tmp_path, file, right, wrong, finding):
    shutil.copytree(ROOT / "deploy/terraform/02-app", tmp_path / "terraform/02-app")
    shutil.copytree(ROOT / "deploy/policies", tmp_path / "policies")
    path = tmp_path / "terraform/02-app" / file
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    assert any(finding in found for found in findings(read(tmp_path / "terraform/02-app"))), finding


# --- what is asked for


def arguments(address: str, stage: Stage = APP) -> dict[str, Any]:
    return stage.block(address).arguments


def test_what_is_no_tls_is_denied_on_both_queues():
    for name in ("main", "dead_letters"):
        policy = arguments(f"aws_sqs_queue_policy.{name}")
        assert policy["policy"] == f"${{data.aws_iam_policy_document.{name}.json}}"
        [document] = policies(APP.block(f"data.aws_iam_policy_document.{name}"), APP)
        deny = document["Statement"][0]
        assert deny == {
            "Effect": "Deny",
            "Action": ["sqs:*"],
            "Resource": [f"${{aws_sqs_queue.{name}.arn}}"],
            "Condition": {"Bool": {"aws:SecureTransport": ["false"]}},
        }
        assert arguments(f"data.aws_iam_policy_document.{name}")["statement"][0]["principals"] == [
            {"type": '"*"', "identifiers": ['"*"']}
        ]


def test_dead_letters_stay_14_days_and_are_taken_from_the_queue_alone():
    dead = arguments("aws_sqs_queue.dead_letters")
    assert dead["message_retention_seconds"] == 14 * 86_400
    assert dead["max_message_size"] == arguments("aws_sqs_queue.main")["max_message_size"] == 1_048_576
    redrive = encoded(arguments("aws_sqs_queue.main")["redrive_policy"])
    assert {*redrive} == {"deadLetterTargetArn", "maxReceiveCount"}
    allowed = encoded(arguments("aws_sqs_queue_redrive_allow_policy.dead_letters")["redrive_allow_policy"])
    assert allowed == {"redrivePermission": '"byQueue"', "sourceQueueArns": ["${aws_sqs_queue.main.arn}"]}


def test_the_queues_are_encrypted_with_a_key_or_without():
    for name in ("main", "dead_letters"):
        queue = arguments(f"aws_sqs_queue.{name}")
        assert queue["sqs_managed_sse_enabled"] == '${var.kms_key_arn == "" ? true : null}'
        assert queue["kms_master_key_id"] == '${var.kms_key_arn == "" ? null : var.kms_key_arn}'


def test_the_most_receives_are_those_that_the_worker_asks_for():
    assert APP.block("var.max_receive_count").arguments["default"] == good_count(RetrySettings())


def test_each_alarm_calls_somebody():
    alarms = [block for block in APP.blocks if block.type == "aws_cloudwatch_metric_alarm"]
    assert {block.name for block in alarms} == {"dead_letters", "oldest_age", "no_receives"}
    for alarm in alarms:
        assert alarm.arguments["alarm_actions"] == ["${local.alarm_topic_arn}"]
    dead = arguments("aws_cloudwatch_metric_alarm.dead_letters")
    assert unquoted(dead["metric_name"]) == "ApproximateNumberOfMessagesVisible"
    assert (dead["threshold"], unquoted(dead["comparison_operator"])) == (0, "GreaterThanThreshold")
    assert dead["dimensions"] == {"QueueName": "${aws_sqs_queue.dead_letters.name}"}
    silent = arguments("aws_cloudwatch_metric_alarm.no_receives")
    assert unquoted(silent["treat_missing_data"]) == "breaching"


def container() -> dict[str, Any]:
    [found] = encoded(arguments("aws_ecs_task_definition.worker")["container_definitions"])
    return found


def test_the_container_has_keys_that_ecs_knows():
    found = container()
    assert {*found} <= members("ecs", "ContainerDefinition")
    assert {*found["healthCheck"]} <= members("ecs", "HealthCheck")
    assert {*found["logConfiguration"]} <= members("ecs", "LogConfiguration")
    assert {*found["linuxParameters"]} <= members("ecs", "LinuxParameters")


def test_the_container_is_stopped_in_time_and_may_write_nothing():
    found = container()
    assert [unquoted(word) for word in found["command"]] == ["python", "worker.py", "-c", "config.toml"]
    assert (found["stopTimeout"], found["readonlyRootFilesystem"], found["user"]) == (120, True, '"65532"')
    assert found["linuxParameters"] == {"capabilities": {"drop": ['"ALL"']}}
    assert [unquoted(word) for word in found["healthCheck"]["command"]] == [
        "CMD",
        "python",
        "-m",
        "millpond.healthcheck",
    ]
    assert APP.block("var.drain_seconds").arguments["default"] < found["stopTimeout"]


def test_ecs_gives_a_handler_that_computes_as_long_as_the_worker_does():
    check = container()["healthCheck"]
    # The first check can come as the handler begins; each next one an interval after the end of the one before it.
    stopped_after = check["interval"] * (check["retries"] - 1) + healthcheck.SECONDS * check["retries"]
    assert stopped_after > load(ROOT / "config.toml", {}).worker.max_block_seconds
    assert check["timeout"] > healthcheck.SECONDS


@pytest.mark.parametrize("address", ["aws_ecs_service.worker", "aws_lambda_function.worker"])
def test_what_runs_begins_once_its_role_has_all_its_rights(address):
    of_role = {block.address for block in APP.blocks if block.type == "aws_iam_role_policy"}
    if "lambda" in address:
        wanted = {one for one in of_role if ".execution" not in one and "task_protection" not in one}
    else:
        wanted = {one for one in of_role if ".lambda" not in one}
    assert wanted - {re.sub(r"[${}]", "", one) for one in APP.block(address).arguments["depends_on"]} == set()


def test_each_variable_of_the_container_is_one_of_config_toml():
    config = (ROOT / "config.toml").read_text()
    named = {*re.findall(r"^\s+([A-Z_]+) +=", (APP.folder / "service.tf").read_text(), re.MULTILINE)}
    assert len(named) >= 6
    assert {name for name in named if f"${{{name}:-" not in config} == set()


def test_the_service_rolls_back_and_runs_one_task_at_least():
    service = arguments("aws_ecs_service.worker")
    assert service["deployment_circuit_breaker"] == [{"enable": True, "rollback": True}]
    assert service["desired_count"] == "${var.min_tasks}"
    assert APP.block("var.min_tasks").arguments["validation"][0]["condition"] == "${var.min_tasks >= 1}"
    assert service["lifecycle"] == [{"ignore_changes": ["desired_count"]}]
    assert service["wait_for_steady_state"] is True


def test_nobody_can_call_a_task():
    assert "ingress" not in arguments("aws_security_group.worker")
    assert not [block for block in APP.blocks if "ingress" in block.type]


def test_the_scaling_divides_the_backlog_by_the_tasks():
    [configured] = arguments("aws_appautoscaling_policy.backlog_per_task")[
        "target_tracking_scaling_policy_configuration"
    ]
    metrics = configured["customized_metric_specification"][0]["metrics"]
    ids = {unquoted(metric["id"]) for metric in metrics}
    [formula] = [unquoted(metric["expression"]) for metric in metrics if "expression" in metric]
    assert {*re.findall(r"[a-z]\w*", formula)} <= ids
    assert [unquoted(metric["id"]) for metric in metrics if metric["return_data"]] == ["backlog"]


def test_lambda_reports_single_failures_and_has_time_for_six_tries():
    mapping = arguments("aws_lambda_event_source_mapping.queue")
    assert mapping["function_response_types"] == ['"ReportBatchItemFailures"']
    assert {name for one in mapping["dynamic"] for name in one} == {"scaling_config", "provisioned_poller_config"}
    text = (APP.folder / "queue.tf").read_text()
    assert "6 * var.lambda_timeout_seconds + var.lambda_batching_window_seconds" in text
    assert "max(var.visibility_seconds, local.lambda_visibility_seconds)" in text


def test_images_are_scanned_never_changed_and_cleared_away():
    images = arguments("aws_ecr_repository.images", REGISTRY)
    assert unquoted(images["image_tag_mutability"]) == "IMMUTABLE"
    assert images["image_scanning_configuration"] == [{"scan_on_push": True}]
    rules = encoded(arguments("aws_ecr_lifecycle_policy.images", REGISTRY)["policy"])["rules"]
    assert [rule["rulePriority"] for rule in rules] == [1, 2]


def test_each_exception_from_checkov_has_its_reason():
    text = "".join(path.read_text() for folder in STAGES for path in folder.glob("*.tf"))
    assert text.count("checkov:skip") >= 8
    assert len(re.findall(r"#checkov:skip=CKV_AWS_\d+:\S.{30,}", text)) == text.count("checkov:skip")


# --- policies

POLICIES = sorted((ROOT / "deploy/policies").glob("*.json"))


def actions(path: Path) -> set[str]:
    return {*re.findall(r'"([a-z0-9]+:[A-Z]\w+)"', path.read_text())}


#: Rights of S3 are not named as its calls are.
OWN_NAMES = {"s3:ListBucket"}
SERVICES = {"dynamodb": "dynamodb", "ecs": "ecs", "ecr": "ecr", "kms": "kms", "logs": "logs", "sqs": "sqs"}


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_each_action_of_a_policy_is_a_call_that_aws_knows(path):
    assert actions(path)
    for action in actions(path) - OWN_NAMES:
        service, _, call = action.partition(":")
        assert call in SDK.get_service_model(SERVICES.get(service, service)).operation_names, action


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_no_policy_allows_what_it_does_not_name(path):
    policy = json.loads(path.read_text())
    assert [*wildcards(policy)] == []
    for one in policy["Statement"]:
        assert {*one} <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in as_list(one["Sid"]))
