"""Browser: Debian's Chromium without a window, steered by its own protocol over two pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

#: What a step may take before a test fails.
SECONDS = 20.0
_OPTIONS = ("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run")


class Browser:
    """One tab. `console` has what the browser complains of: errors of scripts, and violations of the policy."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        orders_out, self._orders = os.pipe()
        self._answers, answers_in = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (orders_out, answers_in)]

        def place() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            ["chromium", *_OPTIONS, f"--user-data-dir={folder}", *options, "about:blank"],
            preexec_fn=place,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (*ends, orders_out, answers_in):
            os.close(end)
        self._data, self._number, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._orders)
        os.close(self._answers)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give an order, and return its result."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        os.write(
            self._orders, json.dumps({**order, **({"sessionId": self._session} if self._session else {})}).encode()
        )
        os.write(self._orders, b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = SECONDS) -> float:
        """Wait until this expression is true; returns how long that took."""
        began = time.monotonic()
        while not self.run(script):
            assert time.monotonic() - began < seconds, f"never true in the page: {script}\n{self.console}"
            time.sleep(0.05)
        return time.monotonic() - began

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def screen(self, width: int, height: int, scheme: str = "light") -> None:
        """The size of the window, and whether it is dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._data:
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has ended"
            self._data += part
        line, _, self._data = self._data.partition(b"\0")
        return json.loads(line)

    def _note(self, message: dict[str, Any]) -> None:
        method, what = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded":
            self.console.append(f"{what['entry']['source']}: {what['entry']['text']}")
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(what["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
