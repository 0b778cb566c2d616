"""SMTP servers for the tests: one that answers by script, and (run as a program) aiosmtpd.

The scripted one lives in the suite's own hub. `Script` maps a phase (banner, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA,
end, RSET, QUIT) to the answers it gives, in turn; then, and where nothing is scripted, it is an obliging server.
An answer is a line; bytes, after which it closes; CLOSE; HANG, until the client goes away; DRIP, a byte now and then
of a reply that never ends; or, to DATA, DEAF: it says 354, and reads no further; and SLOW: it reads on, a little at a
time. Beside the script it has troubles: go_down() and come_back(), `pace` and `slow`.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import gevent
from gevent.event import Event
from gevent.lock import Semaphore
from gevent.server import StreamServer

CLOSE = b""
HANG = object()
DEAF = object()
DRIP = object()
SLOW = object()
Answer = object  # str, bytes, or one of these
Script = Mapping[str, Sequence[Answer]]

DEFAULTS = {
    "banner": "220 ready",
    "STARTTLS": "220 go ahead",
    "AUTH": "235 2.7.0 welcome",
    "MAIL": "250 2.1.0 fine",
    "RCPT": "250 2.1.5 fine",
    "DATA": "354 go ahead",
    "end": "250 2.0.0 taken",
    "RSET": "250 fine",
    "QUIT": "221 bye",
}
EXTENSIONS = ("PIPELINING", "SIZE 20000000", "ENHANCEDSTATUSCODES")


class Taken(NamedTuple):
    """A mail that the server said 250 to."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


class Pace(NamedTuple):
    """It takes this many mails in any second, and refuses what is more: at MAIL, or at the end of data as SES does."""

    mails_a_second: int
    phase: Literal["MAIL", "end"] = "MAIL"
    answer: str = "454 Throttling failure: Maximum sending rate exceeded"


#: How a server is down: nobody listens; it says 421 and closes; it takes connections and says nothing.
Down = Literal["refuses", "421", "hangs"]


