"""Dead letters by the live page, over real sockets and a local SQS: who may, what moves, what ends it."""

from __future__ import annotations

import json
import logging
import time
from types import SimpleNamespace

import gevent
import greenlet
import pytest

from millpond.app.config import QueueSettings
from millpond.app.http_settings import HttpSettings
from millpond.dead_letters import mover, sweep
from millpond.dead_letters.dead_letter_queue import DeadLetterQueue
from millpond.errors import AccessDenied
from millpond.http import bounded_server
from millpond.http.http_server import HttpServer
from millpond.http.page_request import MAX_PAGE_BODY
from millpond.hub.clock import SystemClock
from millpond.local import LocalSqs
from millpond.local import server as local_server
from millpond.process import letter_desk
from millpond.process.core import Core
from millpond.process.letter_desk import LetterDesk
from millpond.process.live_page import LivePage
from millpond.sqs.sqs_queue import SqsQueue
from tests.dead_letters.letters import Letters, body_of, entry_of
from tests.process.test_live_page import HOST, TOKEN, ask, opened

BEARER = f"Authorization: Bearer {TOKEN}"
JSON = "Content-Type: application/json"
ORDERS = {
    "/letters/look": {"queue": "emails"},
    "/letters/move": {"do": "discard", "queue": "emails", "all": True},
    "/letters/stop": {},
}


class Signals:
    """Of a process that no signal reaches."""

    def end_within(self, seconds: float, code: int) -> None:
        """Nothing ends this one."""


class Desk:
    """A desk and its pages on a port, for the queues of `letters`."""

    def __init__(self, letters: Letters, token: str, **settings: object) -> None:
        self.core = Core(1, 5.0, SystemClock(), Signals())
        http = HttpSettings(listen="127.0.0.1:0", token=token, **settings)
        self.desk = LetterDesk(self.core, {"emails": QueueSettings(url=letters.url)}, http.show_bodies)
        queue = letters.queue
        of_worker = SimpleNamespace(
            name="emails", url=letters.url, queue=queue.sources["emails"], dead_letters=queue.queue
        )
        of_other = SimpleNamespace(name="other", url=letters.url, queue=queue.sources["emails"], dead_letters=None)
        self.desk.ready([of_worker, of_other])
        self.server = HttpServer(("127.0.0.1", 0), {}, "[http]", LivePage(http, self.core, None, None, self.desk).gated)
        self.server.start()
        self.port = self.server.port

    def post(self, path: str, order: object, *headers: str) -> tuple[int, dict]:
        """As the page does it."""
        status, _, text = self.send(f"POST {path}", json.dumps(order).encode(), HOST, BEARER, JSON, *headers)
        return status, json.loads(text) if text.startswith("{") else text

    def send(self, line: str, body: bytes, *headers: str) -> tuple[int, dict[str, str], str]:
        with opened(self.server, line, f"Content-Length: {len(body)}", *headers) as connection:
            connection.sendall(body)
            answer = b""
            while part := connection.recv(65_536):
                answer += part
        head, _, text = answer.partition(b"\r\n\r\n")
        fields = dict(one.lower().split(": ", 1) for one in head.decode().split("\r\n")[1:])
        return int(head.split()[1]), fields, unchunked(text) if "transfer-encoding" in fields else text.decode()

    def state(self) -> dict:
        return json.loads(ask(self.server, "GET /letters", HOST)[2])

    def moved(self) -> dict:
        """Wait for the end of the move; what it has done."""
        with gevent.Timeout(20):
            while (move := self.state()["move"])["state"] == "moving":
                gevent.sleep(0.01)
        return move

    def drain(self) -> None:
        self.core.stop("SIGTERM")
        self.desk.draining()
        with gevent.Timeout(10):
            self.desk.close()


def unchunked(text: bytes) -> str:
    found = b""
    while (head := text.partition(b"\r\n"))[0] != b"0":
        size = int(head[0], 16)
        found, text = found + head[2][:size], head[2][size + 2 :]
    return found.decode()


@pytest.fixture
def letters(monkeypatch, caplog):
    caplog.set_level("INFO")
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "eu-west-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(local_server, "STOP_SECONDS", 0)
    monkeypatch.setattr(sweep, "WAIT_SECONDS", 0)
    monkeypatch.setattr(mover, "RESEND_SECONDS", 0.001)
    server = LocalSqs(port=0)
    server.start()
    yield Letters(server)
    server.stop()


