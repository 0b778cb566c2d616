"""The audit can fail: made-up ledgers, each with one thing wrong, and its twin with the cause that excuses it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from chaos import ledger
from chaos.audit import Audit, Evidence, Letter, Stream, audit
from chaos.fault_log import Injected
from chaos.fleet import FleetEvent
from chaos.handles import ANY_ATTEMPT
from chaos.verdicts import REASON

ONCE = ["7 1 start a 10.0", "7 1 ok a 10.5"]
TWICE = [*ONCE, "7 2 start b 14.0", "7 2 ok b 14.5"]
DELETE = "DeleteMessageBatch"


def audited(
    lines: Sequence[str],
    faults: Sequence[Injected] = (),
    events: Sequence[FleetEvent] = (),
    letters: Sequence[Letter] = (),
    sent: Stream = Stream(7, 1),  # noqa: B008  frozen
    visible: int = 0,
    in_flight: int = 0,
) -> Audit:
    return audit(Evidence([sent], ledger.read(lines), faults, events, letters, visible, in_flight))


def violations(found: Audit) -> dict[str, int]:
    return {kind: len(texts) for kind, texts in found.violations.items() if texts}


def fault(moment: float, n: int = 7, attempt: int = 1, kind: str = "slow") -> Injected:
    return Injected(moment, kind, DELETE, "a", [(n, attempt)])


def test_a_message_that_ended_once_is_all_that_is_wanted() -> None:
    found = audited(ONCE)
    assert found.passes
    assert (found.messages, found.finished, found.runs) == (1, 1, 1)


REJECTED = ["7 1 start a 10.0", "7 1 reject a 10.5", "7 2 start b 14.0", "7 2 reject b 14.5"]


@pytest.mark.parametrize(
    ("moment", "worker", "operation", "explained"),
    [
        (10.6, "a", "SendMessageBatch", True),  # about another message: its worker could dead-letter none then
        (10.6, "b", "SendMessageBatch", False),
        (10.6, "a", DELETE, False),
        (14.1, "a", "SendMessageBatch", False),  # it ran again before that
    ],
)
def test_a_rejection_comes_again_where_its_worker_could_write_no_dead_letter(
    moment: float, worker: str, operation: str, explained: bool
) -> None:
    letters = [Letter(7, REASON)]
    found = audited(REJECTED, [Injected(moment, "denied", operation, worker, [(8, 1)])], letters=letters)
    assert violations(found) == ({} if explained else {"duplicates unexplained": 1})


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["7 1 start a 10.0"],
        ["7 1 start a 10.0", "7 1 cut a 10.5"],
        ["7 1 start a 10.0", "7 1 fail a 10.5"],
        ["7 1 start a 10.0", "7 1 retry a 10.5"],
        ["7 1 start a 10.0", "7 1 reject a 10.5"],
    ],
)
def test_a_message_that_never_ended_well_is_lost(lines: list[str]) -> None:
    assert violations(audited(lines)) == {"lost": 1}


def test_a_rejected_message_is_found_again_as_a_dead_letter() -> None:
    lines = ["7 1 start a 10.0", "7 1 reject a 10.5"]
    assert audited(lines, letters=[Letter(7, "planned")]).passes


def test_a_dead_letter_that_nobody_planned_is_found() -> None:
    assert violations(audited(ONCE, letters=[Letter(7, "every attempt failed")])) == {
        "dead letters unplanned": 1,
        "dead letters repeated": 1,
    }


def test_a_dead_letter_has_its_reason() -> None:
    lines = ["7 1 start a 10.0", "7 1 reject a 10.5"]
    assert violations(audited(lines, letters=[Letter(7, None)])) == {"dead letters without a reason": 1}


def test_two_dead_letters_of_one_rejection_need_a_send_that_suffered() -> None:
    lines = ["7 1 start a 10.0", "7 1 reject a 10.5"]
    letters = [Letter(7, "planned")] * 2
    assert violations(audited(lines, letters=letters)) == {"dead letters repeated": 1}
    assert audited(lines, [fault(10.6, attempt=ANY_ATTEMPT)], letters=letters).passes


def test_a_second_end_without_a_cause_is_unexplained() -> None:
    assert violations(audited(TWICE)) == {"duplicates unexplained": 1}


def test_a_fault_on_the_very_receive_explains_a_second_end() -> None:
    found = audited(TWICE, [fault(10.6)])
    assert found.passes
    assert found.duplicates == {"slow": 1}


@pytest.mark.parametrize(
    "other",
    [
        fault(10.6, n=8),  # another message
        fault(10.6, attempt=2),  # the receive that came of it
        fault(14.1),  # too late
    ],
)
def test_no_other_fault_explains_it(other: Injected) -> None:
    assert violations(audited(TWICE, [other])) == {"duplicates unexplained": 1}


def test_a_kill_of_its_worker_explains_it() -> None:
    found = audited(TWICE, events=[FleetEvent(10.6, "kill -9", "a", 1)])
    assert found.duplicates == {"kill -9": 1}


@pytest.mark.parametrize(
    "event",
    [
        FleetEvent(10.6, "kill -9", "b", 1),  # another worker
        FleetEvent(9.9, "kill -9", "a", 1),  # too early
        FleetEvent(14.1, "kill -9", "a", 1),  # too late
        FleetEvent(10.6, "SIGTERM storm", "a", 1),  # a drain settles what has ended
        FleetEvent(10.6, "SIGTERM", "a", 1),
        FleetEvent(4.0, "SIGSTOP", "a", 1, until=7.0),  # long over
        FleetEvent(14.1, "SIGSTOP", "a", 1, until=20.0),
    ],
)
def test_no_other_blow_explains_it(event: FleetEvent) -> None:
    assert violations(audited(TWICE, events=[event])) == {"duplicates unexplained": 1}


def test_a_stop_explains_what_began_before_it_and_what_it_woke_with() -> None:
    stop = FleetEvent(10.6, "SIGSTOP", "a", 1, until=16.0)
    assert audited(TWICE, events=[stop]).passes
    late = ["7 2 start b 14.6", "7 2 ok b 14.7", "7 1 start a 16.1", "7 1 ok a 16.2"]
    found = audited(late, events=[stop])
    assert found.duplicates == {"SIGSTOP": 1}


def test_what_a_drain_cut_may_run_again() -> None:
    lines = ["7 1 start a 10.0", "7 1 cut a 12.0", "7 2 start b 12.1", "7 2 ok b 12.5"]
    assert audited(lines, events=[FleetEvent(10.6, "SIGTERM storm", "a", 1)]).reruns == {"SIGTERM storm": 1}
    assert violations(audited(lines)) == {"runs unexplained": 1}


def test_a_planned_failure_runs_again_but_not_beside_itself() -> None:
    again = ["7 1 start a 10.0", "7 1 fail a 10.5", "7 2 start b 11.5", "7 2 ok b 12.0"]
    assert audited(again).reruns == {"planned": 1}
    beside = ["7 1 start a 10.0", "7 2 start b 10.2", "7 1 fail a 10.5", "7 2 ok b 12.0"]
    assert violations(audited(beside)) == {"runs unexplained": 1}


def test_one_receive_that_runs_twice_has_no_excuse() -> None:
    lines = [*ONCE, "7 1 start a 11.0", "7 1 ok a 11.5"]
    assert violations(audited(lines, [fault(10.6)])) == {"duplicates unexplained": 1}


def test_each_further_run_needs_a_cause_of_its_own() -> None:
    lines = [*TWICE, "7 3 start a 19.0", "7 3 ok a 19.5"]
    assert violations(audited(lines, [fault(10.6)])) == {"duplicates unexplained": 1}
    assert audited(lines, [fault(10.6), fault(14.6, attempt=2)]).passes


def test_what_is_left_in_the_queue_or_in_flight_is_found() -> None:
    assert violations(audited(ONCE, visible=2)) == {"left in the queue": 1}
    assert violations(audited(ONCE, in_flight=2)) == {"stranded": 2}


def test_a_number_that_nobody_sent_is_found() -> None:
    assert violations(audited([*ONCE, "9 1 start a 10.0", "9 1 ok a 10.5"])) == {"never sent": 1}


def test_a_group_keeps_its_order() -> None:
    lines = [*ONCE, "9 1 start a 10.5", "9 1 ok a 11.0"]
    assert audited([*lines, "8 1 start b 10.0", "8 1 ok b 10.1"], sent=Stream(7, 3, groups=2)).passes


@pytest.mark.parametrize("started", [9.0, 10.4])
def test_a_message_that_overtakes_its_group_is_found(started: float) -> None:
    lines = [*ONCE, f"9 1 start a {started}", "9 1 ok a 11.0", "8 1 start b 10.0", "8 1 ok b 10.1"]
    assert violations(audited(lines, sent=Stream(7, 3, groups=2))) == {"order": 1}


def test_a_line_without_a_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="never began"):
        audited([*ONCE, "7 2 ok a 11.0"])
