"""LetterPages: dead letters below the live page. A look too is a POST with the token: it takes letters for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from millpond.dead_letters.dead_letter_queue import Look
from millpond.dead_letters.error_groups import groups_of
from millpond.dead_letters.letter import Letter
from millpond.dead_letters.turns import taking_turns
from millpond.foreign.text import shown
from millpond.foreign.trace import describe, traceback_of
from millpond.http.gated_pages import Page
from millpond.http.page_access import Purpose
from millpond.http.page_request import PageAnswer, PageRequest, json_answer, plain_answer
from millpond.observe import log
from millpond.process.letter_desk import LetterDesk, LettersRefused, LettersUnknown
from millpond.process.letter_orders import LookOrder, MoveOrder, progress_fields

#: Letters, and groups of them, that the page shows.
MAX_PAGE_LETTERS, MAX_PAGE_GROUPS = 100, 50

Order = TypeVar("Order")
_BAD = plain_answer(HTTPStatus.BAD_REQUEST, "Bad Request")
_NOT_FOUND = plain_answer(HTTPStatus.NOT_FOUND, "Not Found")


class LetterPages:
    """What the page asks of `desk`, and its answers. `can_act`: a token is set, without which nothing is changed."""

    def __init__(self, desk: LetterDesk, can_act: bool) -> None:
        self._desk = desk
        self._can_act = can_act

    @property
    def pages(self) -> dict[str, Page]:
        return {
            "/letters": Page(Purpose.LOOK, self._state),
            "/letters/look": Page(Purpose.CHANGE, self._look),
            "/letters/move": Page(Purpose.CHANGE, self._move),
            "/letters/stop": Page(Purpose.CHANGE, self._stop),
        }

    def _state(self, request: PageRequest) -> PageAnswer:
        move = self._desk.progress
        fields = {"queues": self._desk.names, "can_act": self._can_act}
        return _json({**fields, "move": progress_fields(move) if move is not None else None})

    def _look(self, request: PageRequest) -> PageAnswer:
        if (order := _order(request, LookOrder)) is None:
            return _BAD
        if order.queue not in self._desk.names:
            return _NOT_FOUND
        return json_answer(self._looking(order, request.asker))

    def _looking(self, order: LookOrder, who: str) -> Iterator[bytes]:
        """The answer in one part, which may take longer than a connection that says nothing."""
        try:
            body = msgspec.json.encode(look_fields(self._desk.look(order, who), time.time()))
        except LettersRefused as error:
            body = msgspec.json.encode({"error": shown(error)})
        except Exception as error:
            text = f"a look at dead letters failed: {describe(error)}"
            log.event(logging.ERROR, "letters.failed", text, queue=order.queue, traceback=traceback_of(error))
            body = msgspec.json.encode({"error": "this look failed; the log says how"})
        yield body

    def _move(self, request: PageRequest) -> PageAnswer:
        if (order := _order(request, MoveOrder)) is None:
            return _BAD
        try:
            return _json({"move": progress_fields(self._desk.start(order, request.asker))}, HTTPStatus.ACCEPTED)
        except LettersUnknown:
            return _NOT_FOUND
        except LettersRefused as error:
            return _json({"error": shown(error)}, HTTPStatus.CONFLICT)

    def _stop(self, request: PageRequest) -> PageAnswer:
        move = self._desk.stop(request.asker)
        return _json({"move": progress_fields(move) if move is not None else None})


def _json(fields: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> PageAnswer:
    return json_answer(msgspec.json.encode(fields), status)


def _order(request: PageRequest, kind: type[Order]) -> Order | None:
    """What the body asks for; None where it is not what the page sends."""
    try:
        return msgspec.json.decode(request.body, type=kind)
    except ValueError:  # what msgspec raises
        return None


def look_fields(look: Look, now: float) -> dict[str, Any]:
    """A look as the page shows it: what failed alike, and the newest letters. Others run meanwhile."""
    newest = look.newest[:MAX_PAGE_LETTERS]
    groups = groups_of(taking_turns(look.letters))[:MAX_PAGE_GROUPS]
    return {
        "summary": look.summary,
        "hidden": look.hidden,
        "matching": len(look.letters),
        "groups": [
            {
                "type": shown(one.event_type, 100),
                "error": shown(one.text),
                "count": one.count,
                "first_seconds": round(now - one.first),
                "last_seconds": round(now - one.last),
            }
            for one in taking_turns(groups)
        ],
        "letters": [_row(one, now) for one in taking_turns(newest)],
    }


def _row(letter: Letter, now: float) -> dict[str, Any]:
    return {
        "id": letter.id,
        "type": shown(letter.event_type, 100),
        "event_id": shown(letter.event_id, 100),
        "problem": shown(letter.problem),
        "attempts": letter.attempts,
        "age_seconds": round(now - letter.failed_at),
        "replays": letter.mark.replays if letter.mark is not None else 0,
        "body": letter.received.text,  # what the desk has left of it
    }
