"""docs/security.md and docs/deploy/fargate.md say what deploy/ does."""

from __future__ import annotations

import json
import re

import pytest

from tests.deploy.terraform_check import as_list, template_calls
from tests.deploy.terraform_files import ROOT, read
from tests.deploy.test_terraform import MISTAKES

PAGE = (ROOT / "docs/security.md").read_text()
FARGATE = (ROOT / "docs/deploy/fargate.md").read_text()
APP = read(ROOT / "deploy/terraform/02-app")
POLICIES = ROOT / "deploy/policies"


@pytest.mark.parametrize("name", ["worker", "producer", "operator"])
def test_the_page_shows_the_policy_as_it_is(name):
    part = PAGE.partition(f"`deploy/policies/{name}.json`\n")[2]
    assert (
        re.findall(r"^```json\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)[0]
        == (POLICIES / f"{name}.json").read_text()
    )


def test_each_policy_of_a_feature_is_in_the_table_with_its_actions():
    rows = re.findall(r"^\| `deploy/policies/([\w-]+\.json)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    listed = {name: ({*re.findall(r"`(\S+)`", actions)}, {*re.findall(r"`(\S+)`", on)}) for name, actions, on in rows}
    of_worker = {path.name for path in POLICIES.glob("worker-*.json")} | {"secret-keys.json"}
    assert {*listed} == of_worker
    for name, (actions, resources) in listed.items():
        statements = json.loads((POLICIES / name).read_text())["Statement"]
        allowed = {part: {one for each in statements for one in as_list(each[part])} for part in ("Action", "Resource")}
        assert (actions, resources) == (allowed["Action"], allowed["Resource"]), name


def test_each_policy_but_the_operators_is_one_that_terraform_takes():
    taken = {name for block in APP.blocks for name, _ in template_calls(block.arguments)}
    assert taken == {path.name for path in POLICIES.glob("*.json")} - {"operator.json"}


def test_what_the_end_to_end_test_calls_is_allowed_to_an_operator():
    text = (ROOT / "deploy/e2e.py").read_text()
    called = {*re.findall(r'self\._(sqs|logs|ecs)\.(?:get_paginator\(")?(\w+)', text)}
    rights = {f"{service}:{name.title().replace('_', '').removesuffix('Batch')}" for service, name in called}
    assert len(rights) >= 6
    assert rights <= {*re.findall(r'"(\w+:\w+)"', (POLICIES / "operator.json").read_text())}


def test_the_page_gives_the_cost_that_terraform_computes():
    costs = {name: value for name, value in APP.locals.items() if name.endswith(("_hour", "_month")) or name == "hours"}
    numbers = {name: [float(one) for one in re.findall(r"\d+\.?\d*", str(costs[name]))] for name in costs}
    cpu, gib, address = (numbers[name] for name in ("cpu_hour", "gib_hour", "address_hour"))
    # X86 stands behind the colon of the condition, and the public address before it.
    task = numbers["hours"][0] * (0.25 * cpu[-1] + 0.5 * gib[-1] + address[0])
    scaling = 0.8 + 9
    for figure in (task + scaling, 4 * task + scaling, task + 0.4):
        assert f"${figure:.2f}" in FARGATE, figure
    assert "about 30 metrics" in (APP.folder / "costs.tf").read_text()


def test_the_page_gives_the_defaults_of_the_variables():
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", FARGATE.partition("## Variables")[2], re.MULTILINE)
    assert len(rows) >= 10
    for names, defaults in rows:
        found = [APP.block(f"var.{name}").arguments["default"] for name in re.findall(r"`(\w+)`", names)]
        if all(isinstance(value, bool | int) for value in found):
            assert [str(value).lower() for value in found] == defaults.replace("`", "").split(", "), names


def test_the_page_says_how_many_mistakes_were_planted():
    assert f"plant {len(MISTAKES)} mistakes" in " ".join(FARGATE.split())
    assert "was never run against AWS" in FARGATE
