"""The dead letters of the live page in a real browser; `make browser` runs it. Pictures go to docs/pictures."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from tests.browser.browser import Browser
from tests.browser.live_page_in_browser import CONFIG, PICTURES, TEXT, free_port
from tests.worker_process import WorkerProcess, local_queues

TOKEN = "a-token-of-this-test"
HANDLERS = """
from pathlib import Path
from millpond import Message, Reject, handler

@handler("invoice.send")
def send(payload: dict, message: Message):
    if not Path("mended").exists():
        raise Reject(f"the ledger 'L{payload['n']}' is closed for ann@example.com")

@handler("report.make")
def make(payload: dict, message: Message):
    raise Reject("no such report")
"""
CLICK = "document.getElementById({!r}).click()"
BUTTON = "document.querySelector('#letters-found button[data-do={}][data-of={}]')"
ROWS = "[...document.querySelectorAll('#letters-rows tbody th')].map(one => one.parentElement.textContent)"


@pytest.fixture
def start(tmp_path):
    made = []

    def make(token: str = TOKEN, more: str = "") -> WorkerProcess:
        config = CONFIG.replace("PORT", str(free_port())).replace("[local]", f'token = "{token}"\n{more}\n[local]')
        (tmp_path / "config.toml").write_text(config)
        (tmp_path / "handlers").mkdir()
        (tmp_path / "handlers/jobs.py").write_text(HANDLERS)
        made.append(one := WorkerProcess(tmp_path))
        one.port = one.expect("http.ready")["port"]
        one.queues = local_queues(one)
        one.expect("worker.ready")
        return one

    yield make
    for one in made:
        with one:
            pass


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path / "browser", "--host-resolver-rules=MAP evil.example 127.0.0.1") as one:
        one.screen(1100, 1300)
        yield one


def fail(worker: WorkerProcess, event_type: str = "invoice.send", number: int = 5) -> None:
    for n in range(number):
        worker.queues.send("jobs", event_type, {"n": n})
        worker.expect("message.dead_lettered")


def opened(browser: Browser, worker: WorkerProcess, fragment: str = "") -> None:
    browser.open(f"http://127.0.0.1:{worker.port}/{fragment}")
    browser.wait(f"{TEXT.format('state')} === 'running'")


def fill(browser: Browser, field: str, text: str) -> None:
    place = f"document.getElementById('letters-{field}')"
    browser.run(f"(f => {{ f.value = {json.dumps(text)}; f.dispatchEvent(new Event('input')); }})({place})")


def look(browser: Browser, token: str = TOKEN) -> None:
    browser.wait("document.querySelector('#letters-queues button:not(:disabled)') !== null")
    fill(browser, "token", token)
    browser.run("document.querySelector('#letters-queues button').click()")
    browser.wait("!document.querySelector('#letters-queues button').disabled")


def press(browser: Browser, key: str, code: int, text: str = "", shift: bool = False) -> None:
    for kind in ("keyDown", "keyUp"):
        options = {"text": text} if text and kind == "keyDown" else {}
        browser.call(
            "Input.dispatchKeyEvent",
            type=kind,
            key=key,
            code=key,
            windowsVirtualKeyCode=code,
            modifiers=8 if shift else 0,
            **options,
        )


def tab_to(browser: Browser, is_there: str) -> None:
    for _ in range(80):
        press(browser, "Tab", 9)
        if browser.run(f"(one => {is_there})(document.activeElement)"):
            return
    raise AssertionError(f"Tab never reaches {is_there}")


def test_letters_are_replayed_from_the_page_and_succeed(start, browser, tmp_path):
    worker = start()
    fail(worker)
    fail(worker, "report.make", 2)
    opened(browser, worker)
    look(browser)
    assert browser.run(TEXT.format("letters-said")) == "jobs: looked at 7 of about 7; 7 of these match, 7 are shown"
    assert "the ledger <text> is closed for ***" in browser.run(TEXT.format("letters-groups"))
    assert "ann@" not in browser.run("document.body.textContent")
    browser.run("document.getElementById('letters').scrollIntoView()")
    browser.picture(PICTURES / "dead-letters.png")
    fill(browser, "type", "invoice.*")
    assert browser.run(BUTTON.format("replay", "match") + ".disabled")  # the filter is another one than was looked with
    look(browser)
    assert len(browser.run(ROWS)) == 5
    (tmp_path / "mended").touch()
    browser.run(BUTTON.format("replay", "match") + ".click()")
    for _ in range(5):
        worker.expect("message.succeeded", type="invoice.send")
    browser.wait(f"{TEXT.format('letters-progress')}.includes('is done: 5 replayed, 0 kept')")
    assert worker.queues.counts("jobs-dead") == (2, 0, 0)
    [line] = worker.all("letters.moved")
    assert (line["moved"], line["kept"], line["action"]) == (5, 0, "replay")
    assert browser.console == []


def test_what_is_selected_is_deleted_only_after_it_was_confirmed(start, browser):
    worker = start()
    fail(worker)
    opened(browser, worker)
    look(browser)
    assert browser.run(BUTTON.format("discard", "selected") + ".disabled")
    browser.run("[...document.querySelectorAll('#letters-rows input')].slice(0, 2).forEach(box => box.click())")
    for answer, left in (("letters-keep", 5), ("letters-delete", 3)):
        browser.run(BUTTON.format("discard", "selected") + ".click()")
        assert browser.run("document.getElementById('letters-sure').open")
        text = browser.run(TEXT.format("letters-sure-text"))
        assert text == "Delete the 2 selected dead letters of jobs, for good?"
        browser.run(CLICK.format(answer))
        assert not browser.run("document.getElementById('letters-sure').open")
        if left == 3:
            browser.wait(f"{TEXT.format('letters-progress')}.includes('is done: 2 discarded')")
        assert worker.queues.counts("jobs-dead") == (left, 0, 0)
    assert browser.console == []


def test_the_keyboard_alone_looks_selects_and_deletes(start, browser):
    worker = start()
    fail(worker, number=3)
    opened(browser, worker)
    browser.wait("document.querySelector('#letters-queues button') !== null")
    tab_to(browser, "one.id === 'letters-token'")
    browser.call("Input.insertText", text=TOKEN)
    press(browser, "Enter", 13, "\r")
    browser.wait("!document.getElementById('letters-found').hidden")
    tab_to(browser, "one.type === 'checkbox'")
    press(browser, " ", 32, " ")
    assert browser.run(TEXT.format("letters-number")) == "1 selected"
    for _ in range(20):
        press(browser, "Tab", 9, shift=True)
        if browser.run("document.activeElement.textContent") == "Discard selected":
            break
    press(browser, "Enter", 13, "\r")
    assert browser.run("document.activeElement.id") == "letters-keep"
    press(browser, "Escape", 27)
    assert not browser.run("document.getElementById('letters-sure').open")
    press(browser, "Enter", 13, "\r")
    press(browser, "Tab", 9)
    assert browser.run("document.activeElement.id") == "letters-delete"
    press(browser, "Enter", 13, "\r")
    browser.wait(f"{TEXT.format('letters-progress')}.includes('is done: 1 discarded')")
    assert worker.queues.counts("jobs-dead") == (2, 0, 0)


def test_without_a_token_nothing_can_be_looked_at_or_changed(start, browser):
    worker = start(token="")
    fail(worker, number=1)
    opened(browser, worker)
    browser.wait("!document.getElementById('letters-locked').hidden")
    assert browser.run("document.getElementById('letters-form').hidden")
    for path, order in (
        ("look", {"queue": "jobs"}),
        ("move", {"do": "discard", "queue": "jobs", "all": True}),
        ("stop", {}),
    ):
        headers = {"Content-Type": "application/json", "Authorization": "Bearer "}
        options = json.dumps({"method": "POST", "headers": headers, "body": json.dumps(order)})
        assert browser.run(f"fetch('letters/{path}', {options}).then(answer => answer.status)") == 405
    assert worker.queues.counts("jobs-dead") == (1, 0, 0)


def test_a_wrong_token_is_said_to_be_wrong_and_the_browser_asks_for_none_itself(start, browser):
    worker = start()
    fail(worker, number=1)
    opened(browser, worker)
    look(browser, "")
    assert browser.run(TEXT.format("letters-said")).startswith("give the token: [http] token of this worker's settings")
    look(browser, "another-token-than-this")
    assert browser.run(TEXT.format("letters-said")) == "the token is not right: give the one of [http] token"
    assert browser.run("document.getElementById('letters-found').hidden")
    assert worker.all("letters.looked") == []


def test_the_page_of_a_proxy_that_waits_no_longer_is_said_to_be_none_of_the_worker(start, browser):
    """It was shown as: Unexpected token '<', "<h1>Gateway"... is not valid JSON."""
    worker = start()
    opened(browser, worker)
    browser.run("window.fetch = async () => new Response('<h1>Gateway Timeout</h1>', {status: 504})")
    look(browser)
    said = browser.run(TEXT.format("letters-said"))
    assert said == "the answer is 504 without JSON: see the log of the worker, or of the proxy before it"


def test_a_page_of_another_origin_and_one_that_rebinds_its_name_change_nothing(start, browser):
    """Even where they know the token: a browser says where they are from."""
    worker = start()
    fail(worker, number=1)
    order = json.dumps({"do": "discard", "queue": "jobs", "all": True})
    options = (
        f"{{method: 'POST', mode: 'no-cors', headers: {{'Content-Type': 'text/plain'}}, body: {json.dumps(order)}}}"
    )
    browser.open(f"http://localhost:{worker.port}/healthz")  # another origin of this machine, without a policy
    target = f"http://127.0.0.1:{worker.port}/letters/move"
    assert browser.run(f"fetch('{target}', {options}).catch(error => 'refused')") == "refused"  # not even its status
    options = options.replace("mode: 'no-cors', ", "").replace(
        "'text/plain'", f"'application/json', Authorization: 'Bearer {TOKEN}'"
    )
    assert browser.run(f"fetch('{target}', {options}).catch(error => 'refused')") == "refused"
    browser.open(f"http://evil.example:{worker.port}/healthz")
    assert browser.run(f"fetch('/letters/move', {options}).then(answer => answer.status)") == 421
    for origin in ("http://evil.example", f"http://localhost:{worker.port}"):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}", "Origin": origin}
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(target, order.encode(), headers))
    assert worker.queues.counts("jobs-dead") == (1, 0, 0)
    assert worker.all("letters.ordered") == []


def test_the_filters_are_in_the_url_and_outlive_a_reload_and_the_token_is_in_none(start, browser):
    worker = start()
    fail(worker, number=2)
    opened(browser, worker)
    fill(browser, "reason", "ledger 'L1' & more")
    fill(browser, "type", "invoice.*")
    look(browser)
    url = browser.run("location.href")
    assert url.endswith("/#letters=jobs&type=invoice.*&reason=ledger+%27L1%27+%26+more")
    browser.run("f = document.getElementById('filter'); f.value = 'x'; f.dispatchEvent(new Event('input'))")
    assert browser.run("location.href") == url.replace("#", "?show=x#")
    browser.call("Page.reload")
    browser.wait("document.readyState === 'complete'")
    browser.wait(f"{TEXT.format('state')} === 'running'")
    values = [browser.run(f"document.getElementById('letters-{name}').value") for name in ("type", "reason", "token")]
    assert values == ["invoice.*", "ledger 'L1' & more", TOKEN]
    assert TOKEN not in browser.run("location.href")
    assert all(TOKEN not in asked and "ledger" not in asked for asked in browser.requests)
    assert browser.run("localStorage.length") == 0
    assert browser.console == []


def test_groups_lead_to_their_letters(start, browser):
    worker = start()
    fail(worker, number=2)
    fail(worker, "report.make", 3)
    opened(browser, worker)
    look(browser)
    browser.run("[...document.querySelectorAll('#letters-groups .only')][0].click()")
    browser.wait("document.querySelectorAll('#letters-rows tbody').length === 3")
    assert browser.run("document.getElementById('letters-reason').value") == "no such report"


def test_a_move_can_be_stopped_and_what_is_left_is_said(start, browser):
    worker = start()
    worker.queues.send("jobs", "report.make", {}, number=2_000)
    browser.open(f"http://127.0.0.1:{worker.port}/")
    browser.wait("document.querySelector('#queues').textContent.includes('jobs')")
    while worker.queues.counts("jobs-dead")[0] < 2_000:
        pass
    browser.wait("document.querySelector('#letters-queues button:not(:disabled)') !== null")
    look(browser)
    assert "looked at 300 of about 2,000; 300 of these match, 100 are shown" in browser.run(TEXT.format("letters-said"))
    fill(browser, "most", "1000")
    stop = BUTTON.format("discard", "match") + ".click();" + CLICK.format("letters-delete")
    browser.run(stop)
    browser.run("(function stop() { const one = document.getElementById('letters-stop');"
                "one.offsetParent ? one.click() : setTimeout(stop, 1); })()")  # fmt: skip
    browser.wait(f"{TEXT.format('letters-progress')}.includes('It ended early: interrupted')")
    visible, hidden, _ = worker.queues.counts("jobs-dead")
    assert 1_000 < visible < 2_000
    assert hidden == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_room_on_a_small_screen(start, browser, scheme):
    worker = start(more="show_bodies = true")
    fail(worker, number=2)
    browser.screen(400, 1400, scheme)
    opened(browser, worker)
    look(browser)
    browser.run("document.querySelector('#letters-rows button.more').click()")
    assert '"n"' in browser.run("document.querySelector('#letters-rows .details').textContent")
    assert browser.run("document.documentElement.scrollWidth") <= 400
    browser.run("document.getElementById('letters').scrollIntoView()")
    if scheme == "dark":
        browser.picture(PICTURES / "dead-letters-400.png")
    assert browser.console == []