@pytest.fixture
def desk(letters):
    made = []

    def make(token: str = TOKEN, **settings: object) -> Desk:
        made.append(one := Desk(letters, token, **settings))
        return one

    yield make
    for one in made:
        one.drain()
        one.server.stop()


def event_lines(caplog, name):
    return [record.getMessage() for record in caplog.records if getattr(record, "event", "") == name]


# Looking


def test_a_look_groups_what_failed_alike_and_gives_all_back(letters, desk, caplog):
    letters.put(6, error="SMTPError: no route to 10.0.0.1")
    letters.put(6, first=50, error="SMTPError: no route to 10.0.0.2")
    letters.put(3, first=100, event_type="invoice.created", error="ValueError: 'x' for ann@example.com")
    letters.put_bare("no JSON at all")
    status, found = desk().post("/letters/look", {"queue": "emails"})
    assert (status, found["summary"], found["matching"]) == (200, "looked at 16 of about 16", 16)
    groups = [(one["type"], one["error"], one["count"]) for one in found["groups"]]
    assert groups[0] == ("email.send", "SMTPError: no route to <n>", 12)
    assert ("invoice.created", "ValueError: 'x' for ***", 3) in groups  # all the very same
    one = next(one for one in found["letters"] if one["type"] == "invoice.created")
    assert (one["problem"], one["attempts"], one["body"]) == ("ValueError: 'x' for ***", 7, "")
    assert letters.counts(letters.dead_url) == (16, 0)
    assert event_lines(caplog, "letters.looked") == [
        "127.0.0.1 looked at dead letters of emails by the live page: looked at 16 of about 16"
    ]


def test_a_look_shows_what_the_filters_take_and_bounds_what_it_shows(letters, desk):
    letters.put(120)
    letters.put(2, first=500, event_type="invoice.created", error="TimeoutError")
    one = desk()
    for order in ({"types": ["invoice.*"]}, {"reason": "timeout"}, {"text": '"e0501"'}):
        status, found = one.post("/letters/look", {"queue": "emails", **order})
        assert (status, {row["type"] for row in found["letters"]}) == (200, {"invoice.created"}), order
    found = one.post("/letters/look", {"queue": "emails"})[1]
    assert (found["matching"], len(found["letters"])) == (122, 100)


def test_a_sample_is_said_to_be_one(letters, desk):
    letters.put(310)
    assert desk().post("/letters/look", {"queue": "emails"})[1]["summary"] == "looked at 300 of about 310"


def test_bodies_are_shown_only_where_the_settings_allow_it_and_without_secrets(letters, desk):
    letters.put_bare(json.dumps({"event_type": "a", "payload": {"password": "pw-1", "to": "ann@example.com", "n": 5}}))
    hidden = desk().post("/letters/look", {"queue": "emails"})[1]["letters"]
    assert hidden[0]["body"] == ""
    [shown] = desk(show_bodies=True).post("/letters/look", {"queue": "emails"})[1]["letters"]
    assert '"n": 5' in shown["body"]
    assert "pw-1" not in shown["body"] and "ann@" not in shown["body"]  # noqa: PT018


def test_a_look_outlives_the_limit_of_a_connection(letters, desk, monkeypatch):
    """SQS can take longer than a client that sends nothing may."""
    monkeypatch.setattr(bounded_server, "CONNECTION_SECONDS", 0.15)
    monkeypatch.setattr(sweep, "WAIT_SECONDS", 1)
    monkeypatch.setattr(sweep, "EMPTY_RECEIVES", 1)
    letters.put(1)
    letters.receive(letters.dead_url)  # hidden: the look waits for it in vain
    status, found = desk().post("/letters/look", {"queue": "emails"})
    assert (status, found["matching"]) == (200, 0)


# Moving


def test_for_whom_a_proxy_asks_is_in_the_log(letters, desk, caplog):
    letters.put(1)
    one = desk()
    one.post("/letters/move", {"do": "discard", "queue": "emails", "all": True}, "X-Forwarded-For: 10.0.0.9\x1b[2J")
    assert one.moved()["moved"] == 1
    [line] = event_lines(caplog, "letters.ordered")
    assert line.startswith("10.0.0.9\\x1b[2J by way of 127.0.0.1 orders by the live page: discard of")


