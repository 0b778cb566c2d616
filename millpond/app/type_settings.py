"""[types."<event_type>"]: what config.toml says of a message type, over what its @handler says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from millpond.app.handler_options import DEFAULT_BREAKER, RATE_EXAMPLES, Breaker, rate_limit, wrong_with_breaker
from millpond.app.routing import Route
from millpond.app.toml import Table, toml_key
from millpond.errors import ConfigError
from millpond.foreign.nearest import did_you_mean
from millpond.foreign.secrets import Unshown

RateText = Annotated[str, Meta(description=RATE_EXAMPLES)]
AtOnce = Annotated[int, Meta(ge=0, le=120_000, description="0 to 120000, a whole number")]
OwnBreaker = Annotated[
    bool | dict[str, Any] | None, Meta(description="false, true, or a table, {failures = 25, outage_failures = 5}")
]
YesOrNo = Annotated[bool | None, Meta(description="true or false")]


class TypeSettings(Unshown, msgspec.Struct, frozen=True):
    """One message type; an empty rate, 0 and None: as its @handler says."""

    rate: RateText = ""
    concurrency: AtOnce = 0
    breaker: OwnBreaker = None
    idempotent: YesOrNo = None


FIELDS = TypeSettings.__struct_fields__


def read_types(tables: Mapping[str, Table], worker: Table, most_at_once: int) -> dict[str, TypeSettings]:
    """The settings of each type; what is wrong with them becomes findings of their tables.

    `worker`: the table [worker], whose concurrency is `most_at_once`.
    """
    for event_type, table in tables.items():
        for key in [key for key, value in table.values.items() if isinstance(value, dict) and key not in FIELDS]:
            table.wrong(key, f"a type with a dot is written in quotes, [types.{toml_key(f'{event_type}.{key}')}]")
    return {event_type: _read(table, worker, most_at_once) for event_type, table in tables.items()}


def _read(table: Table, worker: Table, most_at_once: int) -> TypeSettings:
    settings = table.read(TypeSettings)
    if settings.rate and table.sound("rate"):
        try:
            rate_limit(settings.rate)
        except ValueError as error:
            table.wrong("rate", str(error))
    if table.sound("concurrency") and worker.sound("concurrency") and settings.concurrency > most_at_once:
        table.wrong("concurrency", f"not more than [worker] {worker.named('concurrency')}")
    if isinstance(settings.breaker, dict):
        own = table.inner("breaker")
        numbers = msgspec.structs.asdict(own.read(Breaker))
        return msgspec.structs.replace(
            settings, breaker={name: numbers[name] for name in settings.breaker if name in numbers}
        )
    return settings


def with_types(routes: Mapping[str, Route], types: Mapping[str, TypeSettings]) -> dict[str, Route]:
    """The routes with what config.toml says of their types. Raises ConfigError with every finding."""
    findings = [_no_type(event_type, routes) for event_type in types if event_type not in routes]
    found = {name: _with(route, types[name]) if name in types else route for name, route in routes.items()}
    for name in types:
        if name in found and (breaker := found[name].breaker):
            findings += [
                f"[types.{toml_key(name)}.breaker] {key} = {getattr(breaker, key)}: {text}"
                for key, text in wrong_with_breaker(breaker)
            ]
    if findings:
        raise ConfigError(*findings)
    return found


def _with(route: Route, own: TypeSettings) -> Route:
    breaker = route.breaker
    if isinstance(own.breaker, dict):
        breaker = msgspec.structs.replace(breaker or DEFAULT_BREAKER, **own.breaker)
    elif own.breaker is not None:
        breaker = (breaker or DEFAULT_BREAKER) if own.breaker else None
    return msgspec.structs.replace(
        route,
        rate=rate_limit(own.rate) if own.rate else route.rate,
        concurrency=own.concurrency or route.concurrency,
        breaker=breaker,
        idempotent=route.idempotent if own.idempotent is None else own.idempotent,
    )


def _no_type(name: str, routes: Mapping[str, Route]) -> str:
    return f"[types.{toml_key(name)}]: no handler takes this type; {did_you_mean(name, sorted(routes))}"
