"""[http]: the worker's own HTTP server, for health checks, Prometheus and the live page."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from millpond.foreign.secrets import Unshown

_PORT = r"(6553[0-5]|655[0-2]\d|65[0-4]\d{2}|6[0-4]\d{3}|[1-5]\d{4}|\d{1,4})"
# An IPv6 address stands in brackets, as in a URL.
ListenAddress = Annotated[
    str,
    Meta(
        pattern=rf"^((\[[0-9A-Fa-f:.%\w]+\]|[^\s/:\[\]]+):{_PORT})?\Z",
        description='an address and a port, "127.0.0.1:8080"',
    ),
]

# A browser cannot send others in a header, and curl sends them by another encoding.
HttpToken = Annotated[
    str, Meta(pattern=r"^([!-~]{16,})?\Z", description="16 ASCII characters or more, without a space")
]
HttpHosts = Annotated[tuple[str, ...], Meta(description='a list of names, ["worker.example.com"]')]
PathPrefix = Annotated[str, Meta(pattern=r"^(/[\w.~-]+)*\Z", description='a path that begins with /, "/worker"')]


class HttpSettings(Unshown, msgspec.Struct, frozen=True):
    """[http]: listen = "" is off."""

    listen: ListenAddress = ""
    page: bool = True
    token: HttpToken = ""
    hosts: HttpHosts = ()
    prefix: PathPrefix = ""
    show_bodies: bool = False

    @property
    def shows_page(self) -> bool:
        """Whether the live page is on."""
        return bool(self.listen) and self.page

    @property
    def address(self) -> tuple[str, int]:
        """The host, without brackets, and the port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)
