"""The entry of the function: its handler is `main.handler`. It lies beside config.toml and handlers/."""

from millpond.lambda_ import entry

handler = entry()
