"""`claims show` and `claims release`: by the event id, by type, by the whole key."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from millpond.claims.claim import key_of
from millpond.claims.dynamodb import DynamoClaims, connect_table
from millpond.commands import cli
from tests.dynamo_server import dynamo
from tests.worker_process import write_project

NUMBERS = itertools.count()
JOBS = """
from millpond import handler

@handler("mail", idempotent=True)
def mail(payload: dict) -> None:
    pass

@handler("invoice", idempotent=True)
def invoice(payload: dict) -> None:
    pass

@handler("plain")
def plain(payload: dict) -> None:
    pass
"""


@pytest.fixture(scope="module")
def server():
    with dynamo() as server:
        server.create("shown-claims")
        yield server


@pytest.fixture
def store(server, monkeypatch, tmp_path):
    """The table, and a project in the current folder that uses it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", server.url)
    monkeypatch.delenv("DYNO", raising=False)
    monkeypatch.chdir(tmp_path)
    package = f"claim_jobs{next(NUMBERS)}"
    queue = '[queues.q]\nurl = "local"\n[idempotency]\ntable = "shown-claims"\n'
    write_project(tmp_path, JOBS, f'[worker]\nhandlers = ["{package}"]\n{queue}', package)
    yield DynamoClaims(connect_table("shown-claims", "us-east-1", 5), 3_600)
    server.application.before = lambda name: None


@pytest.fixture
def claims(capsys, store):
    def claims(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["claims", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return claims


def begin(store, key, lease=60.0):
    now = time.time()
    store.claim(key, "a", "digest", now + lease, now)
    return now


def ended(store, key, how):
    now = begin(store, key, lease=-60 if how == "lapsed" else 60)
    if how == "done":
        store.complete(key, "a", now)
    if how == "released":
        store.release(key, "a", 2, now)
    if how == "expired":
        store.release(key, "a", None, now)


@pytest.mark.parametrize(
    ("how", "lines"),
    [
        ("held", ["state     held", "lease     2", "failures  0", "expires   2"]),
        ("lapsed", ["state     lapsed", "lease     2", "failures  0", "expires   2"]),
        ("released", ["state     released", "failures  2", "expires   2"]),
        ("done", ["state     done", "done      2", "failures  0", "expires   2"]),
        ("expired", ["state     expired", "failures  0", "expires   2"]),
    ],
)
def test_show_says_what_the_table_knows_of_an_event(claims, store, how, lines):
    ended(store, f"mail {how}-1", how)
    code, out, err = claims("show", f"{how}-1")
    assert (code, err) == (0, "")
    shown = out.splitlines()
    assert shown[0] == f"event     mail {how}-1"
    assert [line[: len(wanted)] for line, wanted in zip(shown[1:], lines, strict=True)] == lines
    assert " UTC, " in shown[-1]


@pytest.mark.parametrize("at", [9e20, 3e11])
def test_a_moment_that_no_calendar_has_is_shown_as_a_number(claims, store, at):
    """Of a worker whose clock was wrong, or of another program."""
    now = begin(store, f"mail at-{at}")
    store.renew(f"mail at-{at}", "a", at, now)
    code, out, err = claims("show", f"at-{at}")
    assert (code, err) == (0, "")
    assert f"lease     {at:g} s since the epoch" in out


def test_an_event_id_of_two_types_is_shown_twice_and_released_by_its_type(claims, store):
    for key in ("mail twice", "invoice twice"):
        ended(store, key, "done")
    code, out, _ = claims("show", "twice")
    assert (code, out.count("event     ")) == (0, 2)
    code, out, err = claims("release", "twice")
    assert code == 3
    assert "more than one event has this id (invoice twice, mail twice): name its --type" in err
    assert claims("release", "twice", "--type", "mail")[0] == 0
    assert store.read("mail twice") is None
    assert store.read("invoice twice") is not None


@pytest.mark.parametrize("how", ["lapsed", "released", "done", "expired"])
def test_release_removes_the_record_and_says_what_it_was(claims, store, how):
    key = f"mail {how}-2"
    ended(store, key, how)
    code, out, err = claims("release", key)
    assert (code, err) == (0, "")
    assert f"state     {how}" in out
    assert out.endswith("removed: the next delivery runs it as a new event\n")
    assert store.read(key) is None


def test_a_claim_that_a_worker_has_is_released_by_force_alone(claims, store):
    now = begin(store, "mail live")
    code, out, err = claims("release", "live")
    assert code == 1
    assert "state     held" in out
    assert "a worker has it: nothing was removed. --force removes it" in err
    assert store.read("mail live") is not None
    assert claims("release", "live", "--force")[0] == 0
    assert store.read("mail live") is None
    assert not store.renew("mail live", "a", now + 90, now), "its worker has lost it"


def test_a_record_that_another_worker_claims_meanwhile_stays(claims, store, server):
    key = "mail race"
    ended(store, key, "released")

    def claim_first(name):
        if name == "DeleteItem":
            server.application.before = lambda name: None
            now = time.time()
            store.claim(key, "b", "digest", now + 60, now)

    server.application.before = claim_first
    code, _, err = claims("release", "race")
    assert code == 1
    assert "another worker has claimed it meanwhile" in err
    assert store.read(key).token == "b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["7"], "there is no claim of invoice 7 or of mail 7"),
        (["7", "--type", "plain"], "there is no claim of plain 7"),
        (["mail 7"], "there is no claim of mail 7 or of invoice mail 7 or of mail mail 7"),
    ],
)
@pytest.mark.parametrize("action", ["show", "release"])
def test_what_is_not_there_is_named_with_the_keys_that_were_looked_for(claims, action, arguments, said):
    assert claims(action, *arguments) == (1, "", f"{said}\n")


def test_an_id_of_any_kind_is_found(claims, store):
    for event_id in ("Zürich 東京", "x" * 600, "-1"):
        ended(store, key_of("mail", event_id), "done")
        assert claims("show", "--type", "mail", "--", event_id)[0] == 0


def test_a_table_that_cannot_be_asked_is_said_with_exit_code_3(claims, server):
    body = json.dumps({"__type": "x#AccessDeniedException", "message": "not for you"}).encode()
    server.application.before = lambda name: (400, body)
    code, _, err = claims("show", "7")
    assert code == 3
    assert "[idempotency] table: the claim table shown-claims refuses dynamodb:GetItem" in err


def test_without_a_table_there_is_nothing_to_see(claims, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(path.read_text().replace('table = "shown-claims"', 'table = ""'))
    code, _, err = claims("show", "7")
    assert code == 3
    assert "[idempotency] table is empty: claims are in a worker's own memory then" in err


def test_the_claims_of_a_prefix_are_found_by_the_type_that_came(claims, store, tmp_path):
    [jobs] = [path for path in tmp_path.glob("*/*.py") if "@handler" in path.read_text()]
    jobs.write_text(
        'from millpond import handler\n@handler("s3:*", idempotent=True)\ndef one(payload: dict) -> None: ...\n'
    )
    begin(store, key_of("s3:ObjectCreated:Put", "7"))
    code, _, err = claims("show", "7")
    assert (code, "s3:* takes many types: name the message's type by --type" in err) == (3, True)
    code, out, _ = claims("show", "7", "--type", "s3:ObjectCreated:Put")
    assert (code, "held" in out) == (0, True)
