"""`python -m millpond.healthcheck [URL]`: exit code 0 where the worker's /healthz answers 200, and 1 where it does not.

For Docker's HEALTHCHECK and for exec probes. It imports neither gevent nor an HTTP client: it runs every few seconds.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

#: Docker and Kubernetes give a check less than this, or their own default, 30 s and 1 s.
SECONDS = 5.0
#: Where it asks when neither an argument nor HTTP_LISTEN says where.
DEFAULT_LISTEN = "127.0.0.1:8080"
PATH = "/healthz"
USAGE = f"""\
usage: python -m millpond.healthcheck [URL]

Exit code 0 where the worker's /healthz answers 200, and 1 where it does not.

options:
  URL  what it asks (default: {PATH} where HTTP_LISTEN says, or at {DEFAULT_LISTEN})
"""
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_MAX_ANSWER = 65_536


def main(arguments: Sequence[str]) -> int:
    """Ask, print what the worker says, and return the exit code."""
    if len(arguments) > 1 or (arguments and not arguments[0].startswith("http://")):
        print(USAGE, end="", file=sys.stdout if arguments == ["--help"] else sys.stderr)
        return 0 if arguments == ["--help"] else 1
    url = arguments[0] if arguments else _url_of(os.environ.get("HTTP_LISTEN") or DEFAULT_LISTEN)
    try:
        status, text = _get(url)
    except TimeoutError:
        print(f"{url} does not answer within {SECONDS:g} s: a handler may block the worker", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        text = "the worker answers where [http] listen (HTTP_LISTEN) says, and nowhere while that is empty"
        print(f"cannot ask {url}: {error}; {text}", file=sys.stderr)
        return 1
    print(text)
    return 0 if status == 200 else 1


def _url_of(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    return f"http://{_EVERY_ADDRESS.get(host, host)}:{port}{PATH}"


def _get(url: str) -> tuple[int, str]:
    """The status and the body. Raises OSError, and ValueError for a URL or an answer that is none."""
    place, _, path = url.removeprefix("http://").partition("/")
    host, _, port = place.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), SECONDS) as connection:
        connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: {place}\r\n\r\n".encode("ascii"))
        answer = b""
        while len(answer) < _MAX_ANSWER and (part := connection.recv(4096)):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ValueError("its answer is no HTTP")
    return int(words[1]), body.decode("utf-8", "replace").strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
