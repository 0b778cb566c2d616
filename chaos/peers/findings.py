"""From the evidence of a run to one row of the table. Pure, and the same measure for every program.

Only some programs know which receive of a message they have, so runs are numbered by their starts, and a network fault
on any call about a message explains a repeat that came after it, and so do a blow to any worker that had it before, and
a SIGSTOP of a worker that goes on with what it had received before: a milder rule than that of `python -m chaos`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from chaos.audit import WAKE_SECONDS, Causes, Evidence, Letter, audit
from chaos.fault_log import Injected
from chaos.fleet import FleetEvent
from chaos.handles import ANY_ATTEMPT
from chaos.hits import BLOWS
from chaos.ledger import Run
from chaos.verdicts import verdict

#: How many of a finding are shown in full.
SHOWN = 5


class Row(msgspec.Struct):
    """What one program made of one experiment."""

    program: str
    experiment: str
    seed: int
    messages: int = 0
    lost: int = 0
    doubled_explained: int = 0
    doubled_unexplained: int = 0
    cut_unexplained: int = 0  # begun, not ended, and begun again, without a cause
    stranded: int = 0  # in flight, longer than the visibility time-out after all workers had ended
    left: int = 0  # visible, not done in time
    dead_asked: int = 0
    dead_repeated: int = 0
    dead_without_reason: int = 0
    dead_never_asked: int = 0
    ended_itself: int = 0  # a worker died of a fault and was started anew
    had_to_be_killed: int = 0  # it did not end in time after SIGTERM
    faults: int = 0
    blows: int = 0
    seconds: float = 0.0
    longest_silence: float = 0.0
    causes: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    failure: str = ""  # why there is no row


class Repeats:
    """Messages that ran again. `explained`: of what was finished, by cause."""

    def __init__(self) -> None:
        self.explained: Counter[str] = Counter()
        self.doubled: list[str] = []
        self.cut: list[str] = []

    def take(self, n: int, runs: Sequence[Run], causes: Causes, stops: Sequence[FleetEvent]) -> None:
        """The runs of one message."""
        was_final = False
        for index, after in enumerate(runs[1:], start=1):
            before = runs[index - 1]
            was_final = was_final or before.is_final
            is_planned = before.verdict in ("fail", "retry") and after.start >= before.end
            found = [cause for earlier in reversed(runs[:index]) if (cause := causes.of(n, earlier, after))]
            found += ["SIGSTOP" for event in stops if _is_stale(after, event)]
            if was_final and after.is_final:
                if found:
                    self.explained[found[0]] += 1
                else:
                    self.doubled.append(_shown(n, runs))
            elif not found and not is_planned:
                self.cut.append(_shown(n, runs))


def _is_stale(run: Run, stop: FleetEvent) -> bool:
    """Whether its worker has just woken up: it may have received the message long before."""
    return run.worker == stop.worker and stop.moment <= run.start <= stop.until + WAKE_SECONDS


def _shown(n: int, runs: Sequence[Run]) -> str:
    return f"{n}: " + ", ".join(f"{run.worker} {run.start:.3f} {run.verdict or '-'} {run.end:.3f}" for run in runs)


def numbered(runs: Mapping[int, Sequence[Run]]) -> dict[int, list[Run]]:
    """The runs of each message, 1, 2, ... by their starts."""
    ordered = {n: sorted(several, key=lambda run: run.start) for n, several in runs.items()}
    return {
        n: [msgspec.structs.replace(run, attempt=attempt) for attempt, run in enumerate(several, start=1)]
        for n, several in ordered.items()
    }


def spread(faults: Sequence[Injected], runs: Mapping[int, Sequence[Run]]) -> list[Injected]:
    """Each fault as one about every run of its messages."""
    return [
        msgspec.structs.replace(
            fault,
            messages=[
                (n, attempt)
                for n in sorted({n for n, _ in fault.messages})
                for attempt in (ANY_ATTEMPT, *range(1, len(runs.get(n, ())) + 1))
            ],
        )
        for fault in faults
    ]


def row(program: str, experiment: str, seed: int, evidence: Evidence, left: Sequence[int], seconds: float) -> Row:
    """`left`: the numbers of the messages that were still in the queue, visible."""
    evidence.runs = numbered(evidence.runs)
    evidence.faults = spread(evidence.faults, evidence.runs)
    audited = audit(evidence)
    repeats = Repeats()
    causes = Causes(evidence.faults, evidence.events)
    stops = [event for event in evidence.events if event.what == "SIGSTOP"]
    for n, runs in evidence.runs.items():
        repeats.take(n, runs, causes, stops)
    undone = [int(text.partition(":")[0]) for text in audited.violations["lost"]]
    gone = [n for n in undone if n not in set(left)]
    found = Row(
        program=program,
        experiment=experiment,
        seed=seed,
        messages=audited.messages,
        lost=max(0, len(gone) - evidence.in_flight),
        doubled_explained=sum(repeats.explained.values()),
        doubled_unexplained=len(repeats.doubled),
        cut_unexplained=len(repeats.cut),
        stranded=evidence.in_flight,
        left=len(left),
        ended_itself=sum("has ended by itself" in text for text in evidence.complaints),
        had_to_be_killed=sum("does not end" in text for text in evidence.complaints),
        faults=len(evidence.faults),
        blows=sum(event.what in BLOWS for event in evidence.events),
        seconds=round(seconds, 1),
        causes=dict(repeats.explained),
        examples={
            "doubled, no cause": repeats.doubled[:SHOWN],
            "cut short, no cause": repeats.cut[:SHOWN],
            "lost": [text for text in audited.violations["lost"] if int(text.partition(":")[0]) in set(gone)][:SHOWN],
        },
    )
    _count_letters(found, evidence.letters)
    return found


def _count_letters(found: Row, letters: Sequence[Letter]) -> None:
    copies = Counter(letter.n for letter in letters)
    found.dead_asked = sum(verdict(found.seed, n, 1) == "reject" for n in copies)
    found.dead_never_asked = len(copies) - found.dead_asked
    found.dead_repeated = len(letters) - len(copies)
    found.dead_without_reason = sum(letter.reason is None for letter in letters)
