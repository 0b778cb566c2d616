"""A handler that works a little and then sends one mail: what an outage of the mail server meets."""

from __future__ import annotations

import time

import msgspec

from chaos.relay import address
from chaos.scenarios.jobs import Job, written_down
from millpond import Message, handler
from millpond.mail import Email, Mailer
from millpond.mail import Settings as MailSettings


class Settings(msgspec.Struct):
    """[handlers.mail_jobs]"""

    port: int


mailer: Mailer | None = None


def setup(settings: Settings) -> None:
    """Nothing is connected yet."""
    global mailer
    mailer = Mailer(MailSettings(host="127.0.0.1", port=settings.port, security="none", from_="a@chaos.example"))


def teardown() -> None:
    """Close the connections."""
    if mailer is not None:
        mailer.close()


@handler("mail", timeout=900)
def mail(job: Job, message: Message) -> None:
    with written_down(job, message):
        time.sleep(job.seconds)
        assert mailer is not None
        mailer.send(Email(to=[address(job.n)], subject=f"Mail {job.n}", text="Hello"), message)
