"""The settings: config.toml, read once into frozen Structs.

Each key stands here once, with its type, its limits, what is allowed in words, and its default.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from millpond.app.claim_settings import IdempotencySettings
from millpond.app.envelope import EnvelopeKind
from millpond.app.http_settings import HttpSettings
from millpond.app.large_body_settings import LargeBodySettings
from millpond.app.output_settings import CloudwatchSettings, LogSettings, StatsdSettings
from millpond.app.platform import PLATFORM_VARIABLES, PlatformSettings
from millpond.app.secret_references import is_no_secret
from millpond.app.secret_values import Fetch, fetch_secrets
from millpond.app.setting_types import (
    WHERE_QUEUES_ARE,
    DelaySeconds,
    MaxMessages,
    Places,
    PortOrAny,
    Positive,
    QueuePlace,
    Seconds,
    Text,
    Url,
    VisibilitySeconds,
    WaitSeconds,
    Weight,
)
from millpond.app.toml import SettingsType, Table, TomlFile, decode, toml_key
from millpond.app.type_settings import TypeSettings, read_types
from millpond.app.worker_settings import WorkerSettings
from millpond.errors import ConfigError
from millpond.foreign.nearest import nearest
from millpond.foreign.secrets import Unshown, conceal_environment
from millpond.foreign.text import shown
from millpond.observe.metric_table import METRICS
from millpond.sqs.limits import lease_seconds
from millpond.sqs.queue_url import NAMELESS, has_name, is_fifo
from millpond.sqs.sqs_queue import Sqs

#: A beat's own call takes at least this: a lease must outlast both.
BEAT_CALL_SECONDS = 1.0


class SqsSettings(Unshown, msgspec.Struct, frozen=True):
    """[sqs]: where SQS is; where it is empty, the AWS SDK's own settings count."""

    region: Text = ""
    endpoint_url: Url = ""
    client: Literal["wire", "boto3"] = "wire"

    def connect(self, url: str, wait_seconds: int, polls: int, settles: int) -> Sqs:
        """SQS where the queue at this URL is; the other arguments are as in sqs.clients.connect. Raises ConfigError."""
        from millpond.sqs.clients import connect  # botocore: 0.1 s of each command that asks SQS nothing

        there = partial(connect, url, client=self.client, region=self.region, endpoint_url=self.endpoint_url)
        return there(wait_seconds=wait_seconds, polls=polls, settles=settles)


class QueueSettings(Unshown, msgspec.Struct, frozen=True):
    """[queues.<name>]: one queue. concurrency = 0: no cap of its own; dead_letter_url = "": by the redrive policy.

    `pause_seconds` is the gap between two polls.
    """

    url: QueuePlace = ""
    concurrency: Places = 0
    prefetch: Places = 0
    pollers: Positive = 4
    wait_seconds: WaitSeconds = 20
    max_messages: MaxMessages = 10
    visibility_seconds: VisibilitySeconds = 60
    heartbeat_seconds: Seconds = 0.0
    max_hold_seconds: VisibilitySeconds = 43_200
    dead_letter_url: Url = ""
    event_type: Text = ""
    envelope: EnvelopeKind = "auto"
    pause_seconds: Seconds = 0.0
    weight: Weight = 1.0

    @property
    def is_local(self) -> bool:
        """True for the local queue."""
        return self.url == "local"

    @property
    def is_fifo(self) -> bool:
        """True where messages of one group run one after another: its name ends in .fifo, on AWS too."""
        return is_fifo(self.url)

    @property
    def beat_seconds(self) -> float:
        """Seconds from one heartbeat to the next: heartbeat_seconds, or a third of visibility_seconds."""
        return self.heartbeat_seconds or self.visibility_seconds / 3


class RetrySettings(Unshown, msgspec.Struct, frozen=True):
    """[retry]: what happens after a failure, where @handler does not say otherwise."""

    max_attempts: Positive = 7
    base_seconds: DelaySeconds = 20.0
    max_seconds: DelaySeconds = 1_800.0


class LocalSettings(Unshown, msgspec.Struct, frozen=True):
    """[local]: the local SQS, for queues with url = "local"."""

    port: PortOrAny = 9324