def test_what_is_selected_goes_back_and_nothing_else(letters, desk, caplog):
    letters.put(5)
    one = desk()
    rows = one.post("/letters/look", {"queue": "emails"})[1]["letters"]
    ids = [row["id"] for row in rows if row["event_id"] in ("e0001", "e0003")]
    status, begun = one.post("/letters/move", {"do": "replay", "queue": "emails", "ids": ids, "most": 2})
    assert (status, begun["move"]["state"]) == (202, "moving")
    move = one.moved()
    assert (move["state"], move["moved"], move["refused"], move["why"]) == ("done", 2, 0, "")
    assert letters.event_ids(letters.url) == ["e0001", "e0003"]
    assert letters.counts(letters.dead_url) == (3, 0)
    assert event_lines(caplog, "letters.ordered") == [
        "127.0.0.1 orders by the live page: replay of at most 2 dead letters of emails, by 2 ids"
    ]
    assert event_lines(caplog, "letters.moved") == [
        "the replay of dead letters of emails by the live page has ended: 2 moved"
    ]


def test_a_letter_that_is_selected_is_known_by_its_whole_id_alone(letters, desk):
    """Its original, or a copy of it, can have its id as its event id, and stays."""
    letters.put(1)
    one = desk()
    [row] = one.post("/letters/look", {"queue": "emails"})[1]["letters"]
    letters.queue.queue.send([entry_of(row["id"])])
    one.post("/letters/move", {"do": "discard", "queue": "emails", "ids": [row["id"], row["id"][:8]]})
    assert (one.moved()["moved"], letters.event_ids(letters.dead_url)) == (1, [row["id"]])


def test_what_matches_is_deleted_up_to_the_bound(letters, desk):
    letters.put(10)
    ids = letters.put(8, first=100, event_type="invoice.created")
    one = desk()
    order = {"do": "discard", "queue": "emails", "types": ["invoice.created"], "most": 5}
    assert one.post("/letters/move", order)[0] == 202
    assert one.moved()["moved"] == 5
    left = letters.event_ids(letters.dead_url)
    assert (len(left), len(set(left) & set(ids))) == (13, 3)
    assert letters.counts(letters.url) == (0, 0)


def test_what_cannot_go_back_stays_and_is_named_with_its_reason(letters, desk):
    letters.put(1)
    letters.put_bare(body_of("of-another"))
    one = desk()
    one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})
    move = one.moved()
    assert (move["moved"], move["refused"]) == (1, 1)
    assert "came from no queue of these settings" in move["kept"][0][1]
    assert letters.event_ids(letters.dead_url) == ["of-another"]


def test_one_order_looks_at_a_bounded_number_of_letters_and_says_so(letters, desk, monkeypatch):
    monkeypatch.setattr(letter_desk, "MAX_PAGE_REACH", 20)
    letters.put(45)
    one = desk()
    one.post("/letters/move", {"do": "discard", "queue": "emails", "text": "nobody"})
    move = one.moved()
    assert (move["moved"], move["why"]) == (0, "it ended at 20 letters: one order looks at no more")
    assert letters.counts(letters.dead_url) == (45, 0)


# Who may not


def test_of_a_letter_that_one_order_did_not_reach_nobody_says_that_it_has_gone(letters, desk, monkeypatch, caplog):
    """It is a dead letter still: the order ended before it came."""
    letters.put(40)
    monkeypatch.setattr(letter_desk, "MAX_PAGE_REACH", 20)
    one = desk()
    ids = [letter["id"] for letter in one.post("/letters/look", {"queue": "emails"})[1]["letters"]]
    one.post("/letters/move", {"do": "replay", "queue": "emails", "ids": ids})
    move = one.moved()
    assert (move["moved"], move["missing"], move["looked"]) == (20, 20, 20)
    [line] = event_lines(caplog, "letters.moved")
    assert line.endswith("20 moved, 20 not found, it ended at 20 letters: one order looks at no more")


def test_without_a_token_nothing_is_looked_at_or_changed_whatever_a_request_brings(letters, desk):
    letters.put(3)
    one = desk(token="")
    for path, order in ORDERS.items():
        assert one.post(path, order) == (405, "Method Not Allowed\n")
    assert one.state() == {"queues": ["emails"], "can_act": False, "move": None}
    [message] = letters.receive(letters.dead_url, seconds=0)[:1]
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


