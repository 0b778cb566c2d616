"""ProcessName: a name in metrics that no other process of this machine has at the same time."""

from __future__ import annotations

import errno
import os
import socket

#: More processes of one name on one machine than this: their pids tell them apart.
MOST_OF_ONE_NAME = 1_000


class ProcessName:
    """A name, with `_2`, `_3` ... behind it where another process of this machine has it.

    Else the gauges of two workers on one host would overwrite each other. Where it is free again, the next process has
    it: a pid would make a new metric of each restart, which Graphite keeps for years.

    A socket without a file (Linux has them) holds the name, and lets go of it however the process ends. Containers
    have names of their own for them, and host names too.
    """

    def __init__(self, name: str) -> None:
        self._socket: socket.socket | None = None
        self.text = self._claim(name)

    def _claim(self, name: str) -> str:
        for number in range(1, MOST_OF_ONE_NAME):
            text = name if number == 1 else f"{name}_{number}"
            if self._holds(text):
                return text
        return f"{name}_{os.getpid()}"

    def _holds(self, text: str) -> bool:
        """False: another process has it. Where there are no such sockets nobody has any name, and each is used."""
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(f"\0millpond-{os.getuid()}-{text}"[:100].encode())
        except OSError as error:
            holder.close()
            return error.errno != errno.EADDRINUSE
        self._socket = holder
        return True

    def close(self) -> None:
        """Let others have it."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