class AllSettings(Unshown, msgspec.Struct, frozen=True):
    """All of config.toml. `handlers`: the tables of [handlers.<module>] as they stand; `folder`: the file's own.

    `references`: the place and the text of each reference to a secret that is kept elsewhere.
    """

    worker: WorkerSettings
    sqs: SqsSettings
    queues: dict[str, QueueSettings]
    retry: RetrySettings
    types: dict[str, TypeSettings]
    idempotency: IdempotencySettings
    large_bodies: LargeBodySettings
    statsd: StatsdSettings
    cloudwatch: CloudwatchSettings
    log: LogSettings
    local: LocalSettings
    http: HttpSettings
    platform: PlatformSettings
    handlers: dict[str, dict[str, Any]]
    folder: Path
    references: tuple[tuple[str, str], ...] = ()

    @property
    def has_local(self) -> bool:
        """True where a queue is in the memory of this process."""
        return any(queue.is_local for queue in self.queues.values())


TABLES = tuple(name for name in AllSettings.__struct_fields__ if name not in ("folder", "references"))


def load(path: Path, environ: Mapping[str, str], fetch: Fetch = fetch_secrets) -> AllSettings:
    """The settings in this file; ${NAME} and ${NAME:-default} read `environ`, where an empty variable is unset.

    Raises ConfigError with every finding, one line each: table, key, value and what is allowed. A value from the
    environment is left out (its variable is named), and so is a secret. `fetch` reads those that are kept elsewhere.
    """
    # A reference is no secret: findings name it.
    conceal_environment({name: value for name, value in environ.items() if not is_no_secret(value)})
    file = TomlFile(path, environ, TABLES, fetch)
    worker, retry, cloudwatch = file.table("worker"), file.table("retry"), file.table("cloudwatch")
    queues = file.tables("queues")
    process = _named(worker.read(WorkerSettings), environ)
    settings = AllSettings(
        worker=process,
        sqs=file.table("sqs").read(SqsSettings),
        queues={name: table.read(QueueSettings) for name, table in queues.items()},
        retry=retry.read(RetrySettings),
        types=read_types(file.tables("types"), worker, process.concurrency),
        idempotency=file.table("idempotency").read(IdempotencySettings),
        large_bodies=file.table("large_bodies").read(LargeBodySettings),
        statsd=file.table("statsd").read(StatsdSettings),
        cloudwatch=cloudwatch.read(CloudwatchSettings),
        log=file.table("log").read(LogSettings),
        local=file.table("local").read(LocalSettings),
        http=file.table("http").read(HttpSettings),
        platform=file.table("platform").read(PlatformSettings),
        handlers={name: table.values for name, table in file.tables("handlers").items()},
        folder=path.absolute().parent,
        references=tuple(file.references),
    )
    _check_process(file, worker, retry, settings)
    _check_metrics(cloudwatch, settings)
    _check_queues(file, queues, worker, settings)
    for name, table in queues.items():
        _check_urls(table, settings.queues[name], environ)
    if file.findings:
        raise ConfigError(*file.findings)
    return settings


def handler_settings(settings_type: type[SettingsType], table_name: str, table: Mapping[str, Any]) -> SettingsType:
    """A handlers module's own table, "handlers.email", as its own Settings.

    Raises ConfigError with every finding. None shows a value: only the module knows what is a secret there.
    """
    findings: list[str] = []

    def wrong(key: str, allowed: str) -> None:
        findings.append(f"[{table_name}] {toml_key(key)}: {allowed}")

    values = decode(settings_type, table, wrong)
    for field in msgspec.structs.fields(settings_type):
        if field.required and field.encode_name not in table:
            wrong(field.encode_name, "is missing")
    if findings:
        raise ConfigError(*findings)
    try:
        return settings_type(**values)
    except (ValueError, TypeError) as error:  # its own __post_init__, in its author's words
        raise ConfigError(f"[{table_name}]: {shown(error)}") from None


def _named(worker: WorkerSettings, environ: Mapping[str, str]) -> WorkerSettings:
    return msgspec.structs.replace(worker, name=worker.name or environ.get("DYNO") or socket.gethostname())


