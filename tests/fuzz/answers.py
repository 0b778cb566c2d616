"""What SQS answers, mangled: in its JSON, its bytes, its HTTP, behind it over TLS. By either client, over real sockets.

Each call gives a value of the right type, fit for all that is done with it, or a QueueError; and the call after it gets
its own answer.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from millpond.app import dead_letter
from millpond.errors import QueueError
from millpond.message import Message
from millpond.sqs import requests
from millpond.sqs.boto import BotoSqs
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.queue import Attribute, Entry, Failure, Received
from millpond.sqs.redrive import read_redrive
from millpond.sqs.sigv4 import Keys
from millpond.sqs.wire import WireSqs
from tests.fuzz.kind import Kind, TryOne
from tests.http_server import HANG_UP, Server, sqs_answer
from tests.smtp_server import make_certificate

KEYS = Keys("AKIAFUZZ", "secret", "token")
POLICY = {"RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:1:dead", "maxReceiveCount": 5}'}
#: Of a thousand cases: by boto3, which takes ten times as long; over TLS.
BY_BOTO3, OVER_TLS = 40, 100


class Ring:
    """Keys, and others where those are refused."""

    def keys(self, seconds: float) -> Keys:
        return KEYS

    def renew(self, refused: Keys, seconds: float) -> Keys:
        return Keys("AKIAFRESH", "secret", "token")


class Call:
    """One call: what it is asked, what SQS answers, and what its value must be."""

    def __init__(self, ask: Callable[[Any], Any], answer: dict[str, Any], check: Callable[[Any], object]) -> None:
        self.ask = ask
        self.answer = answer
        self.check = check


def _message(number: int) -> dict[str, Any]:
    return {
        "MessageId": f"m{number}",
        "ReceiptHandle": f"h{number}",
        "Body": f'{{"event_type": "a", "payload": "\u20ac {number}"}}',
        "MD5OfBody": "x",
        "Attributes": {"ApproximateReceiveCount": "2", "SentTimestamp": "1700000000123", "MessageGroupId": "g"},
        "MessageAttributes": {
            "a": {"DataType": "String", "StringValue": "x"},
            "b": {"DataType": "Binary", "BinaryValue": "AAE="},
        },
    }


ENTRIES = [Entry("a", attributes={"a": Attribute("String", "x")}), Entry("\u20ac", 5, "g"), Entry("c")]
RESULTS: dict[str, Any] = {
    "Successful": [{"Id": "0", "MessageId": "x", "MD5OfMessageBody": "x"}],
    "Failed": [{"Id": "2", "Code": "InternalError", "Message": "again", "SenderFault": False}],
}


def _check_received(value: Any) -> None:
    assert type(value) is list
    for one in value:
        assert type(one) is Received
        assert type(one.receive_count) is type(one.sent_ms) is int
        assert one.receive_count >= 1
        assert one.message_id
        assert one.receipt_handle
        Message("m", "e", "t", "q", one.body, one.receive_count, one.sent_ms).sent_at.isoformat()
        requests.as_json(requests.delete("url", [one.receipt_handle]))
        reason = dead_letter.ReasonAttribute.of(one, 0.0, reason=one.flaw, error="", handler="", event_id="", queue="q")
        requests.as_json(requests.send("url", [dead_letter.copy(one, reason, "id")]))


def _check_results(value: Any) -> None:
    assert type(value) is list
    assert len(value) == len(ENTRIES)
    for one in value:
        assert one is None or type(one) is Failure
        assert one is None or (len(one.code + one.text) < 700 and (one.code + one.text).isprintable())


def _check_attributes(value: Any) -> None:
    assert type(value) is dict
    assert all(type(text) is str for pair in value.items() for text in pair)


def _check_url(value: Any) -> None:
    assert type(value) is str


def _receive(queue: Any) -> Any:
    return queue.receive(10, 1, 60)


CALLS = [
    Call(_receive, {"Messages": [_message(number) for number in range(10)]}, _check_received),
    Call(_receive, {}, _check_received),
    Call(lambda queue: queue.delete(["a", "b", "c"]), RESULTS, _check_results),
    Call(lambda queue: queue.change_visibility([("a", 0), ("b", 30), ("c", 43_200)]), RESULTS, _check_results),
    Call(lambda queue: queue.send(ENTRIES), RESULTS, _check_results),
    Call(lambda queue: queue.attributes(), {"Attributes": {"FifoQueue": "true"}}, _check_attributes),
    Call(lambda queue: queue.dead_letters(read_redrive(POLICY)).url, {"QueueUrl": "http://x/1/dead"}, _check_url),
]

DIGITS, NESTED = "@digits@", "@nested@"
ODD = [
    None,
    True,
    False,
    0,
    -1,
    5,
    1.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "5",
    "-5",
    "1.5",
    "NaN",
    [],
    {},
]
ODD += [
    [None],
    {"": None},
    {"Id": "0"},
    "\ud800",
    "\udc00 half",
    "\0",
    "\x9b\u2028\u202e",
    "\uffff",
    "\U0001f600",
    "77",
]
ODD += [DIGITS, f"{DIGITS}text", NESTED, "x" * 5_000, "9" * 400, "9" * 5_000, "<html>", ["0"] * 50, [{"Id": "1"}] * 20]
NAMES = [
    "Messages",
    "Body",
    "Id",
    "Attributes",
    "MessageId",
    "ReceiptHandle",
    "__type",
    "message",
    "",
    "\ud800",
    "Failed",
]

SHAPES = ["QueueDoesNotExist", "RequestThrottled", "AccessDenied", "ExpiredToken", "RequestExpired", "InternalFailure"]
SHAPES += ["InvalidSignatureException", "InvalidMessageContents", "x" * 3_000, "#", ":", "a#b:c", "\x9b2J"]
TEXTS = [
    "because",
    "Signature expired: now",
    "Signature not yet current: x",
    "",
    "x" * 20_000,
    "\x1b[2J\n\u2028",
    None,
    5,
]
DATES = ["Sun, 22 Nov 2026 00:00:00 GMT", "Thu, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "", "x"]
DATES += ["Mon, 01 Jan 0001 00:00:00 +2359", "Sun, 22 Nov 2026 00:00:00 -0000", "0", "-", "Sun, 22 Nov 2026"]
DATES += [
    f"Sun, 22 Nov 2026 00:00:00 +{'9' * 20}",
    f"Sun, {'9' * 50} Nov 2026 00:00:00 GMT",
    "Sun, 22 Nov 2026 99:99:99",
]
STATUSES = ["200 OK", "201 x", "204 x", "206 x", "301 x", "304 x", "400 x", "403 x", "404 x", "429 x", "500 x", "503 x"]

WORDS = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: -1\r\n",
    b":",
    b" ",
    b"\0",
]
WORDS += [
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.1 100 x\r\n\r\n" * 5,
    b"HTTP/1.0 200 OK\r\n",
]
WORDS += [
    b"HTTP/1.1 204 x\r\n",
    b"Content-Length: 99999999999\r\n",
    b"\xff",
    b'"',
    b"{",
    b"[" * 2_000,
    b"\\ud800",
    b"\\u",
    b"7",
]
WORDS += [b"Content-Length: 999999999\r\n"]

BEHIND = [
    b"HTTP/1.1 400 x\r\n\r\n",
    b"\x15\x03\x03\x00\x02\x01\x00",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x17",
    b"\x17\x03\x03\x00\x20",
]


def _mangle_json(value: Any, chance: Random) -> Any:
    """The same with one node that is something else, is absent, or comes under another name too."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.15:
        return chance.choice(ODD)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = chance.choice(keys)
    match chance.randrange(8):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[chance.choice(NAMES)] = chance.choice(ODD)
        case 2 if isinstance(value, list):
            value.insert(key, chance.choice([*ODD, deepcopy(value[key])]))
        case _:
            value[key] = _mangle_json(value[key], chance)
    return value


