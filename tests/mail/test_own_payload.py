"""A handler of a user's own on top of millpond.mail: the one that the package's own page shows."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import msgspec
import pytest

import millpond.mail
from millpond import Message
from millpond.app.routing import routes
from millpond.errors import ConfigError
from tests.smtp_server import ScriptedServer

TEAM = ["ann@b.org", "late@b.org", "gone@b.org"]


@pytest.fixture
def joined(monkeypatch):
    """The example of the page, as a module."""
    page = ast.get_docstring(ast.parse(Path(millpond.mail.__file__).read_text()))
    lines = page.splitlines()
    first = lines.index("    import msgspec")
    last = max(number for number, line in enumerate(lines) if line.startswith("    "))
    module = ModuleType("joined")
    monkeypatch.setitem(sys.modules, "joined", module)
    monkeypatch.setattr("millpond.app.routing._handlers", [])
    exec(compile(dedent("\n".join(lines[first : last + 1])), "joined", "exec"), vars(module))
    return module


def message(body: str, event_id: str = "e-1") -> Message:
    return Message("m", event_id, "team.joined", "q", body, 1, 1_773_500_966_000)


def test_whom_the_server_refuses_for_now_is_mailed_by_a_follow_up_of_the_payload_itself(joined):
    decode = routes(["joined"])["team.joined"].decode
    answers = {"late@b.org": "451 4.7.1 later", "gone@b.org": "550 5.1.1 no"}
    with ScriptedServer(rcpt=answers.get) as server:
        settings = joined.Settings(host="127.0.0.1", port=server.port, security="none", from_="me@a.org")
        joined.setup(settings, local=False)
        body = msgspec.json.encode({"team": TEAM, "name": "Zoë"})
        first = message(body.decode())
        joined.mail_the_team(decode(body), first)
        later, never = first.follow_ups
        assert never.reject == "SMTP 550 5.1.1 at RCPT for 1 of 3 recipients"
        answers.clear()
        rest = msgspec.json.decode(later.body, type=dict[str, msgspec.Raw])["payload"]
        assert msgspec.json.decode(rest)["team"] == TEAM  # its own payload, and not a mail
        joined.teardown()
        joined.setup(joined.Settings(**{**msgspec.structs.asdict(settings), "from_": "other@a.org"}), local=False)
        joined.mail_the_team(decode(rest), message(later.body, later.event_id))
        joined.teardown()
    assert [taken.recipients for taken in server.taken] == [("ann@b.org",), ("late@b.org",)]
    assert server.taken[0].content == server.taken[1].content


def test_what_is_wrong_with_its_settings_names_its_own_table(joined):
    with pytest.raises(ConfigError) as caught:
        joined.setup(joined.Settings(transport="smtp"), local=True)
    assert all(finding.startswith("[handlers.joined] ") for finding in caught.value.findings)
