"""The arithmetic of docs/scaling.md is its formula's, and its JSON is what AWS takes. To write the table anew:
python -m tests.test_scaling"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.model
import botocore.validate

from millpond.observe.metric_table import METRICS
from millpond.process.depths import DEPTH_SECONDS
from millpond.process.gauges import DOLLARS_A_MILLION_CALLS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/scaling.md"
BEGIN, END = "|---|---|---|---|---|---|---|\n", "<!-- end -->"

#: Calls a message: to send, and to consume.
LEAST_CALLS, MOST_CALLS = 0.1 + 0.2, 1 + 2
#: Long polls of 20 s that come back empty, and a call a minute for a queue and one for its dead letters.
IDLE_CALLS_A_DAY = 86_400 / 20 + 2 * 86_400 / DEPTH_SECONDS
MAIL_CPU_SECONDS, MAIL_SECONDS, SLOTS, FILLED = 103e-6, 0.2, 100, 0.8


def table() -> str:
    """The table's rows, by the formula above it."""
    return "".join(_row(10**power) for power in (0, 3, 5, 6, 7, 8, 9))


def _row(messages: int) -> str:
    rate = messages / 86_400
    cores, slots = rate * MAIL_CPU_SECONDS, rate * MAIL_SECONDS
    workers = max(1, math.ceil(slots / SLOTS / FILLED), math.ceil(cores / FILLED))
    calls = [round(messages * each + IDLE_CALLS_A_DAY * workers) for each in (LEAST_CALLS, MOST_CALLS)]
    dollars = [number * 30 / 1e6 * DOLLARS_A_MILLION_CALLS for number in calls]
    cells = [
        f"{messages:,}",
        f"{rate:,.0f}" if rate >= 10 else f"{rate:.3g}",
        " to ".join(f"{number:,}" for number in calls),
        " to ".join(f"{number:,.2f}" if number < 100 else f"{number:,.0f}" for number in dollars),
        f"{cores:.3g}" if cores >= 0.001 else "0.00",
        f"{math.ceil(slots):,}",
        f"{workers}",
    ]
    return f"| {' | '.join(cells)} |\n"


def test_the_table_is_what_its_formula_gives():
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == table(), (
        "write it anew: python -m tests.test_scaling"
    )


def test_the_dollars_of_each_measured_way_are_its_calls_by_the_price_of_the_code():
    rows = re.findall(r"\| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|", PAGE.read_text())
    assert len(rows) == 5
    for messages, calls, each, dollars in rows:
        exact = int(calls.replace(",", "")) / int(messages.replace(",", ""))
        assert (each, dollars) == (f"{exact:.2f}", f"{exact * DOLLARS_A_MILLION_CALLS:.2f}")


def test_the_scaling_policies_are_what_aws_takes():
    texts = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    policy, own_metric = (json.loads(text) for text in texts)
    assert _faults(policy) == ""
    configuration = policy["TargetTrackingScalingPolicyConfiguration"]
    terraform = (ROOT / "deploy/terraform/02-app/service.tf").read_text()
    assert configuration["CustomizedMetricSpecification"]["Metrics"][0]["Expression"] in terraform
    configuration["CustomizedMetricSpecification"] = own_metric
    assert _faults(policy) == ""
    assert own_metric["MetricName"] in METRICS


def _faults(policy: dict[str, Any]) -> str:
    description = botocore.loaders.Loader().load_service_model("application-autoscaling", "service-2")
    shape = botocore.model.ServiceModel(description).operation_model("PutScalingPolicy").input_shape
    return botocore.validate.ParamValidator().validate(policy, shape).generate_report()


if __name__ == "__main__":
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + begin + table() + END + rest.partition(END)[2])