@pytest.mark.parametrize("path", ORDERS)
@pytest.mark.parametrize(
    ("method", "headers", "wanted"),
    [
        ("GET", [HOST, BEARER, JSON], 405),
        ("PUT", [HOST, BEARER, JSON], 405),
        ("POST", [HOST, JSON], 401),
        ("POST", [HOST, JSON, "Authorization: Bearer another-token-of-16"], 401),
        ("POST", [HOST, BEARER, "Content-Type: text/plain"], 415),
        ("POST", [HOST, BEARER, JSON, "Origin: http://evil.example"], 403),
        ("POST", [HOST, BEARER, JSON, "Sec-Fetch-Site: cross-site"], 403),
        ("POST", [HOST, BEARER, JSON, "Sec-Fetch-Site: same-site"], 403),
        ("POST", ["Host: evil.example", BEARER, JSON], 421),
        ("POST", ["X: no host", BEARER, JSON], 421),
    ],
)
def test_another_method_origin_host_type_or_token_changes_nothing(letters, desk, path, method, headers, wanted):
    letters.put(1)
    one = desk()
    status, fields, text = one.send(f"{method} {path}", json.dumps(ORDERS[path]).encode(), *headers)
    assert (status, len(text) < 30) == (wanted, True)
    assert not fields.get("www-authenticate", "").startswith("basic")  # or a browser would ask, beside the page's field
    assert one.state()["move"] is None
    assert letters.counts(letters.dead_url) == (1, 0)


@pytest.mark.parametrize("path", ["/letters/look", "/letters/move"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"emails"',
        b"\xff\xfe",
        b"[" * 30_000,
        b'{"queue":' * 5_000,
        b'{"queue": 1e400}',
        b'{"queue": null, "do": "discard", "all": true}',
        b'{"do": "purge", "queue": "emails", "all": true}',
        b'{"do": "discard", "queue": "emails", "all": true, "most": 100000}',
        b'{"do": "discard", "queue": "emails", "all": true, "more": 1}',
        b'{"queue": "emails", "text": "' + b"x" * 600 + b'"}',
        b'{"queue": "emails", "text": "' + b"x" * MAX_PAGE_BODY + b'"}',
    ],
)
def test_a_body_that_is_no_order_is_refused_without_a_detail(letters, desk, path, body):
    letters.put(1)
    one = desk()
    status, _, text = one.send(f"POST {path}", body, HOST, BEARER, JSON)
    assert (status, text) == (400, "Bad Request\n")
    assert letters.counts(letters.dead_url) == (1, 0)


@pytest.mark.parametrize("queue", ["nobody", "", "other", "../emails", "emails\x00"])
def test_an_unknown_queue_is_not_found(letters, desk, queue):
    """Or one whose dead-letter queue is not known."""
    one = desk()
    for order in ({"queue": queue}, {"queue": queue, "do": "discard", "all": True}):
        path = "/letters/move" if "do" in order else "/letters/look"
        assert one.post(path, order) == (404, "Not Found\n")


def test_an_order_that_chooses_nothing_is_refused_and_says_why(letters, desk):
    letters.put(1)
    status, answer = desk().post("/letters/move", {"do": "discard", "queue": "emails"})
    assert (status, "every one by all" in answer["error"]) == (409, True)
    assert letters.counts(letters.dead_url) == (1, 0)


# While something goes on


def test_one_thing_goes_on_at_a_time_and_can_be_stopped(letters, desk, monkeypatch, caplog):
    ids = letters.put(60)
    one, gate = desk(), gevent.event.Event()
    reached = hold_after_the_first_batch(monkeypatch, gate)
    one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})
    assert reached.wait(5)
    status, answer = one.post("/letters/move", {"do": "discard", "queue": "emails", "all": True})
    assert (status, answer["error"]) == (409, "a move goes on: wait for its end")
    assert one.post("/letters/look", {"queue": "emails"}) == (200, {"error": "a move goes on: wait for its end"})
    for _ in range(2):
        assert one.post("/letters/stop", {})[1]["move"]["stopping"] is True
    gate.set()
    move = one.moved()
    assert (move["moved"], move["why"], move["stopping"]) == (20, "interrupted", False)
    assert letters.counts(letters.dead_url) == (40, 0)
    assert sorted(letters.event_ids(letters.dead_url) + letters.event_ids(letters.url)) == ids
    assert len(event_lines(caplog, "letters.stopped")) == 1


