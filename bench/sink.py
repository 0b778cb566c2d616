"""The mail server of the bench: takes every mail and keeps the books. `python -m bench.sink TOTAL [--pipelining]`.

It prints its port; `warm` with the 1,000th mail, `last` with the last one; then, once its standard input is closed,
what it got as JSON: mails, different ones, bytes, connections. Standard library only. Also what a mail is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from typing import cast

#: CPU and time are counted from this mail on: connections stand then, and code is warm.
WARM = 1_000

TEXT = "\n".join(f"Dear customer, this is line {line} of your invoice, thank you." for line in range(18))
HTML = "\n".join(f"<p>Dear customer, line {line} of your <b>invoice</b>.</p>" for line in range(24))


def letter(number: int) -> dict[str, object]:
    """The payload of a job, the same for every consumer: 2.4 kB in two parts."""
    return {
        "to": [f"Ada Lovelace <ada{number}@example.org>"],
        "from": "Shop <shop@example.com>",
        "subject": f"Invoice {number}",
        "text": TEXT,
        "html": HTML,
    }


class Books:
    """What has arrived, by the number in the subject."""

    def __init__(self, total: int) -> None:
        self.seen: Counter[bytes] = Counter()
        self.mails = self.bytes = self.connections = 0
        self._total = total

    def take(self, content: bytes) -> None:
        """One mail; what has no subject of ours counts as number "?"."""
        _, found, rest = content.partition(b"\r\nSubject: Invoice ")
        self.seen[rest.partition(b"\r")[0] if found else b"?"] += 1
        self.mails += 1
        self.bytes += len(content)
        if self.mails == WARM:
            print("warm", flush=True)
        if self.mails == self._total:
            print("last", flush=True)

    def summary(self) -> str:
        known = {str(number).encode() for number in range(self._total)}
        return json.dumps(
            {
                "mails": self.mails,
                "different": len(known & self.seen.keys()),
                "bytes": self.bytes,
                "connections": self.connections,
            }
        )


class Session(asyncio.Protocol):
    """One connection. Every command is answered at once, several in one write where they came in one."""

    def __init__(self, books: Books, extensions: list[bytes]) -> None:
        self._books = books
        self._hello = b"".join(b"250-%b\r\n" % line for line in (b"sink", *extensions)) + b"250 SIZE 10000000\r\n"
        self._buffer = b""
        self._in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._books.connections += 1
        self._transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answers = []
        while answer := self._step():
            answers.append(answer)
        if answers:
            self._transport.write(b"".join(answers))

    def _step(self) -> bytes:
        """The answer to the next command or content; b"" where it has not come whole."""
        end = b"\r\n.\r\n" if self._in_data else b"\r\n"
        taken, found, rest = self._buffer.partition(end)
        if not found:
            return b""
        self._buffer = rest
        if self._in_data:
            self._in_data = False
            self._books.take(taken)
            return b"250 2.0.0 taken\r\n"
        return self._answer(taken[:4].upper())

    def _answer(self, verb: bytes) -> bytes:
        self._in_data = verb == b"DATA"
        if verb in (b"EHLO", b"HELO"):
            return self._hello
        return {b"DATA": b"354 go ahead\r\n", b"QUIT": b"221 2.0.0 bye\r\n"}.get(verb, b"250 2.1.0 fine\r\n")


async def serve(total: int, extensions: list[bytes]) -> None:
    books = Books(total)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Session(books, extensions), "127.0.0.1", 0, backlog=1_000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(books.summary(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("total", type=int)
    parser.add_argument("--pipelining", action="store_true")
    options = parser.parse_args()
    asyncio.run(serve(options.total, [b"PIPELINING"] if options.pipelining else []))


if __name__ == "__main__":
    main()
