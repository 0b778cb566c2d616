"""What a refusal of the mail server means, by the table, and in a conversation with a server."""

from __future__ import annotations

import pytest

from millpond import Reject, Retry, TooFast, Unavailable
from millpond.errors import Verdict
from millpond.mail import refusal
from millpond.mail.refusal import Meaning, meaning
from millpond.mail.reply import Reply, Topic, parse_reply
from tests.mail.senders import ONE_BY_ONE, mail, pool
from tests.smtp_server import EXTENSIONS, ScriptedServer

#: For each rule the answers that it is for.
ANSWERS = [
    ("the banner", "421 4.3.2 Service not available", Meaning.SERVER),
    ("the banner", "554 No SMTP service here", Meaning.SERVER),
    ("the banner", "450 later", Meaning.SERVER),
    ("the banner", "421 4.7.0 mx.b.org Error: too many connections from 192.0.2.1", Meaning.PACE),
    ("the banner", "421 Too many concurrent SMTP connections; please try again later.", Meaning.PACE),
    ("the banner", "421 4.7.28 not now", Meaning.PACE),
    ("EHLO", "451 4.3.0 later", Meaning.SERVER),
    ("EHLO", "502 what?", Meaning.SERVER),
    ("EHLO", "452 Too many messages", Meaning.PACE),
    ("STARTTLS", "454 4.7.0 TLS not available due to local problem", Meaning.SERVER),
    ("AUTH", "535 5.7.8 no", Meaning.LOGIN),
    ("AUTH", "534", Meaning.LOGIN),
    ("AUTH", "454 4.7.0 Temporary authentication failure", Meaning.SERVER),
    ("AUTH", "421 bye", Meaning.SERVER),
    ("AUTH", "454 Throttling failure: Daily message quota exceeded", Meaning.QUOTA),
    ("MAIL", "530 5.7.0 log in", Meaning.LOGIN),
    ("MAIL", "538", Meaning.LOGIN),
    ("MAIL", "529", Meaning.NEVER),
    ("MAIL", "539", Meaning.NEVER),
    ("MAIL", "550 5.7.1 no", Meaning.NEVER),
    ("MAIL", "550 5.4.5 Daily user sending limit exceeded", Meaning.QUOTA),
    ("MAIL", "454 Throttling failure: Daily message quota exceeded.", Meaning.QUOTA),
    ("MAIL", "450 4.1.8 Sender address rejected: Domain not found", Meaning.LATER),
    ("MAIL", "452 4.2.2 over quota, 10 MB a day", Meaning.LATER),
    ("MAIL", "455 a parameter", Meaning.LATER),
    ("MAIL", "450 4.7.1 Error: too much mail from 192.0.2.1", Meaning.PACE),
    ("MAIL", "451 4.7.500 Server busy", Meaning.PACE),
    ("MAIL", "421 4.7.0 later", Meaning.PACE),
    ("MAIL", "451 Rate limit exceeded", Meaning.PACE),
    ("MAIL", "451 4.3.2 busy", Meaning.PACE),
    ("MAIL", "452 4.3.1 Insufficient system storage", Meaning.PACE),
    ("MAIL", "450 4.4.5 congested", Meaning.PACE),
    ("MAIL", "432 4.3.2 throttled", Meaning.PACE),
    ("MAIL", "452", Meaning.PACE),
    ("MAIL", "454 Throttling failure: Maximum sending rate exceeded", Meaning.PACE),
    ("MAIL", "421 4.3.2 shutting down", Meaning.SERVER),
    ("MAIL", "421", Meaning.SERVER),
    ("MAIL", "450 later", Meaning.SERVER),
    ("MAIL", "451 4.3.0 Temporary lookup failure", Meaning.SERVER),
    ("MAIL", "451 4.3.5 misconfigured", Meaning.SERVER),
    ("RCPT", "421 4.3.2 bye", Meaning.LATER),
    ("RCPT", "530 5.7.1 log in", Meaning.NEVER),
    ("RCPT", "535", Meaning.NEVER),
    ("RCPT", "450 4.2.0 Greylisted", Meaning.LATER),
    ("RCPT", "450 4.2.1 receiving mail at a rate that exceeds", Meaning.LATER),
    ("RCPT", "451 4.7.1 Greylisting in action", Meaning.LATER),
    ("RCPT", "450 4.7.1 too many recipients: rate limit", Meaning.LATER),
    ("RCPT", "452 4.5.3", Meaning.LATER),
    ("RCPT", "452 4.2.2 full", Meaning.LATER),
    ("RCPT", "452 4.3.1 Insufficient system storage", Meaning.LATER),
    ("RCPT", "452", Meaning.LATER),
    ("RCPT", "454 4.7.1", Meaning.LATER),
    ("RCPT", "451 4.4.5", Meaning.LATER),
    ("RCPT", "550 5.4.5 Daily limit of this user exceeded", Meaning.NEVER),
    ("RCPT", "552 5.2.2", Meaning.LATER),
    ("RCPT", "354", Meaning.LATER),
    ("DATA", "421 4.7.0 too many messages", Meaning.LATER),
    ("DATA", "454", Meaning.PACE),
    ("DATA", "451", Meaning.LATER),
    ("DATA", "552", Meaning.NEVER),
    ("end of data", "421 4.3.2", Meaning.LATER),
    ("end of data", "452 4.2.2", Meaning.LATER),
    ("end of data", "452 4.3.1", Meaning.PACE),
    ("end of data", "451 4.3.2 later", Meaning.PACE),
    ("end of data", "450 4.7.28 flood", Meaning.PACE),
    ("end of data", "451 4.7.1 Ratelimit exceeded: too many messages", Meaning.PACE),
    ("end of data", "451 4.7.1 Try again later", Meaning.LATER),  # rspamd greylists here
    ("end of data", "451 4.3.0 Error in processing", Meaning.LATER),
    ("end of data", "454 Throttling failure: Maximum sending rate exceeded", Meaning.PACE),
    ("end of data", "454 Throttling failure: Daily message quota exceeded", Meaning.QUOTA),
    ("end of data", "550 5.4.5 Daily user sending limit exceeded", Meaning.QUOTA),
    ("end of data", "552 5.2.2 over its daily quota", Meaning.NEVER),
    ("end of data", "535", Meaning.NEVER),
    ("end of data", "554 5.4.5", Meaning.NEVER),
    ("end of data", "599", Meaning.NEVER),
    ("end of data", "354", Meaning.LATER),
]

