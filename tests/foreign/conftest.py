"""Each test knows no secrets but its own."""

from __future__ import annotations

import pytest

from millpond.foreign import secrets


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch):
    for name in ("_secrets", "_keys"):
        monkeypatch.setattr(secrets, name, {})
    secrets._change()
    yield
    monkeypatch.undo()
    secrets._change()
