"""One e-mail address, parsed strictly: what is not plainly one address is refused, and never guessed."""

from __future__ import annotations

import re
from binascii import a2b_base64, a2b_qp
from functools import lru_cache
from unicodedata import normalize

import msgspec

from millpond import Reject
from millpond.mail.mime import encoded_words, has_unsafe

#: RFC 5321 4.5.3.1: octets of a local part and of a domain.
MAX_LOCAL_BYTES = 64
MAX_DOMAIN_BYTES = 255
MAX_LABEL_BYTES = 63
#: Characters of `Name <a@b.org>`. Servers take a header of some 1,000 bytes a line, 10 to 100 kB in all.
MAX_ADDRESS = 2_000

# A dot-atom (RFC 5322 3.2.3), with RFC 6531's characters beyond ASCII. A quoted local part ("a@b"@c.org) is refused:
# programs disagree on where its mail goes, and nobody has one.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_WIDE_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LOCAL = re.compile(rf"{_WIDE_ATOM}(\.{_WIDE_ATOM})*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# An address that a header shows as it was written, as nearly all are: one look instead of ten, 1 us instead of 6.
# Without = in the name and ? in the local part it holds no encoded word.
_WORD = r"[A-Za-z0-9!#$%&'*+/^_`{|}~-]++"
_COMMON_ATOM = r"[A-Za-z0-9!#$%&'*+/=^_`{|}~-]++"
_COMMON_LABEL = r"[a-z0-9]++(?:-++[a-z0-9]++)*+"
_COMMON = re.compile(
    rf"(?:({_WORD}(?: {_WORD})*+) <)?+"
    rf"({_COMMON_ATOM}(?:\.{_COMMON_ATOM})*+@({_COMMON_LABEL}(?:\.{_COMMON_LABEL})*+))(?(1)>)"
)
MAX_COMMON = MAX_LOCAL_BYTES  # an address up to this length has no part that is too long
# IDNA 2003, which Python has, maps these away (straße.de becomes strasse.de: another domain); IDNA 2008 keeps them.
_DEVIATIONS = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")

# An encoded word (RFC 2047 2), and a language (RFC 2231 5). The charsets are those of mail: other codecs (zip, utf-16,
# unicode_escape) make no text of a header, and Python keeps each name that it was ever asked for.
_ENCODED_WORD = re.compile(
    r"=\?(utf-8|us-ascii|iso-8859-(?:[1-9]|1[013-6])|windows-125[0-8]|koi8-[ru]|gb2312|gbk|gb18030|big5|euc-jp|euc-kr"
    r"|iso-2022-jp|shift_jis)(?:\*[a-z0-9-]{1,20})?\?([bq])\?([!->@-~]*)\?=",
    re.IGNORECASE,
)
# How one begins. Parsers that decode a header before they read it would see another mailbox than the envelope has.
_BEGIN_OF_WORD = re.compile(r"=\?[^?]*\?[bq]\?", re.IGNORECASE)

# The full stops of IDNA (RFC 3490 3.1).
_DOTS = re.compile("[.\u3002\uff0e\uff61]")

_PLAIN_NAME = re.compile(rf"(?=.{{1,200}}$){_ATOM}( {_ATOM})*")
# Without the characters that need a backslash, and short enough for one line.
_QUOTABLE = re.compile(r"[ !#-\[\]-~]{1,200}")
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')
_AMBIGUOUS = re.compile(r'[<>@,;:"\\]')


class MailAddress(msgspec.Struct, frozen=True, gc=False):
    """One address. `spec`: local@domain as in the envelope, the local part as it was written; `domain`: in lower case
    and A-labels, so that equal mailboxes have equal ones.

    `header`: the address as a header shows it, its name encoded or quoted where it must be.
    """

    name: str
    spec: str
    domain: str
    header: str


