"""Audit: from all that was written down to what was lost, repeated and out of order. Pure, and strict.

A message that runs again needs a cause: its verdict (a planned failure), or something that was done to it. That is a
network fault on a call about the very receive that ran before, or a blow to the very worker that had it, before the
second run began. A worker that gets SIGTERM must settle what has ended: it explains only what it cut.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from chaos.fault_log import Injected
from chaos.fleet import FleetEvent
from chaos.handles import ANY_ATTEMPT
from chaos.ledger import Run
from chaos.verdicts import REASON

#: What a worker takes, once it goes on after a SIGSTOP, to start what had come meanwhile.
WAKE_SECONDS = 2.0
#: A dead letter whose call fails is tried for so long; then its message goes back to its queue, and is rejected again.
LETTER_SECONDS = 15.0
#: How many of each finding are shown in full.
SHOWN = 20


class Letter(msgspec.Struct, frozen=True):
    """One dead letter; `reason`: of its attribute `millpond`, None where it has none."""

    n: int
    reason: str | None


class Evidence(msgspec.Struct):
    """All that a run has left behind."""

    sent: Sequence[Stream]
    runs: Mapping[int, Sequence[Run]]
    faults: Sequence[Injected]
    events: Sequence[FleetEvent]
    letters: Sequence[Letter]
    visible: int = 0  # once all have been worked on
    in_flight: int = 0
    complaints: Sequence[str] = ()  # crashes, tracebacks, exit codes that are none


class Stream(msgspec.Struct, frozen=True):
    """The messages of one queue: `count` of them, from `first` on.

    `groups`: message n of a FIFO queue is in group n % groups; 0: there is no order.
    """

    first: int
    count: int
    groups: int = 0


class Audit(msgspec.Struct):
    """The findings. Whatever `violations` has must be empty."""

    messages: int = 0
    finished: int = 0
    runs: int = 0
    dead_letters: int = 0
    duplicates: Counter[str] = msgspec.field(default_factory=Counter)  # explained, by cause
    reruns: Counter[str] = msgspec.field(default_factory=Counter)  # of what had not ended: explained, by cause
    late: int = 0  # runs of a FIFO message, explained, after the next of its group had begun
    violations: dict[str, list[str]] = msgspec.field(default_factory=dict)

    @property
    def passes(self) -> bool:
        return not any(self.violations.values())


KINDS = (
    "lost",
    "duplicates unexplained",
    "runs unexplained",
    "dead letters unplanned",
    "dead letters without a reason",
    "dead letters repeated",
    "never sent",
    "left in the queue",
    "stranded",
    "order",
    "complaints",
)


class Causes:
    """What was done to which message, and to which worker."""

    def __init__(self, faults: Sequence[Injected], events: Sequence[FleetEvent]) -> None:
        self._faults: dict[tuple[int, int], list[Injected]] = defaultdict(list)
        self._events: dict[str, list[FleetEvent]] = defaultdict(list)
        self._letter_faults: dict[str, list[Injected]] = defaultdict(list)  # by worker: calls that write dead letters
        for fault in faults:
            if fault.operation == "SendMessageBatch":
                self._letter_faults[fault.worker].append(fault)
            for number in fault.messages:
                self._faults[number].append(fault)
        for event in events:
            self._events[event.worker].append(event)

    def of(self, n: int, before: Run, after: Run) -> str:
        """Why `after` came to be although there was `before`; "" where nothing explains it."""
        if after.attempt == before.attempt:
            return ""  # one receive, run twice
        faults = [fault.kind for fault in self._faults[n, before.attempt] if fault.moment <= after.start]
        blows = [event.what for event in self._events[before.worker] if _explains(event, before, after)]
        if before.verdict == "reject":
            letters = self._letter_faults[before.worker]
            faults += [f"letter: {one.kind}" for one in letters if _is_about(one, before, after)]
        return next(iter(blows + faults), "")  # of several, the one that a worker cannot make good again

    def send_suffered(self, n: int) -> bool:
        """Whether a copy for the dead-letter queue may have been sent twice."""
        return bool(self._faults[n, ANY_ATTEMPT])


def _is_about(fault: Injected, before: Run, after: Run) -> bool:
    """The worker could write no dead letter then: all that wait for one go back, not only those of that call."""
    return before.end - LETTER_SECONDS <= fault.moment <= after.start


def _explains(event: FleetEvent, before: Run, after: Run) -> bool:
    if event.moment > after.start:
        return False
    match event.what:
        case "kill -9":
            return event.moment >= before.start
        case "SIGSTOP":
            return event.until >= before.start - WAKE_SECONDS
        case "SIGTERM" | "SIGTERM storm":
            return before.verdict == "cut" and before.start <= event.moment <= before.end
    return False


def audit(evidence: Evidence) -> Audit:
    """Give the audit of a run."""
    found = Audit(violations={kind: [] for kind in KINDS})
    causes = Causes(evidence.faults, evidence.events)
    _count(found, evidence)
    for n, runs in evidence.runs.items():
        if len(runs) > 1:
            _repeated(found, causes, n, runs)
    _dead_letters(found, causes, evidence)
    for stream in evidence.sent:
        if stream.groups:
            _ordered(found, stream, evidence.runs)
    found.violations["complaints"] += evidence.complaints
    return found


def _count(found: Audit, evidence: Evidence) -> None:
    letters = {letter.n for letter in evidence.letters}
    numbers = [n for stream in evidence.sent for n in range(stream.first, stream.first + stream.count)]
    lost = [n for n in numbers if not _is_finished(evidence.runs.get(n, ()), n in letters)]
    found.messages, found.finished = len(numbers), len(numbers) - len(lost)
    found.runs = sum(map(len, evidence.runs.values()))
    found.violations["lost"] += [f"{n}: {_shown(evidence.runs.get(n, ()))}" for n in lost]
    found.violations["never sent"] += [f"{n}" for n in evidence.runs.keys() - set(numbers)]
    if evidence.visible:
        found.violations["left in the queue"].append(f"{evidence.visible} messages")
    found.violations["stranded"] += ["in flight, and nobody is there"] * evidence.in_flight


def _is_finished(runs: Sequence[Run], is_dead_letter: bool) -> bool:
    return is_dead_letter or any(run.is_final and run.verdict != "reject" for run in runs)


def _repeated(found: Audit, causes: Causes, n: int, runs: Sequence[Run]) -> None:
    was_final = False
    for before, after in pairwise(runs):
        was_final = was_final or before.is_final
        is_duplicate = was_final and after.is_final
        is_planned = before.verdict in ("fail", "retry") and after.start >= before.end
        cause = causes.of(n, before, after) or ("planned" if is_planned and after.attempt > before.attempt else "")
        if not cause:
            kind = "duplicates unexplained" if is_duplicate else "runs unexplained"
            found.violations[kind].append(f"{n}: {_shown([before, after])}")
        elif is_duplicate:
            found.duplicates[cause] += 1
        else:
            found.reruns[cause] += 1


def _dead_letters(found: Audit, causes: Causes, evidence: Evidence) -> None:
    copies = Counter(letter.n for letter in evidence.letters)
    found.dead_letters = len(evidence.letters)
    for letter in evidence.letters:
        if letter.reason is None:
            found.violations["dead letters without a reason"].append(f"{letter.n}")
        elif letter.reason != REASON:
            found.violations["dead letters unplanned"].append(f"{letter.n}: {letter.reason}")
    for n, number in copies.items():
        rejected = sum(run.verdict == "reject" for run in evidence.runs.get(n, ()))
        if number > rejected and not causes.send_suffered(n):
            found.violations["dead letters repeated"].append(f"{n}: {number} letters of {rejected} rejections")


def _ordered(found: Audit, stream: Stream, runs: Mapping[int, Sequence[Run]]) -> None:
    """No message of a group starts before the one ahead of it is finished."""
    for n in range(stream.first + stream.groups, stream.first + stream.count):
        ahead = [run.end for run in runs.get(n - stream.groups, ()) if run.is_final]
        starts = [run.start for run in runs.get(n, ())]
        found.late += sum(run.start > min(starts) for run in runs.get(n - stream.groups, ()) if starts)
        if starts and (not ahead or min(starts) < min(ahead)):
            text = f"{n} before {n - stream.groups}: {_shown(runs[n])}; {_shown(runs.get(n - stream.groups, ()))}"
            found.violations["order"].append(text)


def _shown(runs: Sequence[Run]) -> str:
    shown = [
        f"attempt {run.attempt} in {run.worker} from {run.start:.3f} {run.verdict or 'never ended'} {run.end:.3f}"
        for run in runs
    ]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:2], "...", *shown[-2:]]) or "never ran"
