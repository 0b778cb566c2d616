"""LivePage: one page that shows the process while it runs, by a stream of snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from secrets import token_urlsafe

import msgspec

from millpond.app.http_settings import HttpSettings
from millpond.http.gated_pages import NO_PAGES, GatedPages, Page
from millpond.http.page_access import AccessRules, Purpose
from millpond.http.page_frame import page_html
from millpond.http.page_request import PageAnswer, PageRequest, json_answer, plain_answer
from millpond.process.core import Core
from millpond.process.history import History, HistoryPlace
from millpond.process.letter_desk import LetterDesk
from millpond.process.letter_pages import LetterPages
from millpond.process.observer import Observer
from millpond.process.snapshot import snapshot_json

#: Streams at once, the gap between two snapshots of one, and how long one may last: a browser then asks again.
MAX_VIEWERS, EVENT_SECONDS, STREAM_SECONDS = 4, 1.0, 300.0
#: Handlers that run, in one snapshot of a stream: a page of a thousand rows helps nobody.
MAX_STREAMED_RUNNING = 50
_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class LivePage:
    """Shows what `observer` sees, which asks nobody; and the dead letters of `desk`, when it is asked to."""

    def __init__(
        self, settings: HttpSettings, core: Core, observer: Observer, history: History, desk: LetterDesk
    ) -> None:
        self._settings = settings
        self._letters = LetterPages(desk, bool(settings.token))
        self._core = core
        self._observer = observer
        self._history = history
        self._viewers = 0

    @property
    def gated(self) -> GatedPages:
        """The pages, below the prefix, and who may see them."""
        if not self._settings.page:
            return NO_PAGES
        pages = {"/": self._html, "/status": self._status, "/events": self._events, "/history": self._whole_history}
        hosts = frozenset(host.lower() for host in self._settings.hosts)
        found = {path: Page(Purpose.LOOK, answer) for path, answer in pages.items()} | self._letters.pages
        below = {f"{self._settings.prefix}{path}": page for path, page in found.items()}
        return GatedPages(below, AccessRules(hosts, self._settings.token))

    def _html(self, request: PageRequest) -> PageAnswer:
        nonce = token_urlsafe(18)
        body = page_html(nonce)
        policy = ("Content-Security-Policy", _POLICY.format(nonce))
        return PageAnswer(HTTPStatus.OK, body, "text/html; charset=utf-8", (policy,))

    def _status(self, request: PageRequest) -> PageAnswer:
        return json_answer(snapshot_json(self._observer.take(bodies=self._settings.show_bodies, failures=True)))

    def _whole_history(self, request: PageRequest) -> PageAnswer:
        return json_answer(msgspec.json.encode(self._history.since(HistoryPlace())))

    def _events(self, request: PageRequest) -> PageAnswer:
        if self._viewers >= MAX_VIEWERS:
            return plain_answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_VIEWERS} viewers look at this worker already")
        return PageAnswer(HTTPStatus.OK, self._stream(), "text/event-stream")

    def _stream(self) -> Iterator[bytes]:
        self._viewers += 1
        try:
            end = self._core.clock.now() + STREAM_SECONDS
            yield b"retry: 1000\n\n"
            bodies = self._settings.show_bodies
            place = HistoryPlace()
            while self._core.clock.now() < end:
                part, place = self._history.since(place), self._history.place
                if part.is_news:
                    yield b"event: history\ndata: " + msgspec.json.encode(part) + b"\n\n"
                yield b"data: " + snapshot_json(self._observer.take(MAX_STREAMED_RUNNING, bodies)) + b"\n\n"
                self._core.clock.sleep(EVENT_SECONDS)
        finally:
            self._viewers -= 1
