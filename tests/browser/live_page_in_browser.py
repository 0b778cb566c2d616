"""The live page of a real worker in a real browser; `make browser` runs it. Pictures go to docs/pictures.

It is no part of `make test`: it needs Debian's chromium.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from datetime import datetime
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
    raise Retry("the mail server <b onclick=alert(1)>says</b> no", after=600)
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
#: Notes when the first failure is on the page.
SEEN = """new MutationObserver(() => window.seen ||= document.querySelector('#failures tbody th') && Date.now())
    .observe(document.getElementById('failures'), {subtree: true, childList: true, characterData: true})"""
TEXT = "document.getElementById({!r}).textContent"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG.replace("PORT", str(free_port())))
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers/jobs.py").write_text(HANDLERS)
    return tmp_path


@pytest.fixture
def worker(project):
    with WorkerProcess(project) as one:
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
    browser.run(SEEN)
    send(worker, "report.make", 12, seconds=60)
    send(worker, "invoice.send", 3)
    failed = datetime.fromisoformat(worker.expect("message.retried")["ts"]).timestamp()
    browser.wait("window.seen")
    assert browser.run("seen") / 1000 - failed < 2.0
    error = "the mail server <b onclick=alert(<n>)>says</b> no"
    assert browser.run("document.querySelector('#failures tbody th').textContent") == error
    browser.wait("[...document.querySelectorAll('#types td.bad')].some(cell => cell.textContent > 0)", 2.0)
    browser.wait("document.querySelectorAll('#running td.long').length === 12")
    assert "jobs.py" in browser.run("document.querySelector('#running td.long').textContent")
    browser.run("f = document.getElementById('filter'); f.value = 'invoice'; f.dispatchEvent(new Event('input'))")
    assert browser.run(TEXT.format("running")).endswith("none")
    browser.run("f.value = ''; f.dispatchEvent(new Event('input'))")
    assert browser.console == []


def test_the_filter_is_in_the_url_and_taken_from_it(worker, browser):
    browser.open(f"http://127.0.0.1:{worker.port}/?show=report")
    assert browser.run("document.getElementById('filter').value") == "report"
    browser.run("f = document.getElementById('filter'); f.value = 'a b&c'; f.dispatchEvent(new Event('input'))")
    assert browser.run("location.search") == "?show=a%20b%26c"


@pytest.fixture
def hour():
    """The port of a page that shows an hour with a deploy, an outage and a quiet."""
    command = [sys.executable, "-m", "tests.browser.example_hour"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield int(server.stdout.readline())
        server.stdin.close()


@pytest.mark.parametrize(
    ("width", "scheme", "name"),
    [
        (1100, "light", "live-page"),
        (1100, "dark", "live-page-dark"),
        (400, "light", ""),
        (400, "dark", "live-page-400"),
    ],
)
def test_an_hour_has_room_on_every_screen(hour, browser, width, scheme, name):
    """Nothing scrolls sideways, with all details open too."""
    browser.screen(width, 900, scheme)
    browser.open(f"http://127.0.0.1:{hour}/")
    browser.wait("document.querySelectorAll('#failures tbody').length === 3")
    if name:
        browser.screen(width, browser.run("Math.min(1800, document.documentElement.scrollHeight)"), scheme)
        browser.wait("document.querySelector('#throughput path.series').getAttribute('d')")
        browser.picture(PICTURES / f"{name}.png")
    browser.run("document.querySelectorAll('button.more').forEach(one => one.click())")
    browser.run("document.querySelectorAll('main > section > details').forEach(one => one.open = true)")
    browser.wait("document.querySelectorAll('tr.details').length > 5")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.console == []


def test_a_screen_reader_has_tables_on_a_small_screen_too(hour, browser):
    browser.screen(400, 900)
    browser.open(f"http://127.0.0.1:{hour}/")
    browser.wait("document.querySelectorAll('#failures tbody').length === 3")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert ("heading", "Failures by error of the last hour") in found
    assert ("columnheader", "last event id") in found
    assert ("rowheader", "SMTPServerDisconnected: Connection unexpectedly closed") in found
    assert ("cell", "1,320") in found
    assert [name for role, name in found if role == "image" and name.startswith("Messages a second")]


def test_an_hour_is_drawn_with_its_marks_and_read_by_the_keyboard(hour, browser):
    browser.open(f"http://127.0.0.1:{hour}/")
    browser.wait("document.querySelectorAll('#throughput .mark').length === 6")
    kinds = "[...document.querySelectorAll('#throughput .mark')].map(one => one.classList[1]).join()"
    assert browser.run(kinds) == "start,blocked,breaker,closed,quiet,resume"
    assert browser.run("document.querySelector('#marks li').textContent") == "03:06:01 receives again: emails, reports"
    opened = "breaker of email.send opened: 421 <mx.example> closes the connection"
    assert opened in browser.run("document.querySelector('#marks').textContent")  # a text, not a part of the page
    label = "document.getElementById('throughput').ariaLabel"
    assert browser.run(label).startswith("Messages a second, 02:14 to 03:14; ")
    browser.run("document.getElementById('throughput').focus()")
    said = []
    for key in ("ArrowLeft", "ArrowLeft", "Escape"):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
        said.append(browser.run("document.querySelector('#hour figcaption .soft').textContent"))
    assert said[2] == "now"
    assert said[0] > said[1]  # ten seconds earlier
    browser.run("document.querySelector('#hour ~ details').open = true")
    browser.wait("document.querySelectorAll('#hour-table tbody').length === 52")
    assert browser.console == []


def test_the_hour_of_a_real_worker_is_drawn_with_its_deploy_and_its_failures(worker, browser):
    send(worker, "invoice.send", 5)
    browser.open(f"http://127.0.0.1:{worker.port}/")
    browser.wait("document.querySelector('#throughput .mark.start title')?.textContent.includes('started, Millpond')")
    browser.wait("document.querySelector('#throughput path.series.failed')?.getAttribute('d').startsWith('M')")
    assert "failed" in browser.run("document.getElementById('throughput').ariaLabel")
    worker.signal(signal.SIGUSR1)
    browser.wait("document.querySelector('#throughput .mark.quiet title')?.textContent.endsWith('quiet: jobs')")
    assert browser.console == []


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


def test_a_page_that_stays_open_over_a_deploy_shows_both_processes(project, browser):
    config = project / "config.toml"
    config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{free_port()}"))
    ids = []
    for number in (1, 2):
        with WorkerProcess(project) as one:
            port = one.expect("http.ready")["port"]
            if number == 1:
                browser.open(f"http://127.0.0.1:{port}/")
            browser.wait(f"document.querySelectorAll('#throughput .mark.start').length === {number}")
            ids.append(browser.run(TEXT.format("about")).partition(" up ")[0])
            one.signal(signal.SIGTERM)
            assert one.exit_code() == 0
    assert ids[0] != ids[1]
    assert [line for line in browser.console if "ERR_" not in line] == []  # it could not connect meanwhile


def test_the_end_of_the_worker_is_said(worker, browser):
    browser.open(f"http://127.0.0.1:{worker.port}/")
    browser.wait(f"{TEXT.format('state')} === 'running'")
    worker.signal(signal.SIGKILL)
    browser.wait(f"{TEXT.format('state')}.includes('does not answer')")
