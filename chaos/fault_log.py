"""FaultLog: every injected fault, in a file of JSON lines, written before the fault can have an effect."""

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
