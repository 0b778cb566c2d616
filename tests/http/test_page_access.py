"""Who may see the worker's page and who may act by it: a request, the rules, and what is refused."""

from __future__ import annotations

from base64 import b64encode
from http import HTTPStatus

import msgspec
import pytest

from millpond.app.http_settings import HttpSettings
from millpond.http.page_access import AccessRules, Purpose, denial_of
from millpond.http.page_request import PageRequest, request_of

TOKEN = "a-token-of-this-test"
RULES = AccessRules(frozenset({"worker.example", "other.example:8443"}), TOKEN)
HERE = PageRequest("GET", "/", "127.0.0.1:8080", "127.0.0.1")
BASIC = f"Basic {b64encode(f'anybody:{TOKEN}'.encode()).decode()}"
ACT = PageRequest(
    "POST", "/replay", "localhost:8080", "127.0.0.1", authorization=f"Bearer {TOKEN}", content_type="application/json"
)
NOT_HERE, NOT_SAME, NO_TOKEN = HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED
NOT_SO = HTTPStatus.METHOD_NOT_ALLOWED


def look(rules: AccessRules = RULES, **changes: object) -> HTTPStatus | None:
    return denial_of(HERE._replace(**changes), Purpose.LOOK, rules)


def act(rules: AccessRules = RULES, **changes: object) -> HTTPStatus | None:
    return denial_of(ACT._replace(**changes), Purpose.CHANGE, rules)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "[::1]"])
def test_this_machine_may_look_without_a_token(host):
    assert look(host=host) is None
    assert look(AccessRules(), host=host, peer="::1", method="HEAD") is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "localhost:80,evil.example",
        "evil.example:80@localhost",
        "127.0.0.1.evil.example:8080",
        "[::1].evil.example",
        "worker.example.evil.example",
        "other.example:8080",
        "localhost:80 evil.example",
        "192.168.1.7",
        "0.0.0.0:8080",
    ],
)
def test_a_host_that_is_not_this_worker_is_refused_whatever_it_brings(host):
    assert look(host=host) is NOT_HERE
    assert look(host=host, authorization=BASIC) is NOT_HERE
    assert act(host=host) is NOT_HERE


def test_a_name_of_the_settings_is_answered_with_the_token_only():
    for host in ("worker.example", "WORKER.example:1", "other.example:8443"):
        assert look(host=host) is NO_TOKEN
        assert look(host=host, authorization=BASIC) is None
        assert look(host=host, authorization=f"Bearer {TOKEN}") is None


def test_what_comes_from_elsewhere_needs_the_token_by_whatever_name_and_without_one_nothing_is_shown():
    for elsewhere in ({"peer": "10.0.0.9"}, {"is_forwarded": True}, {"peer": ""}):
        assert look(**elsewhere) is NO_TOKEN
        assert look(**elsewhere, authorization=BASIC) is None
        assert look(AccessRules(), **elsewhere) is NOT_SAME
        assert look(AccessRules(), **elsewhere, authorization="Bearer ") is NOT_SAME


@pytest.mark.parametrize(
    "more",
    [
        {"SERVER_PROTOCOL": "HTTP/1.0"},  # nginx as it comes: Host is the worker's own address
        {"HTTP_X_FORWARDED_FOR": "203.0.113.7"},
        {"HTTP_X_FORWARDED_PROTO": "https"},
        {"HTTP_X_FORWARDED_HOST": ""},
        {"HTTP_FORWARDED": "for=203.0.113.7"},
        {"HTTP_X_REAL_IP": "203.0.113.7"},
        {"HTTP_VIA": "1.1 proxy"},
    ],
)
def test_what_a_proxy_on_this_machine_passes_on_is_not_from_here(more):
    here = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1:8080", "REMOTE_ADDR": "127.0.0.1"}
    here["SERVER_PROTOCOL"] = "HTTP/1.1"
    assert denial_of(request_of(here), Purpose.LOOK, RULES) is None
    assert denial_of(request_of(here | more), Purpose.LOOK, RULES) is NO_TOKEN


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", ""])
def test_a_page_is_looked_at_by_get_and_head_only(method):
    assert look(method=method) is NOT_SO


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "post", ""])
def test_nothing_is_changed_but_by_post(method):
    assert act() is None
    assert act(method=method) is NOT_SO


def test_without_a_token_in_the_settings_nothing_can_be_changed():
    assert act(AccessRules()) is NOT_SO
    for authorization in ("", "Bearer", "Bearer ", "Basic Og=="):
        assert act(AccessRules(), authorization=authorization) is NOT_SO


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, "Basic", "Basic !", "Basic Og==",
     f"Digest {TOKEN}", "Bearer \udcff", f"Basic {b64encode(TOKEN.encode()).decode()}", "Basic /w=="],
)  # fmt: skip
def test_a_change_needs_the_token_from_this_machine_too(authorization):
    assert act(authorization=authorization) is NO_TOKEN


def test_the_token_is_taken_as_bearer_and_as_a_password():
    assert act(authorization=f"bearer  {TOKEN} ") is None
    assert act(authorization=BASIC) is None


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_what_a_browser_calls_another_site_changes_nothing_whatever_its_origin(site):
    assert act(fetch_site=site, origin="http://localhost:8080") is NOT_SAME
    assert look(fetch_site=site) is None  # the browser shows the other page nothing of the answer


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost", "http://localhost:8081", "localhost:8080", "http://"]
)
def test_an_older_browser_is_judged_by_its_origin(origin):
    assert act(origin=origin) is NOT_SAME
    assert act(origin="http://LOCALHOST:8080") is None
    assert act(origin=origin, fetch_site="same-origin") is None


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"])
def test_a_form_of_another_page_changes_nothing(kind):
    assert act(content_type=kind) is HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert act(content_type="application/json; charset=utf-8") is None


@pytest.mark.parametrize("token", ["kürbis-der-zweite", "\u20ac" * 16, "sixteen characters", "too short"])
def test_a_token_that_a_browser_cannot_send_is_none(token):
    """fetch() refuses a header beyond Latin-1, and curl sends ü by two bytes: neither was ever the token."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"token": token}, HttpSettings)
    assert msgspec.convert({"token": "!~" * 8}, HttpSettings).token
