"""Bodies in one line: what is hidden, what is cut, and what is not read at all."""

import json

import pytest

from millpond.foreign.body_text import MAX_READ, body_line


def test_secrets_and_addresses_are_hidden_by_name_and_by_look():
    body = {
        "to": "ann@example.com",
        "password": "hunter2",
        "webhook": "abc",
        "deep": [{"apiKey": "k1", "n": 7}],
        "url": "a://u:p@h/x",
    }
    line = body_line(json.dumps(body, indent=2), 500)
    assert json.loads(line) == {
        "to": "***",
        "password": "***",
        "webhook": "***",
        "deep": [{"apiKey": "***", "n": 7}],
        "url": "a://***@h/x",
    }


@pytest.mark.parametrize("body", ['{"a": "é"}', '{"a": "é"}'.encode()])
def test_a_body_that_was_kept_as_bytes_reads_the_same(body):
    assert body_line(body, 100) == '{"a": "é"}'


def test_what_is_no_json_is_its_first_line_escaped_scrubbed_and_cut():
    assert body_line("\n  to: ann@example.com \x1b[31m\nsecond", 100) == "to: *** \\x1b[31m"
    assert len(body_line("x" * 5_000, 200)) == 200
    assert body_line(b"\xff\xfe", 100) == "\ufffd\ufffd"
    assert body_line("[" * 10_000, 10).startswith("[[[")


def test_of_a_long_body_only_its_length_is_shown():
    body = json.dumps({"pin_token": "1234", "x": "y" * MAX_READ})
    assert body_line(body, 200) == f"{len(body):,} characters"
    assert body_line(body.encode(), 200) == f"{len(body):,} bytes"
