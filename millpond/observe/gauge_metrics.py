"""What is read of a process each second: a row for each gauge, and for what the process counts by itself."""

from __future__ import annotations

from millpond.observe.metric_row import MetricRow


def _gauge(name: str, unit: str, text: str, advice: str, panel: str) -> MetricRow:
    return MetricRow(name, "gauge", unit, text, advice, panel)


QUEUE_GAUGES = (
    _gauge(
        "in_hand",
        "messages",
        "Messages in hand: received and not yet settled.",
        "At `concurrency` for long: more copies.",
        "In hand",
    ),
    _gauge("ready", "messages", "Of these, the messages that wait for a slot.", "Lower `prefetch`.", "In hand"),
    _gauge(
        "held",
        "messages",
        "Of these, the messages that wait for their breaker, their rate or their concurrency, or for their own "
        "time. They have no permit.",
        "`breaker.opened` in the log names what is down. A rate that is too low holds what it needs for 2 s.",
        "In hand",
    ),
    _gauge(
        "requests_per_1000",
        "requests",
        "Calls to SQS for each thousand messages since the start, as SQS bills them; 0 for the first 99 "
        "messages. It is 200 when every call carries ten messages.",
        "With few messages a high number is normal: most polls are empty. `wait_seconds = 20` makes the fewest.",
        "Requests per 1,000 messages",
    ),
    _gauge(
        "dollars_per_million",
        "dollars",
        "What SQS costs for a million messages at `requests_per_1000`: 0.40 dollars a million calls, 0.50 on a "
        "FIFO queue; 0 for the first 99 messages.",
        "The same.",
        "Dollars per million messages",
    ),
    _gauge(
        "oldest_in_hand_seconds",
        "s",
        "How long the oldest message in hand has been here.",
        "Over the longest `timeout` for long: `worker.py status` shows where it stands.",
        "Oldest in hand",
    ),
    _gauge(
        "polls_open",
        "receives",
        "Receives that are open at SQS now.",
        "0 while messages wait: the queue is quiet, all permits are taken, or receives fail.",
        "Polls open",
    ),
    _gauge(
        "receive_age_seconds",
        "s",
        "How long ago the last receive began that came back; while none has, since the start. Time in which none may "
        "begin does not count: it is quiet, all permits are taken, or a breaker is open.",
        "Over 60 s: see `receive.failed` in the log.",
        "Last receive",
    ),
    _gauge(
        "error_percent",
        "%",
        "Of the deliveries that ended in the last minute, those that failed: `failed`, `timed_out`, `rejected`, "
        "`undecodable`. What was given back or put off counts on neither side.",
        "See the causes, and `error` in the log.",
        "Error rate",
    ),
)
#: Asked of SQS once a minute, by each worker whose metrics somebody reads.
DEPTH_GAUGES = (
    _gauge(
        "visible",
        "messages",
        "Messages that wait in the queue, as SQS says.",
        "More copies, or more `concurrency`; see `oldest_seconds`.",
        "Waiting in the queue",
    ),
    _gauge(
        "in_flight",
        "messages",
        "Messages that some worker has, or that wait for their back-off, as SQS says.",
        "Near 120,000 SQS gives no more: look at what fails, or use several queues.",
        "Waiting in the queue",
    ),
    _gauge(
        "delayed",
        "messages",
        "Messages that were sent with a delay which is not over.",
        "Nothing.",
        "Waiting in the queue",
    ),
    _gauge(
        "oldest_seconds",
        "s",
        "How long messages wait in the queue: the longest wait of those that began here in the last minute, and "
        "longer by the time since then where none began; 0 where none is visible. SQS itself tells it to "
        "CloudWatch alone.",
        "More copies, or more `concurrency`.",
        "Oldest message",
    ),
    _gauge(
        "dead_letters",
        "messages",
        "Messages in its dead-letter queue, as SQS says.",
        "Read the [dead letters](dead-letters.md).",
        "Dead letters",
    ),
    _gauge(
        "backlog_per_worker",
        "messages",
        "The number to scale on: this worker's part of `visible`, by its part of what is in flight. The mean "
        "over all workers is `visible` by their number, without anybody who counts them.",
        "Add workers while its mean is above what one of them does in the time that messages may wait.",
        "Backlog per worker",
    ),
)
TYPE_GAUGES = (
    _gauge(
        "type.breaker",
        "0 or 1",
        "1 while the breaker of the type is not closed: its messages wait.",
        "Look at the server that `breaker.opened` in the log names.",
        "Breakers",
    ),
    _gauge(
        "type.rate",
        "messages a second",
        "How many may begin in a second now; 0 where there is no rate. It falls where the other side asks for fewer.",
        "Where it falls (`rate.lowered` in the log): ask for a higher limit there, or write `rate=`.",
        "Rate",
    ),
    _gauge(
        "type.running",
        "handlers",
        "Handlers of the type that run.",
        "At its `concurrency` for long: raise it, or add workers.",
        "Running",
    ),
    _gauge(
        "type.held",
        "messages",
        "Messages that wait for the type's breaker, rate or concurrency.",
        "The same as for `held`.",
        "Held",
    ),
    _gauge(
        "type.error_percent",
        "%",
        "`error_percent` of the type, over all queues.",
        "See `error` in the log.",
        "Error rate by type",
    ),
)
WORKER_METRICS = (
    _gauge(
        "worker.hub_lag_ms",
        "ms",
        "How late the hub's timers fire: the longest since the last flush.",
        "Handlers compute: `thread=True`.",
        "Hub lag",
    ),
    _gauge(
        "worker.bytes_in_hand",
        "bytes",
        "What the large messages in hand take, of all queues together; small ones are not counted.",
        "At `max_bytes_in_flight` for long: raise it where there is memory, or run more copies.",
        "Memory",
    ),
    MetricRow(
        "worker.hub_blocked",
        "counter",
        "times",
        "A handler held up the hub for 2 s or more. One of 1 to 2 s counts where the watchdog's looks meet it in time.",
        "`worker.blocked` in the log names the handler.",
        panel="Hub blocked, leases rescued",
    ),
    MetricRow(
        "worker.leases_rescued",
        "counter",
        "extensions",
        "Extensions of leases that the watchdog made meanwhile.",
        "The same.",
        panel="Hub blocked, leases rescued",
    ),
    _gauge(
        "worker.slots_busy",
        "slots",
        "Slots that run a handler.",
        "At `worker.slots` for long: more copies, or more `concurrency`.",
        "Slots",
    ),
    _gauge("worker.slots", "slots", "All slots: `[worker] concurrency`.", "Nothing.", "Slots"),
    _gauge(
        "worker.memory_bytes",
        "bytes",
        "The resident memory of the process.",
        "Where it grows for hours: a handler keeps something.",
        "Memory",
    ),
    _gauge(
        "worker.uptime_seconds",
        "s",
        "How long the process has run.",
        "Where it begins anew without a deploy: see the last lines of the log before.",
        "Uptime",
    ),
)
