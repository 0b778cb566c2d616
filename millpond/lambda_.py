"""The entry of a Lambda function behind an SQS event source mapping: the handlers of a worker, unchanged.

    from millpond.lambda_ import entry

    handler = entry()

The patch comes first, before anything else is imported: so this is the first import of that file.
"""

from millpond.patched import patch_all

patch_all()

import logging
import os
import sys
from pathlib import Path

from millpond.app.config import load
from millpond.errors import ConfigError
from millpond.hub import patch
from millpond.invocations.function import LambdaFunction
from millpond.observe import log


def entry(config: str | os.PathLike[str] | None = None) -> LambdaFunction:
    """Boot once, and give what Lambda is to call with (event, context).

    `config`: the settings; else MILLPOND_CONFIG, or config.toml beside the file that calls this. Raises ConfigError
    with every finding: Lambda shows it, and tries again with the next batch.
    """
    if text := patch.wrong_with_process():
        raise ConfigError(f"{text}; in a Lambda function: import millpond.lambda_ first of all")
    beside = Path(sys._getframe(1).f_code.co_filename).absolute().parent / "config.toml"
    settings = load(Path(config or os.environ.get("MILLPOND_CONFIG") or beside), os.environ)
    _leave_the_log_to_us()
    log.setup(settings.log.level, settings.log.format)
    log.take_failures()
    return LambdaFunction(settings)


def _leave_the_log_to_us() -> None:
    """Take out the handler of Lambda's runtime: it would write each line a second time."""
    root = logging.getLogger()
    for one in root.handlers[:]:
        if hasattr(one, "log_sink"):
            root.removeHandler(one)