def test_two_orders_in_one_moment_are_one_move_whatever_listens_to_the_log(letters, desk):
    """An application adds handlers to logging: one that sends lines to a server lets other greenlets run."""
    letters.put(20)
    one, slow = desk(), SlowLog()
    logging.getLogger("millpond").addHandler(slow)
    try:
        order = {"do": "replay", "queue": "emails", "all": True}
        both = [gevent.spawn(one.post, "/letters/move", order) for _ in range(2)]
        assert sorted(job.get(timeout=10)[0] for job in both) == [202, 409]
    finally:
        logging.getLogger("millpond").removeHandler(slow)
    assert one.moved()["moved"] == 20


class SlowLog(logging.Handler):
    """Sends each line somewhere, and waits for the answer."""

    def emit(self, record: logging.LogRecord) -> None:
        gevent.sleep(0.05)


def hold_after_the_first_batch(monkeypatch, gate):
    """The second batch has been sent, and not yet deleted, when the gate is reached; that is an event."""
    delete, calls, reached = mover.Mover._delete, [], gevent.event.Event()

    def slow(self, parcels):
        calls.append(parcels)
        if len(calls) == 2:
            reached.set()
            gate.wait()
        delete(self, parcels)

    monkeypatch.setattr(mover.Mover, "_delete", slow)
    return reached


def test_a_drain_ends_a_move_after_the_batch_in_the_air_and_waits_for_it(letters, desk, monkeypatch):
    ids = letters.put(60)
    one, gate = desk(), gevent.event.Event()
    reached = hold_after_the_first_batch(monkeypatch, gate)
    one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})
    assert reached.wait(5)
    one.core.stop("SIGTERM")
    one.desk.draining()
    closing = gevent.spawn(one.desk.close)
    gevent.sleep(0.05)
    assert not closing.ready()  # it waits for the batch in the air
    gate.set()
    closing.get(timeout=5)
    assert one.state()["move"]["why"] == "interrupted"
    assert (letters.counts(letters.url)[0], letters.counts(letters.dead_url)) == (20, (40, 0))
    assert sorted(letters.event_ids(letters.dead_url) + letters.event_ids(letters.url)) == ids
    assert one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})[1] == {
        "error": "the worker drains"
    }
    assert one.post("/letters/look", {"queue": "emails"})[1] == {"error": "the worker drains"}


def test_a_worker_that_ends_before_its_move_says_what_may_be_in_both_queues(letters, desk, monkeypatch, caplog):
    """Deletes were refused when SIGTERM came: ten had been sent, exit code 0, and not a line said so."""
    letters.put(60)
    one, gate = desk(), gevent.event.Event()
    reached = hold_after_the_first_batch(monkeypatch, gate)
    one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})
    assert reached.wait(5)
    one.core.stop("SIGTERM")
    one.desk.draining()
    one.desk.ended()  # what waits for `close` has a limit
    [line] = event_lines(caplog, "letters.moved")
    assert line.endswith(
        "has ended: 10 moved, the worker ended before it: 10 letters of the last batch may have gone, "
        "and be dead letters as well"
    )
    gate.set()  # what still happens is not said again
    one.desk.close()
    gevent.sleep(0.05)
    one.desk.ended()
    assert len(event_lines(caplog, "letters.moved")) == 1


def test_a_drain_asks_a_move_to_end_before_the_handlers_are_waited_for(letters, desk, monkeypatch):
    letters.put(60)
    one, gate = desk(), gevent.event.Event()
    hold_after_the_first_batch(monkeypatch, gate)
    one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})
    one.desk.draining()
    gate.set()
    assert one.moved()["why"] == "interrupted"


def test_two_pages_that_move_at_once_lose_nothing_and_send_nothing_twice(letters, desk):
    ids = letters.put(200)
    both = [desk(), desk()]
    for one in both:
        assert one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})[0] == 202
    moves = [one.moved() for one in both]
    assert sum(move["moved"] for move in moves) == 200
    assert all(move["moved"] for move in moves)
    assert letters.event_ids(letters.url) == ids
    assert letters.counts(letters.dead_url) == (0, 0)


