"""What `send` says where no worker of this machine takes the type."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from millpond.commands import send_note
from millpond.commands.send_note import note_on
from millpond.process.control import ControlAnswer
from tests.process.snapshots import FULL

URL = FULL.queues[0].url


def taking(*types, url=URL):
    """A worker that receives from this queue, with handlers for these types."""
    kinds = [replace(FULL.types[0], event_type=event_type) for event_type in types]
    return replace(FULL, types=kinds, queues=[replace(FULL.queues[0], url=url)])


@pytest.fixture
def workers(monkeypatch):
    """What runs here: snapshots, or the error that asking raises."""
    found = []

    def ask(index, order, seconds):
        if isinstance(found[index], Exception):
            raise found[index]
        return ControlAnswer(True, "", found[index])

    monkeypatch.setattr(send_note, "addresses", lambda: list(range(len(found))))
    monkeypatch.setattr(send_note, "ask", ask)
    return found


def test_a_type_that_no_worker_of_the_queue_takes_is_noted_with_the_nearest_one(workers):
    workers += [TimeoutError("held up"), taking("invoice.created", "email.send"), taking("bill.x", url="elsewhere")]
    said = "note: no worker of this machine has a handler for invoice.create; did you mean invoice.created? Such a"
    assert note_on("invoice.create", URL).startswith(said)
    assert "; there are: email.send, invoice.created. Such a" in note_on("bill.x", URL)


@pytest.mark.parametrize(
    "found",
    [[], [taking("other", url="elsewhere")], [taking("other"), taking("invoice.*")], [ConnectionRefusedError()]],
)
def test_where_a_worker_takes_it_or_none_receives_from_the_queue_there_is_no_note(workers, found):
    workers += found
    assert note_on("invoice.created", URL) == ""
