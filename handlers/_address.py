"""One e-mail address, parsed strictly: what is not plainly one address is refused, never guessed at."""

from __future__ import annotations

import re
from typing import NamedTuple

from millpond import Reject

from ._mime import encoded_words, has_unsafe

#: RFC 5321 4.5.3.1: octets of a local part and of a domain.
MAX_LOCAL_BYTES = 64
MAX_DOMAIN_BYTES = 255

# A dot-atom (RFC 5322 3.2.3), with RFC 6531's characters beyond ASCII. A quoted local part ("a@b"@c.org) is refused:
# programs disagree on where such a mail goes, and nobody has one.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_WIDE_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LOCAL = re.compile(rf"{_WIDE_ATOM}(\.{_WIDE_ATOM})*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# An address that a header shows as it was written, as nearly all are: one look instead of ten, 2 us instead of 6.
_WORD = r"[A-Za-z0-9!#$%&'*+/^_`{|}~-]+"
_COMMON = re.compile(rf"(?:({_WORD}(?: {_WORD})*) <)?({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)(?(1)>)")
MAX_COMMON = MAX_LOCAL_BYTES  # a whole that is no longer than this has no part that is too long
# IDNA 2003, which Python has, maps these away (straße.de becomes strasse.de: another domain); IDNA 2008 keeps them.
_DEVIATIONS = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")

_PLAIN_NAME = re.compile(rf"(?=.{{1,200}}$){_ATOM}( {_ATOM})*")
# Without the characters that would need a backslash, and short enough to stand on a line unfolded.
_QUOTABLE = re.compile(r"[ !#-\[\]-~]{1,200}")
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')
_AMBIGUOUS = re.compile(r'[<>@,;:"\\]')


class Address(NamedTuple):
    """`local` as it was written; `domain` in lower case and A-labels, so that equal mailboxes have an equal `spec`.

    `header` is the address as a header shows it, its name encoded or quoted where it must be.
    """

    name: str
    local: str
    domain: str
    header: str

    @property
    def spec(self) -> str:
        """local@domain: what the envelope says."""
        return f"{self.local}@{self.domain}"


def parse(text: str, where: str) -> Address:
    """`a@b.org` or `Name <a@b.org>`. Raises Reject, which names `where` and never the address."""
    if len(text) <= MAX_COMMON and (common := _COMMON.fullmatch(text)):
        return Address(common[1] or "", common[2], common[3], text)
    name, spec = _split(text, where)
    local, at, domain = spec.rpartition("@")
    if not at or not spec.isprintable() or not _LOCAL.fullmatch(local):
        raise Reject(f"{where} is not one e-mail address")
    if len(local.encode()) > MAX_LOCAL_BYTES or len(domain) > MAX_DOMAIN_BYTES:
        raise Reject(f"{where} is longer than an e-mail address can be")
    domain = _ascii_domain(domain, where)
    return Address(name, local, domain, f"{_phrase(name)} <{local}@{domain}>" if name else f"{local}@{domain}")


def _split(text: str, where: str) -> tuple[str, str]:
    if has_unsafe(text) or "\t" in text:
        raise Reject(f"{where} has a line break or a control character")
    text = text.strip(" ")
    if not text.endswith(">"):
        return "", text
    name, angle, spec = text[:-1].rpartition("<")
    name = name.strip()
    if not angle:
        raise Reject(f"{where} is not one e-mail address")
    if quoted := _QUOTED_NAME.fullmatch(name):
        return re.sub(r"\\(.)", r"\1", quoted[1]).strip(), spec
    if _AMBIGUOUS.search(name):
        raise Reject(f'{where} is not one e-mail address; a name with a comma or the like is written "in quotes"')
    return name, spec


def _ascii_domain(domain: str, where: str) -> str:
    if not domain.isascii():
        if _DEVIATIONS.search(domain):
            raise Reject(f"{where}: write this domain in its ASCII form (xn--...), its letters have two readings")
        try:
            domain = domain.encode("idna").decode()
        except UnicodeError:
            raise Reject(f"{where} has a domain that IDNA does not allow") from None
    domain = domain.lower()
    if len(domain) > MAX_DOMAIN_BYTES or not _DOMAIN.fullmatch(domain):
        raise Reject(f"{where} has no valid domain")
    return domain


def _phrase(name: str) -> str:
    if _PLAIN_NAME.fullmatch(name) and "=?" not in name:
        return name
    return f'"{name}"' if _QUOTABLE.fullmatch(name) and "=?" not in name else encoded_words(name)
