"""Made-up e-mails for `--demo`: no real person, and only addresses that are reserved for examples (RFC 2606)."""

from __future__ import annotations

import base64
from typing import Any

PEOPLE = (
    ("Ann Baker", "ann.baker@example.com"),
    ("Zoë Müller", "zoe.mueller@example.org"),
    ("Tomás Núñez", "tomas@example.com"),
    ("佐藤 花子", "hanako.sato@example.org"),
    ("Øyvind Ås", "oyvind@example.net"),
    ("Priya Raman", "priya.raman@example.com"),
    ("Łukasz Wójcik", "lukasz@example.org"),
)

ORDER_HTML = """\
<!doctype html>
<html><body style="font-family: sans-serif">
<p>Hello {name},</p>
<p>thank you for order <strong>{number}</strong>.</p>
<table><tr><td>Oak shelf, 80 cm</td><td>2</td><td>59.80 €</td></tr>
<tr><td>Brackets, black</td><td>4</td><td>19.60 €</td></tr></table>
<p>It leaves our workshop within two working days.</p>
</body></html>
"""


WORKSHOP = "on Saturday we plane, saw and drink coffee."
#: The fields of each kind of mail; a report has an attachment too.
KINDS: tuple[dict[str, Any], ...] = (
    {
        "from": "Oak & Iron <orders@example.com>",
        "subject": "Your order {number} is confirmed",
        "text": "Hello {name},\n\nthank you for order {number}. It leaves our workshop within two working days.\n",
        "html": ORDER_HTML,
    },
    {
        "subject": "Your sign-in code",
        "text": "Hello {name},\n\nyour code is {code:06}. It is valid for ten minutes.\n",
    },
    {
        "cc": ["reports@example.org"],
        "subject": "Weekly report {number}",
        "text": "Hello {name},\n\nthe numbers of the week are attached.\n",
    },
    {
        "from": "Oak & Iron <parcels@example.com>",
        "reply_to": "help@example.com",
        "subject": "Parcel {number} is on its way 📦",
        "text": "Hello {name},\n\nyour parcel arrives tomorrow between 9 and 12. Nobody at home? Just reply.\n",
    },
    {
        "subject": "{name}, come to our open workshop",
        "text": f"Hello {{name}},\n\n{WORKSHOP} Seat {{number}} is yours.\n",
        "html": f"<p>Hello {{name}},</p><p>{WORKSHOP} <em>Seat {{number}}</em> is yours.</p>",
    },
)


def payload(index: int) -> dict[str, Any]:
    """The index-th e-mail, as the payload of email.send."""
    (name, address), kind, number = PEOPLE[index % len(PEOPLE)], KINDS[index % len(KINDS)], 1000 + index
    values = {"name": name.split()[0], "number": number, "code": number * 7919 % 1_000_000}
    mail = {key: text.format(**values) if isinstance(text, str) else text for key, text in kind.items()}
    attachments = {"attachments": [_report(number)]} if "cc" in kind else {}
    return {"to": [f'"{name}" <{address}>'], **mail, **attachments}


def _report(number: int) -> dict[str, str]:
    rows = "\n".join(f"2026-11-{day:02},{number + day * 13},{number // 2 + day}" for day in range(1, 8))
    content = base64.b64encode(f"day,visits,orders\n{rows}\n".encode()).decode()
    return {"filename": f"week-{number}.csv", "content": content, "content_type": "text/csv"}