def _check_process(file: TomlFile, worker: Table, retry: Table, settings: AllSettings) -> None:
    queues = len(settings.queues)
    if not queues:
        file.wrong("[queues]", "there is no queue: add [queues.emails] and its url")
    if worker.sound("concurrency") and settings.worker.concurrency < queues:
        worker.wrong("concurrency", f"{queues} or more, since each of the {queues} queues needs one message in hand")
    if settings.has_local and worker.sound("processes") and settings.worker.process_number(1) > 1:
        text = 'must be 1 with a queue of url = "local", which is in the memory of one process: '
        worker.wrong("processes", text + "start python -m millpond.local, and set the URL that it prints")
    if settings.has_local and settings.worker.max_memory_mb:
        worker.wrong("max_memory_mb", 'must be 0 with a queue of url = "local", which would be lost with the process')
    if settings.worker.processes != 1 and settings.platform.task_protection != "off":
        worker.wrong("processes", "must be 1 with [platform] task_protection, which each worker would give up for all")
    if retry.sound("base_seconds", "max_seconds") and settings.retry.base_seconds > settings.retry.max_seconds:
        retry.wrong("base_seconds", f"not more than {retry.named('max_seconds')}")


def _check_metrics(table: Table, settings: AllSettings) -> None:
    wanted = settings.cloudwatch
    if table.sound("metrics") and (strange := [name for name in wanted.metrics if name not in METRICS]):
        near = nearest(strange[0], METRICS)
        meant = f"; did you mean {near}?" if near else ""
        table.wrong("metrics", f"names of docs/reference/metrics.md; {toml_key(strange[0])} is none{meant}")
    if table.sound("namespace") and wanted.namespace and settings.log.format == "text":
        table.wrong("namespace", 'nothing, unless [log] format is "json" or "auto": it is read from a JSON log')


def _check_queues(file: TomlFile, tables: dict[str, Table], worker: Table, settings: AllSettings) -> None:
    first_with: dict[str, str] = {}
    for name, queue in settings.queues.items():
        table = tables[name]
        if toml_key(name) != name:
            file.wrong(
                f"[queues.{toml_key(name)}]", "only letters, digits, _ and -, since the name is a part of StatsD names"
            )
        if table.sound("max_hold_seconds", "visibility_seconds") and queue.max_hold_seconds < queue.visibility_seconds:
            table.wrong("max_hold_seconds", f"not less than {table.named('visibility_seconds')}")
        if table.sound("heartbeat_seconds", "visibility_seconds") and (allowed := _allowed_beat(table, queue)):
            table.wrong("heartbeat_seconds", allowed)
        caps_sound = table.sound("concurrency") and worker.sound("concurrency")
        if caps_sound and queue.concurrency > settings.worker.concurrency:
            table.wrong("concurrency", f"not more than [worker] {worker.named('concurrency')}")
        if queue.url and not queue.is_local and first_with.setdefault(queue.url, name) != name:
            table.wrong("url", f"another queue than [queues.{toml_key(first_with[queue.url])}]")


def _allowed_beat(table: Table, queue: QueueSettings) -> str:
    if 0 < queue.heartbeat_seconds < 1:
        return "0 (a third of visibility_seconds), or 1 second and more"
    longest = lease_seconds(queue.visibility_seconds) - BEAT_CALL_SECONDS
    if queue.heartbeat_seconds > max(0.0, longest):
        allowed = (
            f"{longest:g} at most, or 0 for a third" if int(longest) else "0, for a third of it: all else is too long"
        )
        return f"{allowed}: with {table.named('visibility_seconds')} a later beat comes when the lease is over"
    return ""


def _check_urls(table: Table, queue: QueueSettings, environ: Mapping[str, str]) -> None:
    platform = next((name for name in PLATFORM_VARIABLES if environ.get(name)), None)
    if not queue.url and table.sound("url"):
        table.wrong("url", WHERE_QUEUES_ARE)
    if queue.is_local and platform:
        variable = " or ".join(table.variables.get("url", ["SQS_QUEUE_URL"]))
        table.wrong("url", f"set {variable}: {platform} is set, and a queue in memory is no place for real mail")
    for key, url in (("url", queue.url), ("dead_letter_url", queue.dead_letter_url)):
        if url and url != "local" and not has_name(url):
            table.wrong(key, NAMELESS)
    if queue.url and queue.dead_letter_url and queue.is_fifo != is_fifo(queue.dead_letter_url):
        table.wrong("dead_letter_url", "a FIFO queue (.fifo) for a FIFO queue, a standard one for a standard one")
    if queue.url and queue.url == queue.dead_letter_url:
        table.wrong("dead_letter_url", "another queue than url, or each dead letter would come back at once")
