'''E-mail: builds a mail and brings it to its recipients, by SMTP or as a file. A library that knows no queue.

`handlers/email.py` is a handler on top of it, and `handlers = ["millpond.mail.handler"]` is the same one in any other
project. A handler of your own, with its own payload and its own texts, is as short:

    import msgspec

    from millpond import Breaker, Message, handler
    from millpond.mail import Email, Mailer, Mailing, Settings

    TEXT = """Hello {name}, your team has a new member."""

    mailer: Mailer


    class Joined(Mailing):  # a payload that can be divided when some of its recipients have to wait
        team: list[str]
        name: str


    def setup(settings: Settings, local: bool) -> None:  # the same keys as in [handlers.email]
        global mailer
        mailer = Mailer(settings, local=local, table="handlers.joined")


    def teardown() -> None:
        mailer.close()


    # RFC 5321 gives a server ten minutes for its last answer; mails that fail one after another are no outage.
    @handler("team.joined", timeout=900, backoff=(30, 3_600), breaker=Breaker(failures=0))
    def mail_the_team(joined: Joined, message: Message) -> None:
        email = Email(to=joined.team, subject=f"Welcome {joined.name}", text=TEXT.format(name=joined.name))
        mailer.send(email, message, joined)

What the Mailer does for it:

- A mail is built from nothing but its job, byte for byte the same at every attempt, with the same Message-ID and Date:
  a receiver can tell a second copy.
- Recipients that are refused for now go on as a follow-up, those refused for good go to the dead-letter queue with the
  server's codes. Nobody whom the server has accepted is mailed again.
- What a server refuses is tried again later (Retry) or given up (Reject); where it is down (Unavailable) or asks for
  fewer mails at a time (TooFast), the mails of the type wait, which is no failure of theirs.
- Connections are kept between mails, shared fairly by the domains (Wait), and closed by close().

It may import the public names of `millpond`, and `errors`.
'''

from millpond.mail.job import Attachment, Email, Mailing
from millpond.mail.mailer import Mailer
from millpond.mail.settings import Settings

__all__ = ["Attachment", "Email", "Mailer", "Mailing", "Settings"]