def _encoded(value: Any, chance: Random) -> bytes:
    depth = chance.choice([50, 2_000, 10_000, 50_000])
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
    text = text.replace(f'"{DIGITS}"', "9" * chance.choice([20, 400, 5_000])).replace(DIGITS, "1" * 400)
    return text.replace(f'"{NESTED}"', "[" * depth + "]" * depth).encode("utf-8", "surrogatepass")


def _mangle_bytes(data: bytes, chance: Random) -> bytes:
    mangled = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        at, until = sorted(chance.randrange(len(mangled) + 1) for _ in range(2))
        match chance.randrange(6):
            case 0:
                mangled[at : at + 1] = chance.randbytes(1)
            case 1:
                del mangled[at : min(until, at + chance.choice([1, 4, 40, 4_000]))]
            case 2:
                mangled[at:at] = mangled[at:until][:500]
            case 3:
                del mangled[at:]
            case _:
                mangled[at:at] = chance.choice(WORDS)
    return bytes(mangled)


def _in_chunks(answer: bytes, chance: Random) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
    size = chance.choice([7, 100, 10_000])
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"%b\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (head, coded)


def _refusal(chance: Random) -> bytes:
    shape, text = chance.choice(SHAPES), chance.choice(TEXTS)
    content: Any = {"__type": f"com.amazonaws.sqs#{shape}", "message": text}
    if chance.random() < 0.3:
        content = _mangle_json(content, chance)
    more = f"Date: {chance.choice(DATES)}\r\n" if chance.random() < 0.7 else ""
    if chance.random() < 0.3:
        more += f"x-amzn-query-error: {chance.choice([*SHAPES, ';', 'a;b;c', ''])};Sender\r\n"
    return sqs_answer(_encoded(content, chance), chance.choice(STATUSES).encode(), more.encode("latin-1", "replace"))