def parse_address(text: str, where: str) -> MailAddress:
    """The address of `a@b.org` or `Name <a@b.org>`. Raises Reject, which names `where` and never the address."""
    if len(text) <= MAX_COMMON and (common := _COMMON.fullmatch(text)):
        name, spec, domain = common.groups("")
        return MailAddress(name, spec, domain, text)
    if len(text) > MAX_ADDRESS:
        raise Reject(f"{where} is longer than {MAX_ADDRESS} characters, too long for an address and a name")
    name, spec = _split(text, where)
    local, at, domain = spec.rpartition("@")
    if not at or not spec.isprintable() or not _LOCAL.fullmatch(local):
        raise Reject(f"{where} is not one e-mail address")
    if len(local.encode()) > MAX_LOCAL_BYTES or len(domain) > MAX_DOMAIN_BYTES:
        raise Reject(f"{where} is longer than an e-mail address can be")
    if _BEGIN_OF_WORD.search(local):
        raise Reject(f"{where} has an encoded word (=?...?=) before its @, which some programs read as another address")
    domain = _ascii_domain(domain, where)
    spec = f"{local}@{domain}"
    return MailAddress(name, spec, domain, f"{_phrase(name)} <{spec}>" if name else spec)


def domain_of(text: str) -> str:
    """The domain of an address that parse_address() takes, "" if it is not a full one (localhost)."""
    domain = parse_address(text, "from").domain
    return domain if "." in domain else ""


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
        raise Reject(f'{where} is not one e-mail address; write a name with a comma or the like "in quotes"')
    # A name with letters beyond ASCII was not written by an encoder: it means what it says.
    return (_decoded(name, where) if "=?" in name and name.isascii() else name), spec


def _decoded(name: str, where: str) -> str:
    """A name with its encoded words decoded: email.utils.formataddr writes them. Anything else stays as it is.

    Raises Reject if they hide a line break or a control character.
    """
    text, after_word = "", False
    for token in filter(None, name.split(" ")):
        word = _word(token)
        if text and not (after_word and word is not None):  # a space between two encoded words means nothing
            text += " "
        text += token if word is None else word
        after_word = word is not None
    if has_unsafe(text) or "\t" in text:
        raise Reject(f"{where} has a line break or a control character")
    return text.strip()


def _word(token: str) -> str | None:
    """The text of an encoded word; None if it is not one."""
    match = _ENCODED_WORD.fullmatch(token)
    if match is None:
        return None
    charset, encoding, data = match.groups()
    try:
        raw = a2b_base64(data, strict_mode=True) if encoding in "bB" else a2b_qp(data, header=True)
        return raw.decode(charset)
    except ValueError:  # no base64, or not of this charset
        return None


def _ascii_domain(domain: str, where: str) -> str:
    if not domain.isascii():
        if _DEVIATIONS.search(domain):
            raise Reject(f"{where} has a domain whose letters have two readings: write it in its ASCII form (xn--...)")
        encoded = _idna(domain)
        if not encoded:
            raise Reject(f"{where} has a domain that IDNA does not allow")
        domain = encoded
    domain = domain.lower()
    if len(domain) > MAX_DOMAIN_BYTES or not _DOMAIN.fullmatch(domain):
        raise Reject(f"{where} has no valid domain")
    return domain


@lru_cache(maxsize=256)
def _idna(domain: str) -> str:
    """The domain in A-labels, or nothing. The codec's time grows with the square of a label's length, and normalizing
    can make eighteen characters of one: a label that cannot fit is not tried."""
    if max(map(len, _DOTS.split(normalize("NFKC", domain)))) > MAX_LABEL_BYTES:
        return ""
    try:
        return domain.encode("idna").decode()
    except UnicodeError:
        return ""


def _phrase(name: str) -> str:
    if _PLAIN_NAME.fullmatch(name) and "=?" not in name:
        return name
    return f'"{name}"' if _QUOTABLE.fullmatch(name) and "=?" not in name else encoded_words(name)
