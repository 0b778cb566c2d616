"""The headers that a job may set."""

from __future__ import annotations

import re

from millpond import Reject
from millpond.mail.mime import folded, has_unsafe

_ALLOWED = """
Auto-Submitted Feedback-ID Importance In-Reply-To List-Archive List-Help List-Id List-Owner List-Post List-Subscribe
List-Unsubscribe List-Unsubscribe-Post Organization Precedence Priority References X-Auto-Response-Suppress
X-Entity-Ref-ID X-Priority
X-MC-Autohtml X-MC-Autotext X-MC-GoogleAnalytics X-MC-GoogleAnalyticsCampaign X-MC-Important X-MC-InlineCSS X-MC-IpPool
X-MC-MergeLanguage X-MC-MergeVars X-MC-Metadata X-MC-PreserveRecipients X-MC-SendAt X-MC-SigningDomain X-MC-Subaccount
X-MC-Tags X-MC-Template X-MC-Track X-MC-TrackingDomain X-MC-URLStripQS X-MC-ViewContentLink
X-Mailgun-Deliver-By X-Mailgun-Delivery-Time-Optimize-Period X-Mailgun-Dkim X-Mailgun-Drop-Message
X-Mailgun-Recipient-Variables X-Mailgun-Require-TLS X-Mailgun-Secondary-DKIM X-Mailgun-Sending-IP
X-Mailgun-Sending-IP-Pool X-Mailgun-Skip-Verification X-Mailgun-Tag X-Mailgun-Template-Name X-Mailgun-Template-Variables
X-Mailgun-Time-Zone-Localize X-Mailgun-Track X-Mailgun-Track-Clicks X-Mailgun-Track-Opens X-Mailgun-Variables
X-PM-Message-Stream X-PM-Metadata- X-PM-Tag X-PM-Track-Links X-PM-TrackLinks X-PM-TrackOpens
X-SES-CONFIGURATION-SET X-SES-FROM-ARN X-SES-LIST-MANAGEMENT-OPTIONS X-SES-MESSAGE-TAGS X-SES-RETURN-PATH-ARN
X-SES-SOURCE-ARN X-SES-TENANT
"""
#: The headers that a job may set; a name that ends in "-" allows every name that begins so. The standard ones say
#: what kind of mail it is and how to answer it or to leave the list (RFC 2369, 2919, 3834, 5322, 8058); the X- ones
#: give hosted relays (Mailgun, Mandrill, Postmark, SendGrid, SES) the tags, the stream or the settings of a mail.
#: None of them names a recipient or a second way for the mail, as X-SMTPAPI, X-MC-BccAddress and X-MSYS-API do:
#: those come from to, cc and bcc alone. Hence names, and no prefix under which a relay may invent some.
ALLOWED_HEADERS = tuple(_ALLOWED.split())
MAX_HEADERS = 100

_NAMES = frozenset(name.lower() for name in ALLOWED_HEADERS)
_PREFIXES = tuple(name.lower() for name in ALLOWED_HEADERS if name.endswith("-"))
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,70}")


def extra_headers(headers: dict[str, str]) -> list[str]:
    """These headers, each folded(). Raises Reject, whose reason quotes nothing of the job."""
    if len(headers) > MAX_HEADERS:
        raise Reject(f"the mail has more than {MAX_HEADERS} headers")
    seen, extra = set(), []
    for index, (name, value) in enumerate(headers.items()):
        key, value = name.lower(), value.strip()
        if not _HEADER_NAME.fullmatch(name) or not (key in _NAMES or key.startswith(_PREFIXES)):
            raise Reject(f"headers[{index}] is not one of the headers that a job may set: {', '.join(ALLOWED_HEADERS)}")
        shown = name if key in _NAMES else f"headers[{index}]"  # our own words may be shown, the job's may not
        if key in seen:
            raise Reject(f"headers: {shown} is there twice")
        if not value or not value.isascii() or has_unsafe(value):
            raise Reject(f"headers: the value of {shown} must be ASCII, on one line, not empty")
        seen.add(key)
        extra.append(folded(name, value, shown))
    return extra
