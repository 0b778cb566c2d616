"""The server of the bench: millpond.local, which also counts the calls. `python -m bench.server [--tls FOLDER]`.

One call more than SQS has, which is not counted itself: Bench.State, with a QueueUrl and AttributeNames All, gives the
calls by operation since the start and the messages that are left in the queue.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import json  # noqa: E402
import ssl  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402

from gevent.event import Event  # noqa: E402

from millpond.local.api import TARGET_PREFIX, Api  # noqa: E402
from millpond.local.server import LocalSqs  # noqa: E402

calls: Counter[str] = Counter()
answer = Api.call


def counted(api: Api, target: str, body: bytes, base_url: str) -> bytes:
    """Stands where Api.call stood, in this process alone."""
    if target == "Bench.State":
        return state(api, body)
    calls[target.removeprefix(TARGET_PREFIX)] += 1
    return answer(api, target, body, base_url)


def state(api: Api, queue: bytes) -> bytes:
    counts = json.loads(answer(api, f"{TARGET_PREFIX}GetQueueAttributes", queue, ""))["Attributes"]
    left = sum(int(counts[f"ApproximateNumberOfMessages{kind}"]) for kind in ("", "NotVisible", "Delayed"))
    return json.dumps({"calls": calls, "left": left}).encode()


def context(folder: Path) -> ssl.SSLContext:
    """As AWS's endpoints do: TLS 1.2 and 1.3, HTTP/1.1, no client certificate."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem", folder / "server.key")
    return tls


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", type=Path, help="a folder with server.pem and server.key")
    folder = parser.parse_args().tls
    Api.call = counted
    server = LocalSqs(port=0, tls=context(folder) if folder else None)
    server.start()
    print(server.url, flush=True)
    Event().wait()


if __name__ == "__main__":
    main()
