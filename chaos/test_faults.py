"""The plan of faults: the same for a seed, all kinds in it, and none where there is to be none."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from chaos.faults import ANY, BATCH, BURST, RATES, RECEIVE, FaultPlan
from chaos.hits import BLOWS, hits
from chaos.verdicts import job, verdict


def kinds(plan: FaultPlan, operation: str, calls: int = 20_000) -> Counter[str]:
    faults = [plan.fault(operation, number) for number in range(calls)]
    return Counter(fault.kind for fault in faults if fault is not None)


def test_a_seed_decides_all() -> None:
    assert kinds(FaultPlan(5), "ReceiveMessage", 2_000) == kinds(FaultPlan(5), "ReceiveMessage", 2_000)
    assert kinds(FaultPlan(5), "ReceiveMessage", 2_000) != kinds(FaultPlan(6), "ReceiveMessage", 2_000)


def test_every_kind_comes_about_as_often_as_the_others() -> None:
    for operation, own in (("ReceiveMessage", RECEIVE), ("DeleteMessageBatch", BATCH)):
        found = kinds(FaultPlan(1), operation)
        share = 20_000 * RATES[operation] / len(ANY + own)
        assert set(found) == {*ANY, *own}
        assert all(0.5 * share < number < 2.6 * share for number in found.values()), found


def test_denials_come_in_bursts() -> None:
    plan = FaultPlan(1)
    denied = [
        number
        for number in range(20_000)
        if (fault := plan.fault("ReceiveMessage", number)) is not None and fault.kind == "denied"
    ]
    neighbours = sum(number + 1 in set(denied) for number in denied[:-1])
    assert neighbours >= len(denied) * (BURST - 1) / BURST * 0.8


def test_no_faults_for_a_scale_of_0_and_for_calls_that_a_boot_makes() -> None:
    assert not kinds(FaultPlan(1, scale=0.0), "ReceiveMessage", 1_000)
    assert not kinds(FaultPlan(1), "GetQueueAttributes", 1_000)


def test_blows_take_turns_and_stay_in_the_fleet() -> None:
    first = list(islice(hits(1, 3, 4.0), 30))
    assert Counter(hit.blow for hit in first) == dict.fromkeys(BLOWS, 10)
    assert {hit.place for hit in first} == {0, 1, 2}
    assert first == list(islice(hits(1, 3, 4.0), 30))


def test_failures_are_planned_for_first_attempts_and_verdicts_for_all() -> None:
    first, second = (Counter(verdict(1, n, attempt) for n in range(20_000)) for attempt in (1, 2))
    assert first.keys() == {"ok", "fail", "retry", "reject", "discard"}
    assert second.keys() == {"ok", "reject", "discard"}
    assert (second["reject"], second["discard"]) == (first["reject"], first["discard"])


def test_some_jobs_outlast_their_visibility() -> None:
    long = [n for n in range(20_000) if job(1, n, 10, 4).ms > 4_000]
    assert 10 < len(long) < 100
