"""The live page of a real worker in a real browser; `make browser` runs it. Pictures go to docs/pictures.

It is no part of `make test`: it needs Debian's chromium.
"""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browser import Browser
from tests.worker_process import WorkerProcess

PICTURES = Path(__file__).parents[2] / "docs/pictures"
HANDLERS = """
import time
from millpond import Message, Retry, handler

@handler("report.make")
def make(payload: dict, message: Message):
    time.sleep(payload["seconds"])

@handler("invoice.send", concurrency=5)
def send(payload: dict, message: Message):
    raise Retry("the mail server says no", after=600)
"""
CONFIG = """
[worker]
name = "web.1"
concurrency = 20
[log]
format = "json"
[http]
listen = "127.0.0.1:0"
[local]
port = PORT
[queues.jobs]
url = "local"
"""
TEXT = "document.getElementById({!r}).textContent"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG.replace("PORT", str(free_port())))
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers/jobs.py").write_text(HANDLERS)
    with WorkerProcess(tmp_path) as one:
        one.port = one.expect("http.ready")["port"]
        one.expect("worker.ready")
        yield one


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path / "browser", "--host-resolver-rules=MAP evil.example 127.0.0.1") as one:
        one.screen(1100, 900)
        yield one


def send(worker: Any, event_type: str, number: int, **payload: object) -> None:
    folder = worker.folder
    with WorkerProcess(folder, "send", event_type, json.dumps(payload), "--count", str(number)) as one:
        assert one.exit_code() == 0


def test_it_shows_the_worker_and_asks_nobody_else(worker, browser):
    browser.open(f"http://127.0.0.1:{worker.port}/")
    browser.wait(f"{TEXT.format('name')} === 'web.1'")
    browser.wait(f"{TEXT.format('state')} === 'running'")
    assert browser.run("document.title") == "[0/20] web.1"
    assert "report.make" in browser.run(TEXT.format("types"))
    assert "jobs" in browser.run(TEXT.format("queues"))
    asked = {url.split("?")[0] for url in browser.requests if not url.startswith("data:")}
    assert asked == {f"http://127.0.0.1:{worker.port}/{path}" for path in ("", "events", "letters")}
    assert browser.console == []


def test_a_handler_that_fails_is_seen_within_two_seconds(worker, browser):
    """From its first log line on; and what stands in a handler is seen with its place."""
    browser.open(f"http://127.0.0.1:{worker.port}/")
    browser.wait(f"{TEXT.format('state')} === 'running'")
    send(worker, "report.make", 12, seconds=60)
    send(worker, "invoice.send", 3)
    worker.expect("message.retried")
    browser.wait("document.querySelector('#failures tbody th')?.textContent === 'the mail server says no'", 2.0)
    browser.wait("[...document.querySelectorAll('#types td.bad')].some(cell => cell.textContent > 0)", 2.0)
    browser.wait("document.querySelectorAll('#running td.long').length === 12")
    assert "jobs.py" in browser.run("document.querySelector('#running td.long').textContent")
    browser.run("f = document.getElementById('filter'); f.value = 'invoice'; f.dispatchEvent(new Event('input'))")
    assert browser.run(TEXT.format("running")).endswith("none")
    browser.run("f.value = ''; f.dispatchEvent(new Event('input'))")
    browser.picture(PICTURES / "live-page.png")
    assert browser.console == []


def test_the_filter_is_in_the_url_and_taken_from_it(worker, browser):
    browser.open(f"http://127.0.0.1:{worker.port}/?show=report")
    assert browser.run("document.getElementById('filter').value") == "report"
    browser.run("f = document.getElementById('filter'); f.value = 'a b&c'; f.dispatchEvent(new Event('input'))")
    assert browser.run("location.search") == "?show=a%20b%26c"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_room_on_a_small_screen(worker, browser, scheme):
    browser.screen(400, 900, scheme)
    browser.open(f"http://127.0.0.1:{worker.port}/")
    browser.wait(f"{TEXT.format('state')} === 'running'")
    assert browser.run("document.documentElement.scrollWidth") <= 400
    browser.picture(PICTURES / f"live-page-400-{scheme}.png")


def test_a_page_that_rebinds_its_name_is_refused(worker, browser):
    browser.open(f"http://evil.example:{worker.port}/")
    assert "Misdirected" in browser.run("document.body.textContent")


def test_the_keyboard_reaches_the_filter_and_the_details_of_each_row(worker, browser):
    browser.open(f"http://127.0.0.1:{worker.port}/")
    browser.wait(f"{TEXT.format('state')} === 'running'")
    reached = []
    for _ in range(8):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(browser.run("document.activeElement.id || document.activeElement.textContent"))
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    summary = "The same as a table"
    assert reached[:4] == ["throughput", "waits", "runs", summary]
    assert reached[-4:] == ["report.make", "invoice.send", "jobs", "filter"]


def test_the_end_of_the_worker_is_said(worker, browser):
    browser.open(f"http://127.0.0.1:{worker.port}/")
    browser.wait(f"{TEXT.format('state')} === 'running'")
    worker.signal(signal.SIGKILL)
    browser.wait(f"{TEXT.format('state')}.includes('does not answer')")
