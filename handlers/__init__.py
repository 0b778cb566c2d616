"""Handlers: one file per message type. A file whose name begins with `_` is a helper and is not loaded by itself."""
