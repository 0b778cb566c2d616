"""The call that a job makes: connection refused where the other side is down, Busy where it asks for fewer."""

from __future__ import annotations

import os
import socket

PORT = int(os.environ.get("CHAOS_DOWNSTREAM", "0"))
#: From the call, which is the side effect, to the job's end.
AFTER_SECONDS = float(os.environ.get("CHAOS_AFTER_SECONDS", "0"))
#: The rate that the other side takes, where the programs are told it; 0: they are not.
RATE = float(os.environ.get("CHAOS_RATE", "0"))
CALL_SECONDS = 5.0


class Busy(Exception):
    """It takes no more now: an answer of 429."""


def call(n: int) -> None:
    """Raises ConnectionError or Busy."""
    with socket.create_connection(("127.0.0.1", PORT), CALL_SECONDS) as sock:
        sock.sendall(f"{n}\n".encode())
        answer = sock.recv(100)
    if answer == b"busy\n":
        raise Busy("too busy")
    if answer != b"ok\n":
        raise ConnectionError("no answer")
