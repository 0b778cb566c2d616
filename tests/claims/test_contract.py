"""Both stores keep every promise."""

from __future__ import annotations

import pytest

from tests.claims.contract import CONTRACT


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_a_store_promises_that(promise, stores):
    promise(stores)
