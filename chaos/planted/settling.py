"""Bugs of settling: a delete too early, an answer that is not read, a call that is not tried again."""

from __future__ import annotations

from typing import Any

from chaos.planted.bug import mutant
from millpond.engine import lease_keeper, message_sender, settler
from millpond.engine.delivery import Delivery
from millpond.engine.message_sender import MessageSender
from millpond.engine.settler import Settler
from millpond.message import Outcome
from millpond.sqs.batcher import Batcher

#: Where each kind of call reads its answer.
ANSWERS = tuple((module, "results_of") for module in (lease_keeper, settler, message_sender))


@mutant("a dead letter is deleted after its copy is confirmed", (MessageSender, "send"))
def deleted_before_copy(original: Any) -> Any:
    def send(self: MessageSender, delivery: Delivery, outcome: Outcome) -> None:
        original(self, delivery, outcome)
        self._owner.all_sent(delivery)

    return send


@mutant("the Failed entries of an answer are read", *ANSWERS)
def failed_unread(original: Any) -> Any:
    def results_of(call: Any, entries: int) -> Any:
        found = original(call, entries)
        return [None if one is not None and not one.code.startswith("call:") else one for one in found]

    return results_of


@mutant("entries are numbered: each reads its own answer", *ANSWERS)
def answers_reversed(original: Any) -> Any:
    return lambda call, entries: original(call, entries)[::-1]


@mutant("a delete that failed is sent again", (Settler, "_goes_again"))
def failed_delete_given_up(original: Any) -> Any:
    def goes_again(self: Settler, delivery: Delivery, current: bool, failure: Any) -> bool:
        if original(self, delivery, current, failure):
            if failure is None:
                return True
            self.abandon(delivery, failure)
        return False

    return goes_again


@mutant("what is to be tried again is kept meanwhile", (Batcher, "_back_off"))
def retries_are_dropped(original: Any) -> Any:
    return lambda self, items: original(self, items[:-1])


@mutant(
    "deletes have more than one flusher: one waits for each answer", (settler, "FLUSHERS"), (lease_keeper, "FLUSHERS")
)
def one_flusher(original: Any) -> Any:
    return 1
