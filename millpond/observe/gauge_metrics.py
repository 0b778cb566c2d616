"""What is read of a process each second: a row for each gauge, and for what the process counts by itself."""

from __future__ import annotations

from millpond.observe.metric_row import MetricRow

QUEUE_GAUGES = (
    MetricRow(
        "in_hand",
        "gauge",
        "messages",
        "Messages in hand: received and not yet settled.",
        "At `concurrency` for long: more copies.",
        panel="In hand",
    ),
    MetricRow(
        "ready",
        "gauge",
        "messages",
        "Of these, the messages that wait for a slot.",
        "Lower `prefetch`.",
        panel="In hand",
    ),
    MetricRow(
        "held",
        "gauge",
        "messages",
        "Of these, the messages that wait for their breaker, their rate or their concurrency, or for their own "
        "time. They have no permit.",
        "`breaker.opened` in the log names what is down. A rate that is too low holds what it needs for 2 s.",
        panel="In hand",
    ),
    MetricRow(
        "requests_per_1000",
        "gauge",
        "requests",
        "Calls to SQS for each thousand messages since the start, as SQS bills them; 0 for the first 99 "
        "messages. It is 200 when every call carries ten messages.",
        "With few messages a high number is normal: most polls are empty. `wait_seconds = 20` makes the fewest.",
        panel="Requests per 1,000 messages",
    ),
    MetricRow(
        "dollars_per_million",
        "gauge",
        "dollars",
        "What SQS costs for a million messages at `requests_per_1000`: 0.40 dollars a million calls, 0.50 on a "
        "FIFO queue; 0 for the first 99 messages.",
        "The same.",
        panel="Dollars per million messages",
    ),
    MetricRow(
        "oldest_in_hand_seconds",
        "gauge",
        "s",
        "How long the oldest message in hand has been here.",
        "Over the longest `timeout` for long: `worker.py status` shows where it stands.",
        panel="Oldest in hand",
    ),
    MetricRow(
        "polls_open",
        "gauge",
        "receives",
        "Receives that are open at SQS now.",
        "0 while messages wait: the queue is quiet, all permits are taken, or receives fail.",
        panel="Polls open",
    ),
    MetricRow(
        "receive_age_seconds",
        "gauge",
        "s",
        "How long ago the last receive began that came back; while none has, since the start. Time in which none may "
        "begin does not count: it is quiet, all permits are taken, or a breaker is open.",
        "Over 60 s: see `receive.failed` in the log.",
        panel="Last receive",
    ),
    MetricRow(
        "error_percent",
        "gauge",
        "%",
        "Of the deliveries that ended in the last minute, those that failed: `failed`, `timed_out`, `rejected`, "
        "`undecodable`. What was given back or put off counts on neither side.",
        "See the causes, and `error` in the log.",
        panel="Error rate",
    ),
)
#: Asked of SQS once a minute, by each worker whose metrics somebody reads.
DEPTH_GAUGES = (
    MetricRow(
        "visible",
        "gauge",
        "messages",
        "Messages that wait in the queue, as SQS says.",
        "More copies, or more `concurrency`; see `oldest_seconds`.",
        panel="Waiting in the queue",
    ),
    MetricRow(
        "in_flight",
        "gauge",
        "messages",
        "Messages that some worker has, or that wait for their back-off, as SQS says.",
        "Near 120,000 SQS gives no more: look at what fails, or use several queues.",
        panel="Waiting in the queue",
    ),
    MetricRow(
        "delayed",
        "gauge",
        "messages",
        "Messages that were sent with a delay which is not over.",
        "Nothing.",
        panel="Waiting in the queue",
    ),
    MetricRow(
        "oldest_seconds",
        "gauge",
        "s",
        "How long messages wait in the queue: the longest wait of those that began here in the last minute, and "
        "longer by the time since then where none began; 0 where none is visible. SQS itself tells it to "
        "CloudWatch alone.",
        "More copies, or more `concurrency`.",
        panel="Oldest message",
    ),
    MetricRow(
        "dead_letters",
        "gauge",
        "messages",
        "Messages in its dead-letter queue, as SQS says.",
        "Read the [dead letters](dead-letters.md).",
        panel="Dead letters",
    ),
    MetricRow(
        "backlog_per_worker",
        "gauge",
        "messages",
        "The number to scale on: this worker's part of `visible`, by its part of what is in flight. The mean "
        "over all workers is `visible` by their number, without anybody who counts them.",
        "Add workers while its mean is above what one of them does in the time that messages may wait.",
        panel="Backlog per worker",
    ),
)
TYPE_GAUGES = (
    MetricRow(
        "type.breaker",
        "gauge",
        "0 or 1",
        "1 while the breaker of the type is not closed: its messages wait.",
        "Look at the server that `breaker.opened` in the log names.",
        panel="Breakers",
    ),
    MetricRow(
        "type.rate",
        "gauge",
        "messages a second",
        "How many may begin in a second now; 0 where there is no rate. It falls where the other side asks for fewer.",
        "Where it falls (`rate.lowered` in the log): ask for a higher limit there, or write `rate=`.",
        panel="Rate",
    ),
    MetricRow(
        "type.running",
        "gauge",
        "handlers",
        "Handlers of the type that run.",
        "At its `concurrency` for long: raise it, or add workers.",
        panel="Running",
    ),
    MetricRow(
        "type.held",
        "gauge",
        "messages",
        "Messages that wait for the type's breaker, rate or concurrency.",
        "The same as for `held`.",
        panel="Held",
    ),
    MetricRow(
        "type.error_percent",
        "gauge",
        "%",
        "`error_percent` of the type, over all queues.",
        "See `error` in the log.",
        panel="Error rate by type",
    ),
)
WORKER_METRICS = (
    MetricRow(
        "worker.hub_lag_ms",
        "gauge",
        "ms",
        "How late the hub's timers fire: the longest since the last flush.",
        "Handlers compute: `thread=True`.",
        panel="Hub lag",
    ),
    MetricRow(
        "worker.bytes_in_hand",
        "gauge",
        "bytes",
        "What the large messages in hand take, of all queues together; small ones are not counted.",
        "At `max_bytes_in_flight` for long: raise it where there is memory, or run more copies.",
        panel="Memory",
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
    MetricRow(
        "worker.slots_busy",
        "gauge",
        "slots",
        "Slots that run a handler.",
        "At `worker.slots` for long: more copies, or more `concurrency`.",
        panel="Slots",
    ),
    MetricRow(
        "worker.slots",
        "gauge",
        "slots",
        "All slots: `[worker] concurrency`.",
        "Nothing.",
        panel="Slots",
    ),
    MetricRow(
        "worker.memory_bytes",
        "gauge",
        "bytes",
        "The resident memory of the process.",
        "Where it grows for hours: a handler keeps something.",
        panel="Memory",
    ),
    MetricRow(
        "worker.uptime_seconds",
        "gauge",
        "s",
        "How long the process has run.",
        "Where it begins anew without a deploy: see the last lines of the log before.",
        panel="Uptime",
    ),
)