def test_a_dead_letter_queue_that_is_gone_says_so(letters, desk):
    letters.put(1)
    one = desk()
    letters.sqs.delete_queue(QueueUrl=letters.dead_url)
    assert "does not exist" in one.post("/letters/look", {"queue": "emails"})[1]["error"]
    assert one.post("/letters/move", {"do": "discard", "queue": "emails", "all": True})[0] == 202
    move = one.moved()
    assert (move["state"], move["moved"]) == ("failed", 0)
    assert "does not exist" in move["why"]


def test_rights_that_are_missing_are_named(letters, desk, monkeypatch, caplog):
    """The worker's own policy lets it send dead letters, not receive them."""
    ids = letters.put(12)
    one, call, denied = desk(), SqsQueue.delete, "DeleteMessageBatch: access denied"

    def deny(*args: object) -> None:
        raise AccessDenied(denied)

    monkeypatch.setattr(SqsQueue, "delete", deny)
    one.post("/letters/move", {"do": "discard", "queue": "emails", "all": True})
    move = one.moved()
    assert (move["moved"], move["left"]) == (0, 10)
    assert move["why"].startswith("cannot delete letters: ")
    monkeypatch.setattr(SqsQueue, "delete", call)
    monkeypatch.setattr(sweep, "receive_letters", deny)
    one.post("/letters/move", {"do": "discard", "queue": "emails", "all": True})
    text = f"{denied}; the page needs the rights of deploy/policies/worker-dead-letters.json"
    assert (one.moved()["why"], one.post("/letters/look", {"queue": "emails"})[1]) == (text, {"error": text})
    assert event_lines(caplog, "letters.looked") == [
        f"127.0.0.1 looked at dead letters of emails by the live page: {text}"
    ]
    assert letters.event_ids(letters.dead_url) == ids


def test_a_source_that_is_gone_keeps_every_letter(letters, desk):
    ids = letters.put(3)
    one = desk()
    letters.sqs.delete_queue(QueueUrl=letters.url)
    one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})
    move = one.moved()
    assert (move["moved"], move["refused"]) == (0, 3)
    assert "does not exist" in move["kept"][0][1]
    assert letters.event_ids(letters.dead_url) == ids


def test_a_defect_ends_the_move_alone(letters, desk, monkeypatch, caplog):
    letters.put(1)
    one, order = desk(), {"do": "replay", "queue": "emails", "all": True}
    with monkeypatch.context() as patch:
        patch.setattr(DeadLetterQueue, "replay", lambda *args, **options: {}["a defect"])
        patch.setattr(DeadLetterQueue, "look", lambda *args, **options: {}["a defect"])
        one.post("/letters/move", order)
        assert one.moved()["state"] == "failed"
        assert "the log says how" in one.post("/letters/look", {"queue": "emails"})[1]["error"]
    assert len(event_lines(caplog, "letters.failed")) == 2
    one.post("/letters/move", order)
    assert one.moved()["moved"] == 1


def test_a_move_that_is_killed_keeps_nobody_waiting(letters, desk, monkeypatch):
    letters.put(1)
    one, running = desk(), []

    def wait(*args, **options):
        running.append(gevent.getcurrent())
        gevent.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(DeadLetterQueue, "replay", wait)
        one.post("/letters/move", {"do": "replay", "queue": "emails", "all": True})
        gevent.sleep(0)
        gevent.killall(running)
    assert one.moved()["why"] == "it was ended from outside"
    assert not one.core.stopping  # it is no part of the engine
    one.desk.close()


@pytest.mark.slow
def test_the_hub_turns_while_a_thousand_letters_are_looked_at_and_moved(letters, desk):
    """By the CPU that one greenlet takes between two switches: a busy machine changes nothing about it."""
    for first in range(0, 1_000, 200):
        letters.put(200, first=first, error="SMTPError: " + "x1' " * 150, event_type=f"type-{first}")
    one, longest, since = desk(), [0.0], [time.thread_time()]

    def switched(event: str, switch: tuple) -> None:
        now = time.thread_time()
        longest[0], since[0] = max(longest[0], now - since[0]), now

    before = greenlet.settrace(switched)
    try:
        assert one.post("/letters/look", {"queue": "emails"})[1]["matching"] == 300
        one.post("/letters/move", {"do": "discard", "queue": "emails", "text": "x1'", "most": 1_000})
        assert one.moved()["moved"] == 1_000
    finally:
        greenlet.settrace(before)
    assert longest[0] < 0.025  # 0.006 as measured, and 0.032 in one piece