class ScriptedServer:
    """`with ScriptedServer({"RCPT": ["550 5.1.1 no"]}) as server: ...`; what it saw is in `taken` and `commands`.

    `contents` has every mail whose final dot came, taken or not. `taken_at` has the moment of each mail in `taken`,
    `refusals` counts the answers of `pace`. `slow`: seconds until it answers the final dot, by a recipient's domain.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        extensions: Sequence[str] = EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        rcpt: Callable[[str], str | None] = lambda recipient: None,
        pace: Pace | None = None,
        slow: Mapping[str, float] | None = None,
        port: int = 0,
    ) -> None:
        self.script: dict[str, list[Answer]] = defaultdict(list)
        for phase, answers in (script or {}).items():
            self.script[phase] = list(answers)
        self.extensions = list(extensions)
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.rcpt = rcpt
        self.pace = pace
        self.slow = dict(slow or {})
        self.taken: list[Taken] = []
        self.taken_at: list[float] = []
        self.refusals: Counter[str] = Counter()
        self.contents: list[bytes] = []
        self.commands: list[str] = []
        self.sessions = 0
        self.most_open = 0
        self.hung = Semaphore(0)  # released once by each session that hangs
        self.deaf = Event()  # set at the end
        self.all_closed = Event()
        self.all_closed.set()
        self._sessions: set[_Session] = set()
        self._paced: deque[float] = deque()
        self._down: Down | None = None
        self._unheard: socket.socket | None = None  # it keeps the port while nobody listens
        self._server = StreamServer(("127.0.0.1", port), self._serve)

    def __enter__(self) -> ScriptedServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        if self._unheard:
            self._unheard.close()
        self.deaf.set()
        self.drop()
        assert self.all_closed.wait(5)

    def drop(self) -> None:
        """Close every session without a word."""
        for session in list(self._sessions):
            session.close()

    def go_down(self, how: Down = "refuses") -> None:
        """Close every session without a word, and take no mail until come_back()."""
        self._down = how
        if how == "refuses":
            port = self._server.server_port
            self._server.close()
            self._unheard = socket.socket()
            self._unheard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._unheard.bind(("127.0.0.1", port))
        self.drop()

    def come_back(self) -> None:
        """Take mails again; sessions that hung are closed."""
        how, self._down = self._down, None
        if self._unheard:
            self._unheard.listen(256)
            self._server, self._unheard = StreamServer(self._unheard, self._serve), None
            self._server.start()
        if how == "hangs":
            self.drop()

    @property
    def port(self) -> int:
        return self._unheard.getsockname()[1] if self._unheard else self._server.server_port

    def too_fast(self, phase: str) -> str | None:
        """The answer to a mail that comes faster than `pace`; one that does not is counted."""
        if self.pace is None or self.pace.phase != phase:
            return None
        now = time.monotonic()
        while self._paced and self._paced[0] <= now - 1.0:
            self._paced.popleft()
        if len(self._paced) >= self.pace.mails_a_second:
            self.refusals[phase] += 1
            return self.pace.answer
        self._paced.append(now)
        return None

    def _serve(self, sock, address) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its replies go out one by one
        session = _Session(self, sock)
        self._sessions.add(session)
        self.sessions += 1
        self.most_open = max(self.most_open, len(self._sessions))
        self.all_closed.clear()
        try:
            session.run()
        except (_EndSession, OSError):
            pass
        finally:
            session.close()
            self._sessions.discard(session)
            if not self._sessions:
                self.all_closed.set()


class _EndSession(Exception):
    pass


class _Session:
    def __init__(self, server: ScriptedServer, sock) -> None:
        self.server = server
        self.sock = sock
        self.buffer = b""
        self.dripped = 0
        self.sender = ""
        self.recipients: list[str] = []

    def run(self) -> None:
        if self.server.implicit_tls:
            self._wrap()
        if self.server._down == "hangs":
            self._hang()
        if self.server._down == "421":
            self._say("421 4.3.2 Service not available, closing transmission channel")
            return
        self._answer("banner")
        while True:
            line = self._line()
            verb = line[:4].upper()
            phase = {"EHLO": "EHLO", "STAR": "STARTTLS", "AUTH": "AUTH"}.get(verb, verb)
            self.server.commands.append(line)
            getattr(self, f"_do_{phase.lower()}", lambda _: self._say("502 what?"))(line)

    def close(self) -> None:
        self.sock.close()

    def _do_ehlo(self, line: str) -> None:
        if not self.server.script["EHLO"]:
            lines = ["scripted", *self.server.extensions]
            self._say("\r\n".join([f"250-{text}" for text in lines[:-1]] + [f"250 {lines[-1]}"]))
        else:
            self._answer("EHLO")

    def _do_starttls(self, line: str) -> None:
        if self._answer("STARTTLS") == "220":
            self._wrap()

    def _do_auth(self, line: str) -> None:
        if line == "AUTH LOGIN" and not self.server.script["AUTH"]:
            for question in ("334 VXNlcg==", "334 UGFzcw=="):
                self._say(question)
                self._line()
        code = self._answer("AUTH")
        while code == "334":
            self.server.commands.append(self._line())
            code = self._answer("AUTH")

    def _do_mail(self, line: str) -> None:
        self.sender, self.recipients = "", []
        refusal = self.server.too_fast("MAIL")
        if (self._say(refusal) if refusal else self._answer("MAIL")) == "250":
            self.sender = _path(line)

    def _do_rcpt(self, line: str) -> None:
        ruled = self.server.rcpt(_path(line)) if self.sender else "503 5.5.1 MAIL first"
        if (self._say(ruled) if ruled else self._answer("RCPT")) in ("250", "251"):
            self.recipients.append(_path(line))

    def _do_data(self, line: str) -> None:
        if not self.recipients and not self.server.script["DATA"]:
            self._say("554 5.5.1 no valid recipients")
            return
        if self._answer("DATA") != "354":
            return
        lines = []
        while (data := self._bytes_line()) != b".\r\n":
            lines.append(data[1:] if data.startswith(b".") else data)
        self.server.contents.append(b"".join(lines))
        if slow := self.server.slow:
            gevent.sleep(max(slow.get(name.rpartition("@")[2], 0.0) for name in self.recipients))
        refusal = self.server.too_fast("end")
        if (self._say(refusal) if refusal else self._answer("end")) == "250":
            self.server.taken.append(Taken(self.sender, tuple(self.recipients), self.server.contents[-1]))
            self.server.taken_at.append(time.monotonic())
        self.sender, self.recipients = "", []

    def _do_rset(self, line: str) -> None:
        self.sender, self.recipients = "", []
        self._answer("RSET")

    def _do_quit(self, line: str) -> None:
        self._answer("QUIT")
        raise _EndSession

    def _answer(self, phase: str) -> str:
        script = self.server.script[phase]
        answer = script.pop(0) if script else DEFAULTS[phase]
        if answer is HANG:
            self._hang()
        if answer is DRIP:
            while True:
                self.sock.sendall(b"250-x\r\n"[self.dripped % 7 :][:1])
                self.dripped += 1
                gevent.sleep(0.01)
        if answer is SLOW:
            self._say("354 go on")
            while self.sock.recv(4_096):
                gevent.sleep(0.01)
            raise _EndSession
        if answer is DEAF:
            self._say("354 I am all ears")
            self.server.deaf.wait()
            raise _EndSession
        if isinstance(answer, bytes):
            self.sock.sendall(answer)
            raise _EndSession
        assert isinstance(answer, str)
        return self._say(answer)

    def _hang(self) -> NoReturn:
        self.server.hung.release()
        while self.sock.recv(4096):
            pass
        raise _EndSession

    def _say(self, text: str) -> str:
        self.sock.sendall(text.encode() + b"\r\n")
        return text[:3]

    def _line(self) -> str:
        return self._bytes_line().decode().rstrip("\r\n")

    def _bytes_line(self) -> bytes:
        while b"\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise _EndSession
            self.buffer += data
        line, end, self.buffer = self.buffer.partition(b"\n")
        return line + end

    def _wrap(self) -> None:
        assert self.server.tls is not None
        self.sock = self.server.tls.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        self.sock.do_handshake()


def _path(line: str) -> str:
    return line[line.index("<") + 1 : line.rindex(">")]


class Certificate(NamedTuple):
    """A self-made certificate; `pem` has the key too."""

    pem: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        return context


def make_certificate(folder: Path, name: str = "localhost", address: str = "127.0.0.1") -> Certificate:
    """Valid for a day; whoever is to trust it gets SSL_CERT_FILE."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(encoding))
    return Certificate(pem)


