"""NoQueue: the owner of a delivery that is tried by hand, or in a test."""

from __future__ import annotations

from millpond.engine.delivery import Delivery, Line
from millpond.sqs.limits import MAX_BYTES


class NoQueue:
    """The owner of a delivery that came from no queue: nothing is given back, and nothing is held."""

    url = ""
    max_bytes = MAX_BYTES

    def __init__(self, name: str) -> None:
        self.name = name

    def stuck(self, delivery: Delivery) -> None: ...

    def is_last(self, delivery: Delivery) -> bool:
        return False

    def hold_in_line(self, delivery: Delivery, line: Line) -> bool:
        return False

    def run_again(self, delivery: Delivery) -> None: ...

    def number_inside(self, line: Line) -> int:
        return 0

    def take_bytes(self, size: int) -> bool:
        return True

    def leave_bytes(self, size: int) -> None: ...
