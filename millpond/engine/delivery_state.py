"""DeliveryState: how far a delivery is, and what may follow."""

from __future__ import annotations

from enum import Enum


class DeliveryState(Enum):
    """How far a delivery is.

    | from                 | to          | when |
    |----------------------|-------------|------|
    |                      | WAITING     | `InHand._deliver`: a receive has brought the message |
    | WAITING, HANDLED     | RUNNING     | `Delivery.enter`: a slot goes into the handler |
    | WAITING, HANDLED     | ON_HOLD     | `Hold._park`: it may not begin yet |
    | ON_HOLD              | WAITING     | `Hold.take`: it may begin, or it ends |
    | RUNNING              | INTERRUPTED | `Delivery.throw`: the time limit, the drain, or a lost lease |
    | RUNNING, INTERRUPTED | HANDLED     | `Delivery.leave`: the handler is over, or its slot is written off |
    | WAITING, HANDLED     | SETTLING    | `Endings.end`: its outcome is queued for settling, once for all |

    What is held after its handler has run goes into it again.
    """

    WAITING = "waiting"
    ON_HOLD = "on hold"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    HANDLED = "handled"
    SETTLING = "settling"


WAITING, ON_HOLD, RUNNING, INTERRUPTED, HANDLED, SETTLING = DeliveryState
