"""Both stores give the same answers to the same calls, drawn at random."""

from __future__ import annotations

from random import Random

import pytest

from millpond.claims.claim import CLOCK_MARGIN_SECONDS
from millpond.claims.memory import MemoryClaims
from tests.claims.conftest import TABLE
from tests.claims.contract import NOW, fresh
from tests.claims.opened import DynamoStores

EXPIRES = 300.0
STEPS = (0.0, 1.0, 20.0, 60.0 + CLOCK_MARGIN_SECONDS, 200.0, 2 * EXPIRES)


def drawn(random: Random, now: float):
    """A call: the method, and its arguments after the key."""
    token = random.choice("abc")
    lease_until = now + random.choice((20.0, 60.0))
    return random.choice(
        [
            ("claim", token, random.choice(("one", "one", "one", "other")), lease_until, now),
            ("claim", token, "one", lease_until, now),
            ("renew", token, lease_until, now),
            ("complete", token, now),
            ("release", token, random.choice((None, 0, 1, 2)), now),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_two_stores_never_differ(table, seed):
    random, key, now = Random(seed), fresh(), NOW
    stores = MemoryClaims(EXPIRES), DynamoStores(TABLE).open(EXPIRES)
    history = []
    for _ in range(25):
        now += random.choice(STEPS[:2] if random.random() < 0.7 else STEPS)
        name, *arguments = drawn(random, now)
        answers = [getattr(store, name)(key, *arguments) for store in stores]
        history.append((name, *arguments, *answers))
        assert answers[0] == answers[1], "\n".join(map(str, history))
