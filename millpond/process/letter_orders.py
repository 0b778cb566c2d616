"""What the live page may ask of dead letters, and how far it is: values, and what is wrong with them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from millpond.dead_letters.mover import Moved
from millpond.dead_letters.selection import Selection
from millpond.foreign.text import shown
from millpond.observe.screen import counted

#: Letters that one order may move.
MAX_PAGE_MOVE = 1_000
#: Letters that one order looks at to find them: a held one takes half a kilobyte, and two requests.
MAX_PAGE_REACH = 10_000
#: Letters that are named one by one, with the reason why they stay.
MAX_PAGE_KEPT = 100

MoveKind = Literal["replay", "discard"]
MoveState = Literal["moving", "done", "failed"]
Short = Annotated[str, Meta(max_length=100)]
Wanted = Annotated[str, Meta(max_length=500)]


class LookOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Look at a sample of the dead letters of this queue; of those show what the filters take."""

    queue: Short
    types: Annotated[tuple[Wanted, ...], Meta(max_length=20)] = ()
    reason: Wanted = ""
    text: Wanted = ""

    @property
    def selection(self) -> Selection:
        return Selection(types=self.types, reason=self.reason, text=self.text)


class MoveOrder(LookOrder, frozen=True, kw_only=True):
    """Move at most `most` letters: those of these whole `ids`, or what the filters take; every one only by `all`."""

    do: MoveKind
    ids: Annotated[tuple[Short, ...], Meta(max_length=MAX_PAGE_MOVE)] = ()
    most: Annotated[int, Meta(ge=1, le=MAX_PAGE_MOVE)] = MAX_PAGE_MOVE
    all: bool = False

    @property
    def selection(self) -> Selection:
        return Selection(ids=self.ids, types=self.types, reason=self.reason, text=self.text, whole_ids=True)

    @property
    def described(self) -> str:
        """What it asks for, in words."""
        return f"{self.do} of at most {counted(self.most, 'dead letter')} of {self.queue}, {self._chosen()}"

    def _chosen(self) -> str:
        if self.all:
            return "whichever they are"
        filters = {"type": " or ".join(self.types), "reason": self.reason, "text": self.text}
        parts = [f"{name} {shown(value, 100)}" for name, value in filters.items() if value]
        return ", ".join([*([f"by {counted(len(self.ids), 'id')}"] if self.ids else []), *parts])


class MoveProgress(msgspec.Struct):
    """One move, and how far it is: `done` grows while it goes on. `why`: it has failed, or stopped before its end."""

    order: MoveOrder
    done: Moved
    state: MoveState = "moving"
    stop_asked: bool = False
    why: str = ""

    @property
    def result(self) -> str:
        """How it has ended, in words."""
        done = self.done
        rest = {
            "kept": done.refused,
            "perhaps sent as well": len(done.uncertain),
            "not deleted": len(done.left),
            "not found": len(done.missing),
        }
        parts = [f"{number} {name}" for name, number in rest.items() if number]
        return ", ".join([f"{done.moved} moved", *parts, *([self.why] if self.why else [])])


def left_behind(progress: MoveProgress) -> str:
    """What is not known of a move when its process ends first."""
    number, text = progress.done.in_air, "the worker ended before it"
    if not number or progress.order.do == "discard":
        return f"{text}; what it still held is visible again within a minute"
    return f"{text}: {counted(number, 'letter')} of the last batch may have gone, and be dead letters as well"


def wrong_with_order(order: MoveOrder) -> str:
    """Why an order is refused; "" where it is not. An empty selection is every letter, which is never meant unsaid."""
    if order.selection.is_all != order.all:
        return "choose letters by id, type, reason or text, or every one by all, and not both"
    return ""


def progress_fields(progress: MoveProgress) -> dict[str, Any]:
    """A move as the page shows it: counts, and of those that stay the first with their reasons."""
    order, done = progress.order, progress.done
    kept = [(shown(one, 100), shown(why)) for one, why in done.kept[:MAX_PAGE_KEPT]]
    return {
        "do": order.do,
        "queue": order.queue,
        "state": progress.state,
        "stopping": progress.stop_asked and progress.state == "moving",
        "most": order.most,
        "moved": done.moved,
        "looked": done.looked,
        "refused": done.refused,
        "kept": kept,
        "uncertain": len(done.uncertain),
        "left": len(done.left),
        "missing": len(done.missing),
        "newer": done.newer,
        "why": progress.why,
    }
