"""botocore reads its models once for all tests that ask for it: for each session anew, that takes 50 ms."""

import botocore.session
import pytest
from botocore.loaders import create_loader

_loader = create_loader()


@pytest.fixture(autouse=True)
def _models_are_read_once(monkeypatch):
    monkeypatch.setattr(botocore.session, "create_loader", lambda path: _loader)
