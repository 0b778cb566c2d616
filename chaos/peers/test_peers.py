"""The measure and the table of the comparison, and what the proxy reads of other programs' calls. Starts nothing."""

from __future__ import annotations

import base64
import json

from chaos.audit import Evidence, Letter, Stream
from chaos.fault_log import Injected
from chaos.faults import ANY, FaultPlan
from chaos.fleet import FleetEvent
from chaos.handles import ANY_ATTEMPT, Handles, number_of
from chaos.ledger import Run
from chaos.peers import table
from chaos.peers.findings import Row, row
from chaos.peers.programs import PROGRAMS, milliseconds
from chaos.peers.schedules import EXPERIMENTS, HIT_SECONDS, JITTER, timetable


def found(
    runs: dict[int, list[Run]],
    *,
    faults: list[Injected] | None = None,
    events: list[FleetEvent] | None = None,
    letters: list[Letter] | None = None,
    in_flight: int = 0,
    left: list[int] | None = None,
) -> Row:
    evidence = Evidence(
        sent=[Stream(0, max(runs, default=0) + 1)],
        runs=runs,
        faults=faults or [],
        events=events or [],
        letters=letters or [],
        in_flight=in_flight,
    )
    return row("tutorial", "all", 1, evidence, left or [], 1.0)


def ok(start: float, worker: str = "w0") -> Run:
    return Run(0, worker, start, start + 1.0, "ok")


def test_a_message_that_was_never_done_is_lost_unless_it_is_somewhere() -> None:
    assert found({0: []}).lost == 1
    assert found({0: []}, in_flight=1).lost == 0
    assert found({0: []}, in_flight=1).stranded == 1
    assert (found({0: []}, left=[0]).lost, found({0: []}, left=[0]).left) == (0, 1)
    assert found({0: []}, letters=[Letter(0, None)]).lost == 0


def test_what_is_done_twice_needs_a_cause() -> None:
    assert found({0: [ok(1.0), ok(5.0, "w1")]}).doubled_unexplained == 1
    reset = Injected(2.0, "reset after it was taken", "DeleteMessage", "w0", [(0, 0)])
    assert found({0: [ok(1.0), ok(5.0, "w1")]}, faults=[reset]).causes == {reset.kind: 1}
    killed = FleetEvent(2.0, "kill -9", "w0", 1)
    assert found({0: [ok(1.0), ok(5.0, "w1")]}, events=[killed]).doubled_explained == 1


def test_a_blow_to_any_earlier_worker_is_a_cause() -> None:
    stopped = FleetEvent(1.5, "SIGSTOP", "w0", 1, until=6.0)
    assert found({0: [ok(1.0), ok(5.0, "w1"), ok(7.0, "w2")]}, events=[stopped]).doubled_unexplained == 0


def test_a_worker_that_wakes_up_goes_on_with_what_it_had() -> None:
    stopped = FleetEvent(0.5, "SIGSTOP", "w1", 1, until=5.0)
    assert found({0: [ok(3.0), ok(5.1, "w1")]}, events=[stopped]).causes == {"SIGSTOP": 1}


def test_a_deploy_does_not_explain_half_a_job() -> None:
    half = Run(0, "w0", 1.0)
    told = found({0: [half, ok(5.0, "w1")]}, events=[FleetEvent(1.5, "SIGTERM storm", "w0", 1)])
    assert (told.cut_unexplained, told.doubled_unexplained) == (1, 0)


def test_dead_letters_that_nobody_asked_for() -> None:
    told = found({0: [ok(1.0)]}, letters=[Letter(0, None), Letter(0, "why")])
    assert (told.dead_never_asked, told.dead_asked, told.dead_repeated, told.dead_without_reason) == (1, 0, 1, 1)


def test_every_row_and_every_program_is_in_the_table() -> None:
    rows = [Row(program.name, "kill", 1, messages=1_234) for program in PROGRAMS]
    rows.append(Row("celery", "all", 1, failure="it did not start"))
    text = "\n".join(table.lines(rows, PROGRAMS, EXPERIMENTS))
    assert text.count("1,234") == len(PROGRAMS)
    assert "it did not start" in text
    assert all(f"{program.label}: visibility" in text for program in PROGRAMS)


def test_blows_come_by_a_timetable_however_long_they_take() -> None:
    clock = iter([100.0, 101.0, 130.0])
    (_, kill, *_) = EXPERIMENTS
    first, second = timetable(kill, 1, 3, 3 * HIT_SECONDS, lambda: next(clock))
    assert abs(first.after_seconds - (HIT_SECONDS - 1.0)) <= JITTER * HIT_SECONDS
    assert second.after_seconds == 0.0


def test_most_jobs_are_short_and_some_outlast_a_visibility() -> None:
    times = [milliseconds(1, n) for n in range(5_000)]
    assert sum(4_000 < ms < 6_500 for ms in times) == sum(ms > 500 for ms in times) > 0


def test_a_call_about_one_message_is_known_too() -> None:
    handles = Handles()
    body = base64.b64encode(b'{"kwargs":{"n":7,"ms":5}}').decode()
    handles.received(json.dumps({"Messages": [{"ReceiptHandle": "h", "Body": body}]}).encode())
    assert handles.asked(b'{"ReceiptHandle": "h"}') == [(7, 0)]
    assert handles.asked(json.dumps({"MessageBody": body}).encode()) == [(7, ANY_ATTEMPT)]
    handles.deleted(b'{"ReceiptHandle": "h"}')
    assert handles.asked(b'{"ReceiptHandle": "h"}') == []
    assert number_of("bm90aGluZw==") is None


def test_single_calls_suffer_what_batches_do_but_in_part() -> None:
    faults = [FaultPlan(1).fault("DeleteMessage", number) for number in range(20_000)]
    assert {fault.kind for fault in faults if fault} == set(ANY)
