"""The outbox: mails as files, for a laptop, a demo and tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from millpond.errors import ConfigError
from millpond.mail.compose import Mail
from millpond.mail.reply import Reply


class Outbox:
    """A folder that takes each mail as `<name>.eml`, whole or not at all; a second delivery replaces the first."""

    def __init__(self, folder: str) -> None:
        """`folder`: relative to the current directory. Raises ConfigError where it cannot be made or written."""
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f'outbox = "{folder}" is not a folder that can be written to: {reason}') from error

    def send(self, mail: Mail) -> Mapping[str, Reply]:
        """Write one mail. Nothing is ever refused; raises OSError where the disk does not take it."""
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self.folder)
        try:
            with open(handle, "wb") as file:
                file.write(mail.content)
                file.flush()
                os.fsync(handle)
            os.replace(temporary, self.folder / f"{mail.name}.eml")
        except BaseException:
            os.unlink(temporary)
            raise
        return {}

    def close(self) -> None:
        """Nothing stays open between two mails."""
