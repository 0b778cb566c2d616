"""The audit of the claims, without a process: what it must see, and what it must not mind."""

from __future__ import annotations

from chaos.claim_proxy import ClaimWrite
from chaos.fleet import FleetEvent
from chaos.ledger import Run
from chaos.scenarios.claims_audit import ClaimsAudit, Effect, Seen, audit

FIRST = Run(1, "10", 1.0, 2.0, "ok")


def write(moment: float, what: str, token: str, *, taken: bool = True, stale: bool = False) -> ClaimWrite:
    return ClaimWrite(moment, "w0", "claimed e7", what, token, taken, stale)  # type: ignore[arg-type]


def judged(
    runs: list[Run], writes: list[ClaimWrite] | None = None, blows: list[FleetEvent] | None = None
) -> ClaimsAudit:
    effects = [Effect(7, run.worker, run.start + 0.5) for run in runs]
    return audit(Seen({7: runs}, effects, writes or [], blows or [], []))


def test_an_event_that_runs_once_is_fine() -> None:
    assert judged([FIRST], [write(2.0, "done", "a")]).violations == []


def test_a_run_after_the_done_mark_is_seen() -> None:
    (finding, _) = judged([FIRST, Run(2, "11", 3.0, 4.0, "ok")], [write(2.0, "done", "a")]).violations
    assert finding.startswith("ran after its done mark")


def test_an_effect_that_happens_again_needs_a_cause() -> None:
    again = [Run(1, "10", 1.0), Run(2, "11", 5.0, 6.0, "ok")]
    assert "doubled without a cause" in judged(again, blows=[FleetEvent(3.0, "exit", "w0", 10)]).violations[0]
    killed = judged(again, blows=[FleetEvent(1.6, "kill -9", "w0", 10)])
    assert (killed.violations, killed.doubled) == ([], {"kill -9 before the mark": 1})


def test_two_at_once_are_seen_but_beside_a_worker_that_was_stopped() -> None:
    both = [Run(1, "10", 1.0, 9.0, "cut"), Run(2, "11", 5.0, 6.0, "ok")]
    assert judged(both).violations[0].startswith("two at once")
    stopped = judged(both, blows=[FleetEvent(1.6, "SIGSTOP", "w0", 10, until=8.5)])
    assert (stopped.violations, stopped.doubled) == ([], {"SIGSTOP before the mark": 1})


def test_a_stopped_worker_that_goes_on_is_known() -> None:
    woken, other = Run(1, "10", 1.0, 9.1, "cut"), Run(2, "11", 5.0, 6.0, "ok")
    stop = FleetEvent(1.2, "SIGSTOP", "w0", 10, until=9.0)
    effects = [Effect(7, "11", 5.5), Effect(7, "10", 9.05)]
    found = audit(Seen({7: [woken, other]}, effects, [write(6.0, "done", "b")], [stop], []))
    assert (found.violations, found.doubled) == ([], {"went on after a SIGSTOP": 1})


def test_a_stale_write_that_is_taken_is_seen() -> None:
    writes = [write(1.0, "claim", "a"), write(4.0, "claim", "b"), write(5.0, "done", "a", stale=True)]
    assert judged([FIRST], writes).violations[0].startswith("stale, and taken")
    refused = judged([FIRST], [write(5.0, "renew", "a", stale=True, taken=False)])
    assert (refused.violations, refused.stale_refused) == ([], {"renew": 1})
