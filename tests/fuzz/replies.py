"""SMTP replies by chance: cut, dripped, huge, of wrong codes, of mixed lines, of digits without end, binary, TLS noise.

Each case is a job of one to four recipients, sent by the handler itself over a real socket to a server that answers
by chance; then what is left of the job goes to one that obliges. Whatever was answered, the handler ends in order,
nobody is forgotten, and nobody whom the server has plainly accepted gets a second copy.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest import mock

import gevent
import msgspec
from gevent.server import StreamServer

from handlers import email
from handlers.email import Settings, send_email
from millpond import Message, Reject, Retry, TooFast, Unavailable
from millpond.mail import mailer, timeouts, waits
from millpond.mail.job import Email
from tests.fuzz.kind import Kind, TryOne
from tests.smtp_server import Certificate, make_certificate

#: Of so many cases one has a server that falls silent or drips for ever, with limits of HASTE_SECONDS for each reply.
SILENT_ONE_IN = 500
HASTE_SECONDS, PATIENCE_SECONDS = 0.05, 10.0
LIMITS = ("BANNER_SECONDS", "COMMAND_SECONDS", "DATA_SECONDS", "BLOCK_SECONDS", "FINAL_SECONDS")
PEOPLE = [f"r{number}@b.org" for number in range(4)]
GOOD = {"banner": 220, "STARTTLS": 220, "AUTH": 235, "DATA": 354}
CODES = (200, 220, 235, 250, 251, 252, 334, 354, 421, 450, 451, 452, 454, 500, 503, 530, 535, 538, 550, 552, 554, 599)
EXTENSIONS = (
    "PIPELINING", "SMTPUTF8", "8BITMIME", "SIZE", "SIZE 20000000", "SIZE 0", "SIZE " + "9" * 5_000, "SIZE -1", "SIZE x",
    "AUTH PLAIN LOGIN", "AUTH=LOGIN", "AUTH", "STARTTLS", "X" * 500, "", "\u0663\u0664", "8BITMIME x", "size ٣",
)  # fmt: skip


class Answer(NamedTuple):
    """`pieces` travel one by one. `code` is what it plainly says, None for what is no reply or more than one."""

    pieces: list[bytes]
    code: int | None
    ends: bool = False


class Transaction:
    """One mail as the server saw it: what it plainly said to each recipient, and to the content."""

    def __init__(self) -> None:
        self.recipients: dict[str, int | None] = {}
        self.content_came = False
        self.end: int | None = None

    @property
    def accepted(self) -> list[str]:
        taken = self.content_came and _is_yes(self.end)
        return [name for name, code in self.recipients.items() if taken and _is_yes(code)]


class Server:
    """Answers by `chance`, or obliges where there is none."""

    def __init__(self, certificate: Certificate) -> None:
        self.chance: Random | None = None
        self.silent = self.plain_so_far = True
        self.transactions: list[Transaction] = []
        self._tls = certificate.server_context()
        self._listener = StreamServer(("127.0.0.1", 0), self._serve)
        self._listener.start()
        self.port = self._listener.server_port

    def begin(self, chance: Random | None, silent: bool = False) -> None:
        self.chance, self.silent, self.plain_so_far = chance, silent, True
        self.transactions = []

    def close(self) -> None:
        self._listener.close()

    def _serve(self, sock, address) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = Session(self, sock, self._tls)
        with suppress(OSError, EOFError):
            session.run()
        session.sock.close()


class Session:
    """One connection."""

    def __init__(self, server: Server, sock, tls: ssl.SSLContext) -> None:
        self.server, self.sock, self.tls = server, sock, tls
        self.buffer = b""
        self.transaction = Transaction()

    def run(self) -> None:
        self._say("banner")
        while True:
            line = self._line()
            verb = line[:4].decode("latin-1").upper()
            if verb == "EHLO":
                self._hello()
            elif verb == "STAR":
                if self._say("STARTTLS") == 220:
                    self._encrypt()
            elif verb == "MAIL":
                self.transaction = Transaction()
                self.server.transactions.append(self.transaction)
                self._say("MAIL")
            elif verb == "RCPT":
                self.transaction.recipients[line[9:].decode().strip("<>\r\n")] = self._say("RCPT")
            elif verb == "DATA":
                self._data()
            else:
                self._say("AUTH" if verb == "AUTH" else "other")

    def _hello(self) -> None:
        chance = self.server.chance
        if chance is None or chance.random() < 0.7:
            offers = ["PIPELINING"] if chance is None else ["STARTTLS", "AUTH PLAIN", *chance.choices(EXTENSIONS, k=3)]
            lines = "".join(f"250-{offer}\r\n" for offer in offers)
            self._send(_pieces(chance, f"250-hi\r\n{lines}250 done\r\n".encode()))
        else:
            self._say("EHLO")

    def _data(self) -> None:
        mine = self.transaction
        said = self._say("DATA", [code for code in mine.recipients.values() if _is_yes(code)])
        if said != 354:
            return
        self._until(b"\r\n.\r\n")
        mine.content_came = True
        mine.end = self._say("end")
        self.transaction = Transaction()

    def _say(self, phase: str, known: object = True) -> int | None:
        answer = _answer(self.server.chance, GOOD.get(phase, 250) if known else 554, self.server.silent)
        self.server.plain_so_far &= answer.code is not None
        self._send(answer.pieces)
        if answer.ends:
            raise EOFError
        return answer.code

    def _send(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.sock.sendall(piece)
            if len(pieces) > 1:
                gevent.sleep(0.001 if self.server.silent else 0)

    def _encrypt(self) -> None:
        chance = self.server.chance
        if chance is not None and chance.random() < 0.6:
            self.sock.sendall(chance.choice([chance.randbytes(200), b"\x15\x03\x01\x00\x02\x02\x28", b"250 plain\r\n"]))
            raise EOFError
        # Apart from wrap_socket(), so that a handshake that fails leaves a socket to close.
        self.sock = self.tls.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        self.sock.do_handshake()

    def _line(self) -> bytes:
        return self._until(b"\n")

    def _until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            if not (data := self.sock.recv(65_536)):
                raise EOFError
            self.buffer += data
        head, end, self.buffer = self.buffer.partition(end)
        return head + end


def _answer(chance: Random | None, good: int, silent: bool) -> Answer:
    if chance is None:
        return Answer([b"%d ok\r\n" % good], good)
    if chance.random() < 0.75:
        return Answer(_pieces(chance, _reply(chance, good)), good)
    if chance.random() < 0.5:
        code = chance.choice(CODES)
        return Answer(_pieces(chance, _reply(chance, code)), code)
    if silent:
        return Answer([b"2"] * 100_000 if chance.random() < 0.5 else [b"250-x\r\n"] * 100_000, None)
    whole = _reply(chance, good)
    bad = chance.choice(
        [
            whole[: chance.randint(0, len(whole) - 1)],
            b"",
            chance.randbytes(chance.randint(1, 300)),
            chance.randbytes(20) + b"\r\n",
            b"250 " + b"x" * 20_000 + b"\r\n",
            b"%d-x\r\n" % good * 500,
            b"%d-x\r\n%d y\r\n" % (good, chance.choice([c for c in CODES if c != good])),
            b"9" * chance.choice([1, 4, 5_000]) + b"\r\n",
            "\u0662\u0665\u0660 x\r\n".encode(),
            whole + _reply(chance, chance.choice(CODES)),
            b"\r\n" * chance.randint(1, 9),
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x16\x03\x01\x02\x00" + chance.randbytes(50),
        ]
    )
    # What is no whole reply is waited for, unless the connection ends.
    cut = whole.startswith(bad) or not bad.endswith(b"\n") or bad.splitlines()[-1][3:4] == b"-"
    return Answer(_pieces(chance, bad), None, ends=cut or chance.random() < 0.8)


def _reply(chance: Random, code: int) -> bytes:
    status = chance.choice(["", "", f"{code // 100}.{chance.randint(0, 7)}.{chance.randint(0, 999)} ", "9.9.9 ", "2.1"])
    line = status.encode() + chance.choice([b"", b"fine", b"r0@b.org no", b"\xff\x00\x1b[2J", b"-" * 70, b"250 x"])
    more = b"%d-%b\r\n" % (code, line) * chance.choice([0, 0, 0, 1, 30])
    return more + chance.choice([b"%d %b\r\n" % (code, line), b"%d\r\n" % code, b"%d %b\n" % (code, line)])


def _pieces(chance: Random | None, data: bytes) -> list[bytes]:
    if chance is None or chance.random() < 0.8 or len(data) > 3_000:
        return [data]
    size = chance.choice([1, 2, 7, 50])
    return [data[i : i + size] for i in range(0, len(data), size)]


def _is_yes(code: int | None) -> bool:
    return code is not None and code // 100 == 2


def _send(job: Email, name: str) -> list[Email]:
    """What is left of the job: itself, follow-ups, or nothing. Its dead letters are in no need of another try."""
    message = Message(id="m", event_id=name, event_type="email.send", queue="q", body="{}")
    try:
        send_email(job, message)
    except (Retry, TooFast, Unavailable, Reject) as verdict:
        if "@" in verdict.reason:
            raise AssertionError(f"it quotes the server: {verdict.reason}") from verdict
        return [] if isinstance(verdict, Reject) else [job]
    payloads = [msgspec.json.decode(follow_up.body)["payload"] for follow_up in message.follow_ups]
    left = [msgspec.convert(payload, Email) for payload in payloads]
    everyone = job.only or job.to
    assert Counter(name for one in left for name in one.only) <= Counter(everyone), "somebody else, or twice"
    return [one for one, follow_up in zip(left, message.follow_ups, strict=True) if follow_up.reject is None]


def _try(server: Server, certificate: Certificate, chance: Random) -> None:
    silent = chance.randrange(SILENT_ONE_IN) == 0
    security = "starttls" if chance.random() < 0.03 else "none"
    login = "someone" if chance.random() < 0.3 else ""
    _limit(HASTE_SECONDS if silent else PATIENCE_SECONDS)
    job = Email(
        to=PEOPLE[: chance.choice([1, 1, 2, 4])], subject="x", text="x\n.\n" * chance.choice([1] * 30 + [20_000])
    )
    email.setup(
        Settings(host="127.0.0.1", port=server.port, security=security, from_="me@a.org", user=login, password=login)
    )
    try:
        if chance.random() < 0.3:  # so that the connection is a kept one
            server.begin(None)
            with suppress(Unavailable, TooFast):
                send_email(job, Message(id="w", event_id="w", event_type="email.send", queue="q", body="{}"))
        server.begin(chance, silent)
        left = _send(job, "e")
        first = Counter(name for transaction in server.transactions for name in transaction.accepted)
        if not server.plain_so_far:  # where it once said what is no reply, the next may be taken for the answer to it
            first = Counter()
        server.begin(None)
    finally:
        email.teardown()
    _limit(PATIENCE_SECONDS)
    email.setup(Settings(host="127.0.0.1", port=server.port, security="none", from_="me@a.org"))
    try:
        for number, rest in enumerate(left):
            assert _send(rest, f"e/{number}") == [], "an obliging server, and something is left"
    finally:
        email.teardown()
    got = first + Counter(name for transaction in server.transactions for name in transaction.accepted)
    assert max(got.values(), default=0) <= 1, f"a second copy: {got}"
    assert set(got) <= set(job.to)


def _limit(seconds: float) -> None:
    for limit in LIMITS:
        setattr(waits, limit, seconds)


def _always(value: object) -> Callable[..., object]:
    """Not a Mock, which keeps every call that it has had."""
    return lambda *_, **__: value


@contextmanager
def _open() -> Iterator[TryOne]:
    saved = {limit: getattr(waits, limit) for limit in LIMITS}
    with ExitStack() as stack:
        certificate = make_certificate(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        trusting = ssl.create_default_context(cafile=certificate.pem)
        stack.enter_context(mock.patch.object(ssl, "create_default_context", new=_always(trusting)))
        stack.enter_context(mock.patch.object(mailer.log, "disabled", True))
        stack.enter_context(mock.patch.object(timeouts, "TIMEOUT_LOOK_SECONDS", 0.02))
        stack.enter_context(mock.patch.object(waits, "QUIT_SECONDS", 0.2))
        server = Server(certificate)
        # By gevent this is a trip to a thread, half the time of a case.
        addresses = socket.getaddrinfo("127.0.0.1", server.port, type=socket.SOCK_STREAM)
        stack.enter_context(mock.patch.object(socket, "getaddrinfo", new=_always(addresses)))
        stack.callback(server.close)
        stack.callback(lambda: [setattr(waits, limit, seconds) for limit, seconds in saved.items()])
        yield lambda chance: _try(server, certificate, chance)


KIND = Kind("replies", _open)
