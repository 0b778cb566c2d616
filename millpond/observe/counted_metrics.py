"""What is counted and timed of messages: a row for each metric."""

from __future__ import annotations

from millpond.observe.metric_row import MetricRow


def _outcome(name: str, text: str, advice: str) -> MetricRow:
    return MetricRow(name, "counter", "deliveries", text, advice, "Outcomes", by_type=True)


def _cause(name: str, text: str, advice: str) -> MetricRow:
    return MetricRow(name, "counter", "deliveries", text, advice, "Causes", by_type=True)


#: Each delivery ends in exactly one, or is `abandoned`.
OUTCOMES = (
    _outcome("succeeded", "The handler returned, and the message is deleted.", "Nothing: this is the work."),
    _outcome("retried", "The message is visible again after its back-off.", "See the causes, and `reason` in the log."),
    _outcome(
        "dead_lettered",
        "A copy with the reason is in the dead-letter queue, and the message is deleted.",
        "Read the [dead letters](dead-letters.md).",
    ),
    _outcome("discarded", "The handler raised `Discard`: deleted.", "Ask whoever sends them."),
    _outcome(
        "released",
        "Given back without a failure: a shutdown, a message before its time, a FIFO neighbour that failed.",
        "Normal in a deploy. Otherwise see `reason` in the log.",
    ),
    _outcome(
        "lease_lost",
        "The lease could not be kept: the message may run again elsewhere.",
        "Look for `worker.blocked` and `settle.failed` in the log, or raise `visibility_seconds`.",
    ),
)
#: Why deliveries did not succeed, counted beside their outcomes.
CAUSES = (
    _cause("failed", "The handler raised an exception, or `Retry`.", "See `error` and `traceback` in the log."),
    _cause("timed_out", "The handler ran past its `timeout`.", "Raise the timeout, or find what it waits for."),
    _cause("rejected", "The handler raised `Reject`.", "Read the dead letters."),
    _cause(
        "undecodable",
        "The body cannot be read, has no handler, or does not fit its type.",
        "Deploy handlers before senders.",
    ),
    _cause(
        "unavailable",
        "What the handler needs is down, and its message could not be held.",
        "Look at the server behind it.",
    ),
    _cause(
        "too_fast",
        "The handler raised `TooFast`, or a server answered that it wants fewer.",
        "Give the type a `rate` that the server takes.",
    ),
    _cause(
        "waiting",
        "The handler raised `Wait`: its message could not begin yet.",
        "See what it waits for in `reason` in the log.",
    ),
    _cause(
        "no_room",
        "No more messages of a type that waits can be held in hand: given back with a delay.",
        "Look at the server behind it, or raise its `rate`.",
    ),
    _cause(
        "no_thread",
        "No thread was free for a `thread=True` handler.",
        "Raise `[worker] threads`; see `threads.busy` in the log.",
    ),
    _cause(
        "claimed",
        "Another worker has the event's claim: given back until that one's lease is over.",
        "Rare is normal. Often: two senders use one event id.",
    ),
    _cause(
        "duplicate", "The event was done before: its message is deleted.", "Nothing; often: see why it is sent twice."
    ),
    _cause(
        "claim_lost",
        "Another delivery has taken the claim of the event: nothing is written of this one.",
        "Look for `claims.failed` in the log, and for processes that stood still.",
    ),
    _cause(
        "test_event",
        "S3's test of a new notification, for which there is no handler: its message is deleted.",
        "Nothing.",
    ),
)
TIMES = (
    MetricRow(
        "duration",
        "timer",
        "ms",
        "How long the handler ran; with `thread=True` its wait for a thread is part of it.",
        "Find what it waits for.",
        panel="Duration",
        by_type=True,
    ),
    MetricRow(
        "latency",
        "timer",
        "ms",
        "From the send to the start of the first attempt.",
        "More copies, or more `concurrency`.",
        panel="Latency",
        by_type=True,
    ),
)
COUNTERS = (
    MetricRow(
        "received",
        "counter",
        "deliveries",
        "Messages that receives brought.",
        "Nothing.",
        panel="Receives",
    ),
    MetricRow(
        "redelivered",
        "counter",
        "deliveries",
        "SQS delivered a message again while it is in hand: it goes on by its new receipt handle, and runs once.",
        "Rare is normal. Often: `visibility_seconds` is too short for the network.",
        panel="Redelivered, abandoned, stuck",
    ),
    MetricRow(
        "receive_failed",
        "counter",
        "calls",
        "Receives that failed, and those that came back empty at once, from the fifth in a row.",
        "See `receive.failed` in the log.",
        panel="Receives",
    ),
    MetricRow(
        "follow_ups_dead_lettered",
        "counter",
        "messages",
        "Follow-ups that are dead letters: left with `reject=`, or refused by the queue.",
        "Read the dead letters.",
        panel="Follow-ups dead-lettered",
    ),
    MetricRow(
        "stuck",
        "counter",
        "handlers",
        "Handlers that swallowed every interrupt, or were still cleaning up when the drain ended: their slot was "
        "written off.",
        "Find the bare `except:` that swallows them, or the clean-up that takes long.",
        panel="Redelivered, abandoned, stuck",
    ),
    MetricRow(
        "abandoned",
        "counter",
        "deliveries",
        "Could not be settled: a give-back failed until its lease's deadline, or a drain gave it up: what is "
        "denied after 3 s, all else after 300 s. They are visible again after their visibility time-out.",
        "See `message.abandoned` in the log.",
        panel="Redelivered, abandoned, stuck",
    ),
    MetricRow(
        "requests",
        "counter",
        "calls",
        "Calls to SQS, as it bills them: those too that failed, and those that ask for the depth.",
        "`requests_per_1000` says whether they are many for the work.",
        panel="Requests",
    ),
)