class Aiosmtpd:
    """aiosmtpd in a process of its own, with STARTTLS and AUTH required (user "millpond", password "secret")."""

    def __init__(self, certificate: Certificate) -> None:
        command = [sys.executable, __file__, str(certificate.pem)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._readline())

    def mail(self) -> dict[str, object]:
        """The next mail that it took: sender, recipients, content, login."""
        return json.loads(self._readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _readline(self) -> str:
        line = self._process.stdout.readline()
        assert line, "aiosmtpd has ended"
        return line


@contextmanager
def aiosmtpd(certificate: Certificate) -> Iterator[Aiosmtpd]:
    server = Aiosmtpd(certificate)
    try:
        yield server
    finally:
        server.close()


def _main(pem: str) -> None:
    import asyncio

    from aiosmtpd.smtp import SMTP, AuthResult

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            mail = {
                "sender": envelope.mail_from,
                "recipients": envelope.rcpt_tos,
                "content": envelope.content.decode("utf-8"),
                "login": session.auth_data.decode() if session.auth_data else "",
                "options": envelope.mail_options,
            }
            print(json.dumps(mail), flush=True)
            return "250 taken"

    def authenticate(server, session, envelope, mechanism, data):
        if (data.login, data.password) != (b"millpond", b"secret"):
            return AuthResult(success=False, handled=False)
        return AuthResult(success=True, auth_data=data.login)

    async def serve() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        options = {"tls_context": context, "require_starttls": True, "auth_required": True, "enable_SMTPUTF8": True}
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: SMTP(Handler(), authenticator=authenticate, hostname="localhost", loop=loop, **options),
            "127.0.0.1",
            0,
        )
        print(listener.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)  # the parent closes it, or is gone

    asyncio.run(serve())


if __name__ == "__main__":
    _main(sys.argv[1])
