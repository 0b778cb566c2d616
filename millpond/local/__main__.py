"""The local SQS alone: `python -m millpond.local --port 9324 --queue jobs`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gevent import signal_handler
from gevent.event import Event

from millpond.local import DEFAULT_PORT
from millpond.local.attributes import FIFO_SUFFIX, arn
from millpond.local.sqs_error import SqsError
from millpond.patched import patch_all

if TYPE_CHECKING:
    from ssl import SSLContext

    from millpond.local.server import LocalSqs

#: maxReceiveCount of a queue of --queue: ten more than a worker's attempts by default.
MAX_RECEIVE_COUNT = 17
#: The exit code if the port is taken, or no queue can have that name.
EXIT_CONFIG = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    patch_all()
    from millpond.local.server import LocalSqs  # it loads ssl, which must not be loaded before the patch

    options = _options(arguments)
    stop = Event()
    watchers = [signal_handler(number, stop.set) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        tls = _tls(options.certificate, options.key) if options.certificate else None
    except OSError as error:  # ssl's own errors are OSErrors
        return _refuse(f"--certificate {options.certificate} cannot be read: {error.strerror}; it takes PEM files")
    server = LocalSqs(options.port, options.host, tls)
    try:
        server.start()
        urls = [url for name in options.queue for url in _create(server, name)]
    except OSError as error:
        where = f"{options.host}:{options.port}"
        return _refuse(f"cannot listen on {where}: {error.strerror}; --port takes another one, 0 any that is free")
    except SqsError as error:
        return _refuse(f"--queue: {error}")
    print(f"millpond.local listens on {server.url} - messages are in memory only and gone when it ends", flush=True)
    print("\n".join(urls or ["no queue yet: --queue NAME, or CreateQueue"]), flush=True)
    stop.wait()
    server.stop()
    for watcher in watchers:
        watcher.cancel()
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m millpond.local", description="An SQS in memory, for any SDK that speaks the JSON protocol."
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--certificate", metavar="FILE", help="speak TLS with this certificate (PEM)")
    parser.add_argument("--key", metavar="FILE", help="the certificate's key (PEM), unless that file has it too")
    help_text = f"make this queue, and NAME-dead for messages received {MAX_RECEIVE_COUNT} times; can be repeated; "
    help_text += "NAME.fifo is a FIFO queue, and has NAME-dead.fifo"
    parser.add_argument("--queue", action="append", default=[], metavar="NAME", help=help_text)
    return parser.parse_args(arguments)


def _create(server: LocalSqs, name: str) -> list[str]:
    from millpond.local.account import check_name

    is_fifo = name.endswith(FIFO_SUFFIX)
    kind = {"FifoQueue": "true"} if is_fifo else {}
    check_name(name, is_fifo)  # before the name of the dead-letter queue, which nobody has typed
    dead = f"{name.removesuffix(FIFO_SUFFIX)}-dead{FIFO_SUFFIX}" if is_fifo else f"{name}-dead"
    dead_url = server.create_queue(dead, kind)
    policy = {"deadLetterTargetArn": arn(dead), "maxReceiveCount": MAX_RECEIVE_COUNT}
    return [server.create_queue(name, {**kind, "RedrivePolicy": json.dumps(policy)}), dead_url]


def _tls(certificate: str, key: str | None) -> SSLContext:
    from ssl import PROTOCOL_TLS_SERVER, SSLContext

    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _refuse(text: str) -> int:
    print(f"millpond.local: {text}", file=sys.stderr)
    return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