def _answer(call: Call, chance: Random) -> tuple[bytes, bool]:
    """The bytes of an answer, and whether the server must hang up after it, since it may not be whole."""
    kind = chance.random()
    if kind < 0.2:
        return _refusal(chance), True
    content = _mangle_json(deepcopy(call.answer), chance) if kind < 0.7 else call.answer
    answer = sqs_answer(_encoded(content, chance))
    if chance.random() < 0.1:
        answer = _in_chunks(answer, chance)
    if kind < 0.6:
        return answer, False
    return _mangle_bytes(answer, chance), True


def _ask(queue: Any, call: Call) -> None:
    error = None
    try:
        call.check(call.ask(queue))
    except QueueError as raised:
        error = raised
    told = f"{error}{error.code}" if error is not None else ""
    assert len(told) < 1_500, told
    assert told.isprintable(), repr(told)


class Client:
    """One client, and the server that it speaks to."""

    def __init__(self, server: Server, queue: Any) -> None:
        self.server = server
        self.queue = queue

    def try_one(self, chance: Random, behind: bool = False) -> None:
        self.server.script.clear()
        del self.server.requests[:], self.server.lost[:]
        hang_up = False
        if behind:
            self._try_behind(chance)
        elif chance.random() < 0.3:
            self._try_neighbours(chance)
        else:
            call = chance.choice(CALLS)
            answer, hang_up = _answer(call, chance)
            # Up to three, since a call is made again where its signature, or one entry of it, was refused.
            self.server.script.extend([[answer, HANG_UP] if hang_up else [answer]] * 4)
            _ask(self.queue, call)
            self.server.script.clear()
        if behind or hang_up or chance.random() < 0.3:
            self._works()

    def _try_neighbours(self, chance: Random) -> None:
        """One message is mangled: the nine others are delivered as they are."""
        messages = [_message(number) for number in range(10)]
        at = chance.randrange(10)
        messages[at] = _mangle_json(messages[at], chance)
        if NESTED in (text := json.dumps(messages)) or text == json.dumps([]):
            return
        self.server.script.append([sqs_answer(_encoded({"Messages": messages}, chance))])
        received = _receive(self.queue)
        _check_received(received)
        good = [(f"m{n}", f"h{n}", _message(n)["Body"], 2, "") for n in range(10) if n != at]
        told = [(one.message_id, one.receipt_handle, one.body, one.receive_count, one.flaw) for one in received]
        assert [one for one in told if one in good] == good, told
        assert len(received) in (9, 10)

    def _try_behind(self, chance: Random) -> None:
        """An answer, and in the clear behind it what is no TLS."""
        noise = chance.choice([*BEHIND, chance.randbytes(chance.randrange(1, 200))])
        whole = sqs_answer(json.dumps(RESULTS).encode())
        self.server.script.append([whole, lambda: [sock._sock.send(noise) for sock in self.server.open]])  # type: ignore[attr-defined]
        _ask(self.queue, CALLS[2])

    def _works(self) -> None:
        """A good answer is read right; what was behind a bad one may still cost the first call its connection."""
        for _ in range(2):
            self.server.script.extend([[sqs_answer(json.dumps(RESULTS).encode())]] * 4)
            with suppress(QueueError):
                first, second, third = self.queue.delete(["a", "b", "c"])
                assert first is None, first
                assert (second.code, third.code) == ("Missing", "InternalError")
                return
        raise AssertionError("good answers are not read any more")


@contextmanager
def _open() -> Iterator[TryOne]:
    log = logging.getLogger("millpond")
    level = log.level
    log.setLevel(logging.ERROR)  # a message without a handle is told
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        plain, secure, theirs = Server(), Server(certificate.server_context()), Server()
        wires = [
            WireSqs(server.url, "eu-west-1", Ring(), ConnectionPool(server.url, 4, str(certificate.pem)))
            for server in (plain, secure)
        ]
        boto3 = BotoSqs(f"{theirs.url}/1/q", "eu-west-1", "", 1, 2, 2)
        pairs = zip((plain, secure, theirs), (*wires, boto3), strict=True)
        ours, over_tls, by_boto3 = (Client(server, sqs.queue(f"{server.url}/1/q")) for server, sqs in pairs)

        def try_one(chance: Random) -> None:
            dice = chance.randrange(1_000)
            if dice < BY_BOTO3:
                by_boto3.try_one(chance)
            elif dice < BY_BOTO3 + OVER_TLS:
                over_tls.try_one(chance, behind=chance.random() < 0.3)
            else:
                ours.try_one(chance)

        yield try_one
        for wire in wires:
            wire.connections.close()  # type: ignore[attr-defined]
        for server in (plain, secure, theirs):
            server.close()
    log.setLevel(level)


KIND = Kind("answers", _open)
