"""From a job to a Mail: who gets it, and its bytes. The same job makes the same mail at every attempt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from zlib import adler32, crc32

import msgspec

from millpond import Message, Reject
from millpond.mail import mime
from millpond.mail.address import MailAddress, parse_address
from millpond.mail.headers import extra_headers
from millpond.mail.job import Email

#: Each costs time in which nothing else runs. Servers take at least 100 recipients (RFC 5321 4.5.3.1.8), Postfix 1,000.
MAX_ADDRESSES = 1_000
#: Characters of all the domains beyond ASCII, each domain once: IDNA takes 6 us a character.
MAX_WIDE_CHARACTERS = 4_000
MAX_ATTACHMENTS = 100
#: A job for several recipients may come back as follow-ups that carry it whole, with up to this much around it: the
#: envelope, the ids, the sender where it named none. (The recipients in them are counted separately.) A follow-up has
#: all that already: its own follow-ups only have a longer event id, and on FIFO the time when they may begin.
FOLLOW_UP_BYTES = 4_096
NEXT_FOLLOW_UP_BYTES = 128
#: How many digits of a mail's name come from its event id; the other sixteen come from the job itself.
EVENT_DIGITS = 16
#: An ASCII subject up to this length is written on one line as it is: nearly all are.
SHORT_SUBJECT = mime.ENCODED_LINE - len("Subject: ")
#: A sender up to this length is remembered, 256 of them at most: half a megabyte.
MAX_KEPT_SENDER = 320

_OWN_MESSAGE_ID = re.compile(rf"<([0-9a-f]{{{EVENT_DIGITS}}})[0-9a-f]{{16}}@.+>")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,100}@[!-;=?-~]{1,255}>")


class Sender(NamedTuple):
    """The sender of a mail: the bare address, its domain, and the whole header."""

    spec: str
    domain: str
    header: str


class Mail(NamedTuple):
    """One mail, ready to be sent.

    `name`: letters and digits made of the event id and the job. `sender` and `recipients`: the bare addresses of the
    envelope, each recipient once. `content`: the bytes, with CRLF. `utf8`: some address needs SMTPUTF8 (RFC 6531).
    """

    name: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    message_id: str
    date: datetime
    utf8: bool = False

    def __repr__(self) -> str:
        return f"<Mail {self.name} of {len(self.content)} bytes>"  # neither addresses nor texts


def compose(email: Email, message: Message, default_from: str) -> Mail:
    """The mail of a job. Raises Reject for what can never be sent; its reason quotes nothing of the mail."""
    if len(email.to) > 1 or email.cc or email.bcc or email.only:
        _check_lists(email.to, email.cc or (), email.bcc or (), email.only or ())
    sender = _sender(email.from_ or default_from)
    to = _addresses(email.to, "to")
    cc = _addresses(email.cc, "cc") if email.cc else []
    bcc = _addresses(email.bcc, "bcc") if email.bcc else []
    reply_to = [parse_address(email.reply_to, "reply_to")] if email.reply_to else []
    specs = [address.spec for address in (*to, *cc, *bcc)]
    recipients = _only(email.only, specs) if email.only else tuple(dict.fromkeys(specs))
    if len(recipients) != 1:
        _check_recipients(recipients, email, message)
    if email.attachments and len(email.attachments) > MAX_ATTACHMENTS:
        raise Reject(f"the mail has more than {MAX_ATTACHMENTS} attachments")
    if not (email.text or email.html):
        raise Reject("the mail has neither text nor html")
    name = _name(email, message)
    message_id, seed = f"<{name}@{sender.domain}>", name[:EVENT_DIGITS]
    if email.message_id:
        message_id, seed = _identity(email.message_id)
    date = email.date or message.sent_at
    headers = [f"Date: {_date(date)}", sender.header]
    if to:
        headers.append(_listed("To", to))
    if cc:
        headers.append(_listed("Cc", cc))
    if reply_to:
        headers.append(_listed("Reply-To", reply_to))
    if email.subject and (subject := _subject(email.subject)):
        headers.append(subject)
    headers.append(f"Message-ID: {message_id}")  # one word, which has nowhere to be folded
    if email.headers:
        headers += extra_headers(email.headers)
    content = mime.build(headers, email.text or "", email.html or "", email.attachments or (), seed)
    utf8 = not "".join([sender.spec, *specs, *[address.spec for address in reply_to]]).isascii()
    return Mail(name, sender.spec, recipients, content, message_id, date, utf8)


def _check_lists(to: Sequence[str], cc: Sequence[str], bcc: Sequence[str], only: Sequence[str]) -> None:
    if max(len(to) + len(cc) + len(bcc), len(only)) > MAX_ADDRESSES:
        raise Reject(f"the mail has more than {MAX_ADDRESSES} addresses in to, cc and bcc: send several mails")
    domains = {text.rpartition("@")[2] for texts in (to, cc, bcc, only) for text in texts if not text.isascii()}
    if sum(len(domain) for domain in domains if not domain.isascii()) > MAX_WIDE_CHARACTERS:
        raise Reject("to, cc and bcc have too many domains beyond ASCII: write them in their ASCII form (xn--...)")


def _sender(text: str) -> Sender:
    """The sender of this text, remembered: most jobs of a program have the same few."""
    return _kept_sender(text) if len(text) <= MAX_KEPT_SENDER else _parsed_sender(text)


def _parsed_sender(text: str) -> Sender:
    address = parse_address(text, "from")
    return Sender(address.spec, address.domain, mime.folded("From", address.header))


_kept_sender = lru_cache(maxsize=256)(_parsed_sender)


def _name(email: Email, message: Message) -> str:
    """A name that is the same for every delivery of a job, and differs for another mail, even of the same event id.

    A hash keeps event ids apart, checksums the few mails of one event id: they take a fifth of its time.
    """
    try:
        job = msgspec.msgpack.encode(email)
    except UnicodeEncodeError:
        raise Reject("the mail holds half a character (a lone surrogate)") from None
    return f"{_digest(message.event_id)}{crc32(job) << 32 | adler32(job):016x}"


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()[:EVENT_DIGITS]


def _identity(message_id: str) -> tuple[str, str]:
    """The Message-ID of a job, and what the boundaries are made of: a follow-up has those of its original."""
    if not _MESSAGE_ID.fullmatch(message_id):
        raise Reject("message_id is not one Message-ID in angle brackets")
    own = _OWN_MESSAGE_ID.fullmatch(message_id)
    return message_id, own[1] if own else _digest(message_id)


def _date(date: datetime) -> str:
    """A date as in RFC 5322 3.3; for those of SQS at a quarter of the cost of email.utils.format_datetime."""
    return _written(date.ctime()) if date.tzinfo is UTC else format_datetime(date)


@lru_cache(maxsize=64)
def _written(text: str) -> str:
    """The same from `Sat Mar 14 15:09:26 2026`, as ctime() writes it in every locale; many mails share a second."""
    day = text[8:10].replace(" ", "0")
    return f"{text[:3]}, {day} {text[4:7]} {text[20:]} {text[11:19]} +0000"


def _addresses(texts: Sequence[str], field: str) -> list[MailAddress]:
    return [parse_address(text, f"{field}[{index}]") for index, text in enumerate(texts)]


def _listed(field: str, addresses: Sequence[MailAddress]) -> str:
    return mime.folded(field, ", ".join([address.header for address in addresses]))


def _only(wanted: Sequence[str], specs: Sequence[str]) -> tuple[str, ...]:
    found = dict.fromkeys(address.spec for address in _addresses(wanted, "only"))
    if not found.keys() <= set(specs):
        raise Reject("only names a recipient that is not in to, cc or bcc")
    return tuple(found)


def _check_recipients(recipients: tuple[str, ...], email: Email, message: Message) -> None:
    """Refuse before the first send what could not be divided after it: the rest would have no message to wait in."""
    if not recipients:
        raise Reject("the mail has no recipient")
    room, needed = message.max_bytes, NEXT_FOLLOW_UP_BYTES
    if not email.only:
        needed = FOLLOW_UP_BYTES + len("".join(recipients).encode()) + 3 * len(recipients)
    if len(message.body) * 4 + needed > room and len(message.body.encode()) + needed > room:
        text = f"the mail is too large to be divided if some of its {len(recipients)} recipients have to wait"
        raise Reject(text)


def _subject(subject: str) -> str:
    """The header of a subject; nothing for an empty one."""
    if len(subject) <= SHORT_SUBJECT and subject.isascii() and subject.isprintable() and "=?" not in subject:
        value = subject.strip()
        return f"Subject: {value}" if value else ""
    if mime.has_unsafe(subject):
        raise Reject("subject has a line break or a control character")
    value = mime.text_value(subject)
    return mime.folded("Subject", value) if value else ""
