"""Mails as files: one a job, whole or not at all."""

from __future__ import annotations

import os

import pytest

from handlers.email import Settings, send_email, setup
from millpond.errors import TimeLimitExceeded
from tests.mail.jobs import (
    findings,
    job,
    job_from_me,
    message,
)


def test_the_outbox_gets_a_file_per_job_and_the_same_one_again(tmp_path):
    setup(Settings(outbox=str(tmp_path / "deep" / "outbox"), from_="me@a.org"))
    for event_id in ("../../1", "2", "2"):
        send_email(job(bcc=["secret@c.org"]), message(event_id))
    files = sorted((tmp_path / "deep" / "outbox").iterdir())
    assert len(files) == 2
    assert all(len(file.stem) == 32 and file.suffix == ".eml" for file in files)
    assert all(b"Subject: Hi\r\n" in file.read_bytes() and b"secret" not in file.read_bytes() for file in files)


def test_a_relative_outbox_stays_where_it_was_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup(Settings(from_="me@a.org"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    send_email(job(), message())
    assert len(list((tmp_path / "outbox").glob("*.eml"))) == 1


@pytest.mark.parametrize("folder", ["file", "file/below", "\0"])
def test_an_outbox_that_cannot_be_is_found_at_boot(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert "outbox = " in findings(Settings(outbox=folder))


def test_a_mail_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    setup(Settings(outbox=str(tmp_path), from_="me@a.org"))
    send_email(job(), message())
    (file,) = tmp_path.iterdir()
    assert sizes == [len(file.read_bytes())]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), TimeLimitExceeded("900 s")])
def test_a_mail_is_in_the_outbox_whole_or_not_at_all(step, error, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    setup(Settings(outbox=str(tmp_path), from_="me@a.org"))
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        send_email(job(), message())
    assert list(tmp_path.iterdir()) == []


def test_two_mails_of_one_event_id_are_two_files_in_the_outbox(tmp_path):
    setup(Settings(outbox=str(tmp_path)))
    for text in ("one", "two", "two"):
        send_email(job_from_me(text=text), message())
    assert len(list(tmp_path.iterdir())) == 2
