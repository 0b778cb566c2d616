"""email.send: one e-mail, by SMTP or as a file. In a project that installs Millpond it is `millpond.mail.handler`.

A mail is sent at least once: if the worker dies between the server's 250 and the delete, or the connection after the
final dot, it is sent again, byte for byte with the same Message-ID and Date, so that a receiver can tell.
"""

from __future__ import annotations

from millpond import Breaker, Message, handler
from millpond.mail import Email, Mailer, Settings

#: The settings are in [handlers.email], whatever the name by which this file is loaded.
SETTINGS_TABLE = "email"

_mailer: Mailer | None = None


def setup(settings: Settings, local: bool = True) -> None:
    """Prepare for the first mail; nothing is connected yet. `local`: every queue is local."""
    global _mailer
    _mailer = Mailer(settings, local=local)


def preflight() -> str:
    """Greet the mail server, and send nothing: `worker.py check` calls it after setup()."""
    if _mailer is None:
        raise RuntimeError("email.send is not ready: call setup(Settings()) first")
    return _mailer.preflight()


def teardown() -> None:
    """Close the connections to the mail server."""
    global _mailer
    mailer, _mailer = _mailer, None
    if mailer is not None:
        mailer.close()


# RFC 5321 gives the server ten minutes for its answer to the final dot. No run of mails that fail is an outage, for all
# of them may be greylisted: where the server is down, the Mailer says so. Greylisting asks for 5 minutes, sometimes for
# an hour, and a full mailbox for as long as there is: seven attempts reach over one hour to two.
@handler("email.send", timeout=900, backoff=(30, 3_600), breaker=Breaker(failures=0))
def send_email(email: Email, message: Message) -> None:
    """Send one mail. Recipients that are refused go on as follow-ups; the others are not mailed again."""
    if _mailer is None:
        raise RuntimeError("email.send is not ready: call setup(Settings()) before the first mail")
    _mailer.send(email, message)
