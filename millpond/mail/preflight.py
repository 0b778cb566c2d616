"""The preflight of e-mail: the mail server is greeted and logged in to as for a mail, and no mail is sent."""

from __future__ import annotations

import ssl

import gevent

from millpond import TooFast, Unavailable
from millpond.errors import ConfigError
from millpond.mail.mail_server import MailServer
from millpond.mail.smtp_connection import SmtpConnection
from millpond.mail.waits import QUIT_SECONDS

#: A preflight waits no longer for the whole greeting. RFC 5321 has 5 minutes for each reply, but who looks is a person.
GREETING_SECONDS = 10.0
#: What ends by itself is no fault of the settings; what says this does not.
_LASTING = {
    "offers no STARTTLS": 'use a port that does (587), or security = "tls" (465)',
    "neither AUTH PLAIN nor AUTH LOGIN": 'use security = "starttls" or "tls": most servers offer a login only then',
    "at AUTH: check user": "set user and password (SMTP_USER, SMTP_PASSWORD) anew",
}


def greet_server(server: MailServer) -> str:
    """Connect, encrypt, log in, and say good-bye; what was done, in words.

    Raises ConfigError where that will fail again until a person changes something, else Unavailable or TooFast.
    """
    try:
        with gevent.Timeout(GREETING_SECONDS):
            connection = SmtpConnection.open(server)
    except gevent.Timeout:
        text = (
            f"it has not said all of its greeting within {GREETING_SECONDS:g} s: a firewall may stand before the port"
        )
        text += ', or it waits for TLS there (security = "tls")' if server.tls is None or server.starttls else ""
        raise server.unavailable(text) from None
    except (Unavailable, TooFast) as verdict:
        if mend := _mend(verdict):
            raise ConfigError(f"{verdict.reason}: {mend}") from verdict
        raise
    connection.start_quit()
    connection.end_quit(QUIT_SECONDS)
    how = "in the clear" if server.tls is None else "encrypted"
    return f"the mail server {server.host}:{server.port} was greeted, {how}" + (
        ", and takes the login" if server.user else ", without a login"
    )


def _mend(verdict: Unavailable | TooFast) -> str:
    """What mends it; "" where it may end by itself."""
    cause = verdict.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "host must be a name in the server's certificate, and its issuer one that this machine trusts"
    if isinstance(cause, ssl.SSLError):
        return 'where a server begins in the clear, as on 25 and 587, security = "starttls" is right'
    return next((mend for text, mend in _LASTING.items() if text in verdict.reason), "")
