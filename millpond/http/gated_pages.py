"""GatedPages: pages that not everybody may see, behind one gate: who is refused by page_access reaches no page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from millpond.http.page_access import AccessRules, Purpose, denial_of
from millpond.http.page_request import PageAnswer, PageRequest, plain_answer, request_of, with_body

# A browser asks its user where a page is refused; not where a script is, which has a field for the token.
_ASK_FOR_TOKEN = {
    Purpose.LOOK: (("WWW-Authenticate", 'Basic realm="the token of [http]", charset="UTF-8"'),),
    Purpose.CHANGE: (("WWW-Authenticate", 'Bearer realm="the token of [http]"'),),
}

# What no other site may do with what is behind the gate: guess its type, frame it, learn its address, read it.
_GUARDS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)


class Page(NamedTuple):
    """One path: what it is for, and what it answers."""

    purpose: Purpose
    answer: Callable[[PageRequest], PageAnswer]


class GatedPages(NamedTuple):
    """Pages by their paths, and who may see them."""

    pages: Mapping[str, Page]
    rules: AccessRules


NO_PAGES = GatedPages({}, AccessRules())


def gated_answer(gated: GatedPages, environ: Mapping[str, Any]) -> PageAnswer:
    """The answer of the page that is asked for, which must be there, or the refusal, without a detail."""
    answer = _answer(gated.pages[environ["PATH_INFO"]], gated.rules, environ)
    return answer._replace(headers=(*answer.headers, *_GUARDS))


def _answer(page: Page, rules: AccessRules, environ: Mapping[str, Any]) -> PageAnswer:
    try:
        request = request_of(environ)
        if (status := denial_of(request, page.purpose, rules)) is not None:
            return _denied(status, page.purpose)
        request = with_body(request, environ) if page.purpose is Purpose.CHANGE else request
    except ValueError:
        return _denied(HTTPStatus.BAD_REQUEST, page.purpose)
    return page.answer(request)


def _denied(status: HTTPStatus, purpose: Purpose) -> PageAnswer:
    headers = _ASK_FOR_TOKEN[purpose] if status is HTTPStatus.UNAUTHORIZED else ()
    return plain_answer(status, status.phrase)._replace(headers=headers)
