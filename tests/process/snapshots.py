"""FULL: a snapshot in which every number is known."""

from millpond.process.snapshot import QueueDepth, QueueSnapshot, Snapshot, TypeSnapshot, WorkerSnapshot

DEPTH = QueueDepth(
    asked=1_000.0, visible=900, in_flight=100, delayed=5, oldest_seconds=12.5, dead_letters=3, backlog_per_worker=225.0
)
QUEUE = QueueSnapshot(
    name="emails",
    url="https://sqs.eu-west-1.amazonaws.com/123456789012/emails",
    state="receiving",
    in_hand=25,
    ready=4,
    held=1,
    oldest_in_hand_seconds=7.5,
    polls_open=2,
    pollers=2,
    last_receive_seconds=0.5,
    failing_receives=0,
    intake="open",
    weight=1.0,
    received=1_000,
    outcomes={"succeeded": 970},
    causes={},
    redelivered=0,
    abandoned=0,
    requests=205,
    requests_per_1000=205.0,
    leases={"held": 25},
    under_way={},
    depth=DEPTH,
)
WORKER = WorkerSnapshot(
    name="web.1",
    version="1",
    pid=1,
    started=0.0,
    uptime_seconds=1_000.0,
    state="running",
    why="",
    slots_busy=20,
    slots=100,
    permits_free=75,
    in_hand=25,
    memory_bytes=60_000_000,
    bytes_in_hand=0,
    max_bytes_in_hand=1,
    hub_blocked=2,
    leases_rescued=30,
    stuck=0,
    log_level="info",
)
TYPE = TypeSnapshot(
    event_type="email.send",
    handler="handlers.email.send",
    running=20,
    held=1,
    rate=14.0,
    concurrency=0,
    breaker="open",
    breaker_reason="down",
    breaker_seconds=1.0,
    outcomes={},
)
FULL = Snapshot(taken=1_000.0, worker=WORKER, queues=[QUEUE], types=[TYPE], running=[], running_number=0)
