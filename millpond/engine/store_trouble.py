"""StoreTrouble: a store of claims that fails is logged at once, and each minute while it lasts; so is its end."""

from __future__ import annotations

import logging
import math

from millpond.engine.trouble import LOG_SECONDS
from millpond.errors import ClaimStoreError
from millpond.hub.clock import Clock
from millpond.observe import log


class StoreTrouble:
    """Whether the store of claims answers. Only an outage that was logged has its end logged."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None
        self._is_logged = False  # this outage
        self._logged_at = -math.inf

    def failed(self, error: ClaimStoreError) -> None:
        now = self._clock.now()
        if self._since is None:
            self._since, self._is_logged = now, False
        if now - self._logged_at >= LOG_SECONDS:
            self._is_logged, self._logged_at = True, now
            text = f"{error} (no idempotent handler begins, and none that ends is settled, until it answers)"
            log.event(logging.WARNING, "claims.failed", text)

    def answered(self) -> None:
        if self._since is None:
            return
        if self._is_logged:
            seconds = round(self._clock.now() - self._since, 1)
            log.event(logging.INFO, "claims.resumed", f"the store of claims answers again, after {seconds:g} s")
        self._since = None
