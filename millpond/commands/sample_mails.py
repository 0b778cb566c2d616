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


def payload(index: int) -> dict[str, Any]:
    """The index-th e-mail, as the payload of email.send."""
    name, address = PEOPLE[index % len(PEOPLE)]
    write = KINDS[index % len(KINDS)]
    return {"to": [f'"{name}" <{address}>'], **write(name.split()[0], 1000 + index)}


def _order(name: str, number: int) -> dict[str, Any]:
    return {
        "from": "Oak & Iron <orders@example.com>",
        "subject": f"Your order {number} is confirmed",
        "text": f"Hello {name},\n\nthank you for order {number}. It leaves our workshop within two working days.\n",
        "html": ORDER_HTML.format(name=name, number=number),
    }


def _sign_in(name: str, number: int) -> dict[str, Any]:
    return {
        "subject": "Your sign-in code",
        "text": f"Hello {name},\n\nyour code is {number * 7919 % 1_000_000:06}. It is valid for ten minutes.\n",
    }


def _report(name: str, number: int) -> dict[str, Any]:
    rows = "\n".join(f"2026-11-{day:02},{number + day * 13},{number // 2 + day}" for day in range(1, 8))
    content = f"day,visits,orders\n{rows}\n".encode()
    return {
        "cc": ["reports@example.org"],
        "subject": f"Weekly report {number}",
        "text": f"Hello {name},\n\nthe numbers of the week are attached.\n",
        "attachments": [
            {
                "filename": f"week-{number}.csv",
                "content": base64.b64encode(content).decode(),
                "content_type": "text/csv",
            }
        ],
    }


def _parcel(name: str, number: int) -> dict[str, Any]:
    return {
        "from": "Oak & Iron <parcels@example.com>",
        "reply_to": "help@example.com",
        "subject": f"Parcel {number} is on its way 📦",
        "text": f"Hello {name},\n\nyour parcel arrives tomorrow between 9 and 12. Nobody at home? Just reply.\n",
    }


def _invitation(name: str, number: int) -> dict[str, Any]:
    text = "on Saturday we plane, saw and drink coffee."
    return {
        "subject": f"{name}, come to our open workshop",
        "text": f"Hello {name},\n\n{text} Seat {number} is yours.\n",
        "html": f"<p>Hello {name},</p><p>{text} <em>Seat {number}</em> is yours.</p>",
    }


KINDS = (_order, _sign_in, _report, _parcel, _invitation)
