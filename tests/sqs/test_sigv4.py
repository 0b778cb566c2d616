"""Our signatures against botocore's own, for any request that is of our kind."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond.claims.table_wire import DYNAMODB
from millpond.sqs.signed_calls import SQS, AwsService, signed_request, site_of
from millpond.sqs.sigv4 import Keys, moment

AT = 1_795_305_599  # 2026-11-21 23:59:59
#: What a header can carry: a line break, or a space at an end, is refused before anything is signed.
visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200)
keys = st.builds(Keys, visible.filter(lambda text: "/" not in text), st.text(max_size=60), visible | st.just(""))
hosts = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,9}){0,3}", fullmatch=True)
ports = st.sampled_from(["", ":80", ":443"]) | st.integers(1, 65_535).map(lambda port: f":{port}")
paths = st.sampled_from(["", "/", "/prefix", "/a/b/", "/with~tilde", "/with%20space"])
regions = st.sampled_from(["us-east-1", "eu-central-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1"])
names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=40)
around_midnight = st.integers(AT - 3, AT + 3)
seconds = around_midnight | st.integers(0, 4_102_444_800)


def theirs(service: AwsService, url: str, region: str, name: str, body: bytes, keys: Keys, at: int) -> str:
    headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"{service.target}.{name}"}
    headers |= dict(service.headers)
    request = AWSRequest("POST", url, headers, body)
    with patch("botocore.auth.get_current_datetime", lambda: datetime.fromtimestamp(at, UTC).replace(tzinfo=None)):
        SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token or None), service.name, region).add_auth(
            request
        )
    return request.headers["Authorization"]


def fields(wire: bytes) -> dict[str, str]:
    head = wire.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in head)


services, schemes = st.sampled_from([SQS, DYNAMODB]), st.sampled_from(["http", "https"])


@given(services, schemes, hosts, ports, paths, regions, names, st.binary(max_size=300), keys, seconds)
def test_what_we_sign_botocore_would_sign_the_same(service, scheme, host, port, path, region, name, body, keys, at):
    url = f"{scheme}://{host}{port}{path}"
    wire = signed_request(site_of(url, region, service), name, body, keys, moment(at))
    sent = fields(wire)
    target = wire.split(b" ", 2)[1].decode()
    assert sent["authorization"] == theirs(service, f"{scheme}://{host}{port}{target}", region, name, body, keys, at)
    assert sent.get("x-amz-security-token", "") == keys.token
    assert sent["x-amz-date"] == f"{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
    assert wire.endswith(b"\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://queue.example", "queue.example", "/"),
        ("http://Queue.Example:80/", "queue.example", "/"),
        ("http://queue.example:443", "queue.example:443", "/"),
        ("https://queue.example:443/prefix", "queue.example", "/prefix/"),
        ("http://[::1]:8000", "[::1]:8000", "/"),
        ("http://[::1]/a b", "[::1]", "/a%20b/"),
    ],
)
def test_the_host_has_no_default_port_and_the_path_ends_in_a_slash(url, host, path):
    assert site_of(url, "eu-west-1")[:2] == (host, path)


def test_the_day_key_changes_at_midnight_utc():
    site, key = site_of("https://sqs.eu-west-1.amazonaws.com", "eu-west-1"), Keys("id", "secret")
    days = {
        fields(signed_request(site, "A", b"", key, moment(at)))["authorization"].split("/")[1] for at in (AT, AT + 1)
    }
    assert days == {"20261121", "20261122"}


def test_nothing_of_a_session_token_is_left_when_the_next_keys_have_none():
    site = site_of("https://sqs.eu-west-1.amazonaws.com", "eu-west-1")
    for token in ("t1", "", "t2"):
        wire = signed_request(site, "A", b"", Keys("id", "secret", token), moment(AT))
        assert fields(wire).get("x-amz-security-token", "") == token
        assert ("x-amz-security-token" in fields(wire)["authorization"]) == bool(token)


def test_the_keys_are_not_shown():
    shown = repr(Keys("AKIA", "the secret", "the token"))
    assert "AKIA" in shown
    assert "the secret" not in shown
    assert "the token" not in shown
