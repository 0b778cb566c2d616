"""The handlers that each platform runs, unchanged. Each logs what it was called with, as the event `log`."""

import logging
from typing import Any

import gevent
import msgspec

from millpond import Discard, Message, Reject, Retry, handler

log = logging.getLogger("work")


class Order(msgspec.Struct):
    number: int
    note: str = ""


def note(message: Message, payload: Any) -> None:
    """A line that says what this call has seen of its message."""
    seen = {
        "payload": msgspec.to_builtins(payload),
        "called_as": message.event_type,
        "attributes": {name: str(value) for name, value in message.attributes.items()},
    }
    log.info("handled", extra={"seen": msgspec.json.encode(seen, order="deterministic").decode()})


@handler("order.paid")
def paid(order: Order, message: Message) -> None:
    gevent.sleep(0.002)
    note(message, order)


@handler("order.flaky")
def flaky(order: Order, message: Message) -> None:
    note(message, order)
    if message.attempt == 1:
        raise Retry("the ledger is closed", after=0)


@handler("order.fails", max_attempts=2, backoff=(0.5, 0.5), breaker=False)
def fails(order: Order, message: Message) -> None:
    note(message, order)
    raise ValueError(f"order {order.number} cannot be added up")


@handler("order.poison", max_attempts=3, breaker=False)
def poison(order: Order) -> None:
    raise Retry("it never works", after=0)


@handler("order.negative")
def negative(order: Order) -> None:
    raise Reject("a negative order")


@handler("order.known")
def known(order: Order) -> None:
    raise Discard("it is there already")


@handler("order.exits", max_attempts=1)
def exits(order: Order) -> None:
    raise SystemExit(3)


@handler("order.split")
def split(order: Order, message: Message) -> None:
    note(message, order)
    if order.note != "half":
        message.follow_up({"number": order.number, "note": "half"})


@handler("order.threaded", thread=True)
def threaded(order: Order, message: Message) -> None:
    note(message, order)


@handler("Order Placed")
def placed(detail: dict[str, Any], message: Message) -> None:
    note(message, detail)


@handler("com.example.order.shipped")
def shipped(order: Order, message: Message) -> None:
    note(message, order)


@handler("s3:ObjectCreated:*")
def uploaded(record: dict[str, Any], message: Message) -> None:
    note(message, record["s3"]["object"]["key"])


@handler("s3:ObjectRemoved:Delete")
def removed(record: dict[str, Any], message: Message) -> None:
    note(message, record["s3"]["object"]["key"])


@handler("text")
def text(payload: str, message: Message) -> None:
    note(message, payload)
