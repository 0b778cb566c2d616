"""The jobs: what a sender may ask for, and what is left of it when some recipients have to wait."""

from __future__ import annotations

from binascii import a2b_base64
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec.structs import replace

#: The type of an attachment that names none.
OCTETS = "application/octet-stream"

if TYPE_CHECKING:
    Base64 = bytes
else:
    Base64 = str  # for msgspec, whose own base64 has no line breaks; Attachment makes bytes of it


class Attachment(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A file. In JSON its content is base64, with line breaks or without."""

    filename: str
    content: Base64
    content_type: str | None = OCTETS

    def __post_init__(self) -> None:
        content: object = self.content
        if isinstance(content, str):
            self.content = _decoded(content)

    def __repr__(self) -> str:
        return f"<Attachment of {len(self.content)} bytes>"


class Email(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One e-mail. Addresses are `a@b.org` or `Name <a@b.org>`; it needs text or html; headers: see ALLOWED_HEADERS.

    A name that is not here is refused: a mail sent without its mistyped `bbc` would look sent. What may be left out
    may also be null.
    """

    to: Annotated[list[str], msgspec.Meta(min_length=1)]
    cc: list[str] | None = []
    bcc: list[str] | None = []
    from_: str | None = msgspec.field(name="from", default="")
    reply_to: str | None = ""
    subject: str | None = ""
    text: str | None = ""
    html: str | None = ""
    headers: dict[str, str] | None = {}
    attachments: list[Attachment] | None = []
    # Written by the Mailer into its follow-ups, as in Remainder.
    only: list[str] | None = []
    message_id: str | None = ""
    date: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def __repr__(self) -> str:
        return f"<Email to {len(self.to)} and others>"  # neither addresses nor texts

    def left(self, rest: Remainder) -> Email:
        """The same mail, for those who have not had it yet."""
        return replace(self, from_=rest.sender, only=rest.only, message_id=rest.message_id, date=rest.date)


class Remainder(msgspec.Struct, frozen=True):
    """What is left of a mail: who has not had it yet, and what makes it the same mail."""

    only: list[str]
    sender: str
    message_id: str
    date: Annotated[datetime, msgspec.Meta(tz=True)]

    def __repr__(self) -> str:
        return f"<Remainder for {len(self.only)}>"  # no addresses


class Mailing(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The base of a payload of your own. Its follow-ups are the payload itself, with the remainder that it is for."""

    remainder: Remainder | None = None


def _decoded(content: str) -> bytes:
    """The bytes of base64 (RFC 4648 4), with line breaks or without. Raises ValueError, which quotes nothing of it."""
    try:
        return a2b_base64(content.encode("ascii").translate(None, b" \t\r\n"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are of this kind
        rule = "letters, digits, + and /, filled up with = to a multiple of four"
        raise ValueError(f"Invalid base64 in `content`: {rule}") from None
