"""FaultLog: every injected fault, in a file of JSON lines, written before the fault can have an effect.

ReceiveLog: every message that came through in an answer, beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from chaos.handles import Number


class Injected(msgspec.Struct, frozen=True):
    """One fault. `moment`: when it began; `messages`: number and receive of each that the call was about."""

    moment: float
    kind: str
    operation: str
    worker: str
    messages: list[Number] = []


class Receive(msgspec.Struct, frozen=True):
    """One receive of one message: its number, and SQS's count of its receives."""

    moment: float
    n: int
    count: int


class ReceiveLog:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, moment: float, messages: Sequence[Number]) -> None:
        os.write(self._file, "".join(f"{moment:.4f} {n} {count}\n" for n, count in messages).encode())


class FaultLog:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._encode = msgspec.json.Encoder().encode

    def write(self, moment: float, kind: str, operation: str, worker: str, messages: Sequence[Number]) -> None:
        os.write(self._file, self._encode(Injected(moment, kind, operation, worker, list(messages))) + b"\n")


def read(path: Path) -> list[Injected]:
    """All that is whole so far."""
    if not path.exists():
        return []
    decode = msgspec.json.Decoder(Injected).decode
    lines = path.read_bytes().split(b"\n")[:-1]
    return [decode(line) for line in lines]


def receives(path: Path) -> list[Receive]:
    """All that came through so far."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Receive(float(moment), int(n), int(count)) for moment, n, count in map(str.split, lines)]