VERDICTS = {
    Meaning.SERVER: (Unavailable, None),
    Meaning.LOGIN: (Unavailable, refusal.LOGIN_SECONDS),
    Meaning.QUOTA: (Unavailable, refusal.QUOTA_SECONDS),
    Meaning.PACE: (TooFast, None),
    Meaning.LATER: (Retry, None),
    Meaning.NEVER: (Reject, None),
}


@pytest.mark.parametrize(("phase", "answer", "meant"), ANSWERS)
def test_the_table_of_refusals(phase, answer, meant):
    assert meaning(phase, parse_reply([answer.encode()])) is meant


def test_each_rule_is_for_something_and_each_meaning_has_a_rule():
    used = []
    for phase, answer, _ in ANSWERS:
        reply = parse_reply([answer.encode()])
        used += [rule for rule in refusal.RULES if rule.fits(phase, reply)][:1]
    assert all(any(rule is one for one in used) for rule in refusal.RULES)
    assert {rule.meaning for rule in refusal.RULES} == set(Meaning)


@pytest.mark.parametrize(
    ("phase", "answer", "meant"),
    [case for case in ANSWERS if case[0] not in ("RCPT", "STARTTLS") and not case[1].startswith("354")],
)
def test_a_refused_mail_ends_by_the_table_and_hurts_no_other(phase, answer, meant):
    """RCPT is the Mailer's: each recipient has a fate of its own."""
    step = {"the banner": "banner", "end of data": "end"}.get(phase, phase)
    for extensions in (EXTENSIONS, ONE_BY_ONE):
        with ScriptedServer({step: [answer]}, extensions=[*extensions, "AUTH PLAIN"]) as server:
            senders = pool(server, user="u", password="p")
            with pytest.raises(Verdict) as raised:
                senders.send(mail("you@b.org"))
            kind, after = VERDICTS[meant]
            assert (isinstance(raised.value, kind), getattr(raised.value, "after", None)) == (True, after)
            code_and_status = str(parse_reply([answer.encode()]))
            assert f"{code_and_status} at {phase}" in raised.value.reason
            assert server.taken == []
            senders.send(mail("you@b.org"))
        assert len(server.taken) == 1


def test_the_topic_is_read_from_any_line_of_a_reply():
    lines = [b"454-Throttling failure:", b"454 see our page"]
    assert parse_reply(lines) == Reply(454, "", Topic.PACE)
    with (
        ScriptedServer({"end": ["454-Throttling failure: Daily message quota exceeded\r\n454 see our page"]}) as server,
        pytest.raises(Unavailable, match="454 at end of data: its quota of mails is used up"),
    ):
        pool(server).send(mail())
