"""What a refusal of the mail server means."""

from __future__ import annotations

import pytest

from millpond.mail.refusal import Meaning, meaning
from millpond.mail.reply import Reply


@pytest.mark.parametrize(
    ("phase", "code", "status", "meant"),
    [
        ("MAIL", 421, "4.7.0", Meaning.SERVER),
        ("MAIL", 530, "5.7.0", Meaning.SERVER),
        ("MAIL", 538, "", Meaning.SERVER),
        ("MAIL", 529, "", Meaning.NEVER),
        ("MAIL", 539, "", Meaning.NEVER),
        ("MAIL", 550, "5.7.1", Meaning.NEVER),
        ("MAIL", 451, "4.3.0", Meaning.LATER),
        ("MAIL", 452, "", Meaning.PACE),
        ("MAIL", 454, "4.7.0", Meaning.PACE),
        ("RCPT", 421, "4.3.2", Meaning.LATER),
        ("RCPT", 530, "5.7.1", Meaning.NEVER),
        ("RCPT", 450, "4.2.1", Meaning.LATER),
        ("RCPT", 452, "4.5.3", Meaning.LATER),
        ("RCPT", 452, "4.2.2", Meaning.LATER),
        ("RCPT", 452, "", Meaning.LATER),
        ("RCPT", 454, "4.7.1", Meaning.LATER),
        ("RCPT", 452, "4.3.1", Meaning.PACE),
        ("RCPT", 451, "4.4.5", Meaning.PACE),
        ("RCPT", 552, "5.2.2", Meaning.LATER),
        ("RCPT", 354, "", Meaning.LATER),
        ("DATA", 454, "", Meaning.PACE),
        ("DATA", 451, "", Meaning.LATER),
        ("DATA", 552, "", Meaning.NEVER),
        ("end of data", 421, "4.3.2", Meaning.LATER),
        ("end of data", 452, "4.2.2", Meaning.LATER),
        ("end of data", 452, "4.3.1", Meaning.PACE),
        ("end of data", 535, "", Meaning.NEVER),
        ("end of data", 554, "5.4.5", Meaning.NEVER),
        ("end of data", 599, "", Meaning.NEVER),
        ("end of data", 354, "", Meaning.LATER),
    ],
)
def test_the_table_of_refusals(phase, code, status, meant):
    assert meaning(phase, Reply(code, status)) is meant
