"""Celery's side of the mail bench: its worker as in celery_app, the mail by the standard library.

SMTP connections are kept, as many as there are tasks at once; a pool of them, for Celery starts a greenlet for each
task. smtplib sends MAIL, RCPT and DATA one by one, whatever the server offers.
"""

from __future__ import annotations

import base64
import json
import os
import smtplib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from bench.peers.celery_app import QUEUE, app
from bench.sink import letter

idle: list[smtplib.SMTP] = []


@contextmanager
def connection() -> Iterator[smtplib.SMTP]:
    """One that is kept and not in use, or a new one; not kept where its mail fails."""
    # With a name given, smtplib does not ask a name server for one.
    smtp = idle.pop() if idle else smtplib.SMTP("127.0.0.1", int(os.environ["BENCH_SMTP"]), local_hostname="bench.org")
    yield smtp
    idle.append(smtp)


@app.task(name="email.send")
def send(mail: dict[str, object]) -> None:
    message = EmailMessage()
    message["From"] = mail["from"]
    message["To"] = ", ".join(mail["to"])
    message["Subject"] = mail["subject"]
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="example.com")
    message.set_content(mail["text"])
    message.add_alternative(mail["html"], subtype="html")
    with connection() as smtp:
        smtp.send_message(message)


def bodies(total: int) -> list[str]:
    """What Celery's producer sends: through its transport in memory, then encoded as its SQS transport does it."""
    with app.connection_for_write() as broker:
        channel = broker.default_channel
        for number in range(total):
            send.apply_async(args=[letter(number)], connection=broker)
        queue = channel._queue_for(QUEUE)
        return [base64.b64encode(json.dumps(queue.get()).encode()).decode() for _ in range(total)]


if __name__ == "__main__":
    json.dump(bodies(int(sys.argv[1])), sys.stdout)
