"""The mail server: where mails go, and how to get in."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from millpond import Unavailable


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mails go. `tls` is None where nothing is encrypted; with `starttls` the encryption is asked for.

    `hello_name`: what EHLO says; where it is empty, our host name if it is a full one, else `sender_domain`.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    starttls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    hello_name: str = ""
    sender_domain: str = ""

    def unavailable(self, text: str) -> Unavailable:
        """The verdict if something goes wrong before the first word about a mail."""
        return Unavailable(f"SMTP server {self.host}:{self.port}: {text}")
