"""Claims in memory: for tests, and for the local queue, whose messages are in memory too."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from millpond.claims.claim import (
    Answer,
    Claimed,
    ClaimRecord,
    ClaimState,
    TableFinding,
    expiry_of,
    is_given_up,
    may_complete,
    may_release,
    may_renew,
    standing,
    state_of,
)

#: Records that are kept, of about 500 bytes each. Above it the oldest leave that are in nobody's hand.
MAX_RECORDS = 100_000
#: Records that are looked at when one is added: two, so that those that have expired leave faster than others come.
LOOKS = 2


class MemoryClaims:
    """A ClaimStore of one process. No call waits, so each is one step for all greenlets."""

    def __init__(self, expires_seconds: float, max_records: int = MAX_RECORDS) -> None:
        self._expires_seconds = expires_seconds
        self._max_records = max_records
        self._records: dict[str, ClaimRecord] = {}  # in the order of their last claims

    def __len__(self) -> int:
        return len(self._records)

    def claim(self, key: str, token: str, digest: str, lease_until: float, now: float) -> Answer:
        old = self._records.get(key)
        answer = standing(old, token, digest, now)
        if answer is not None:
            return answer
        failures = old.failures if old is not None and state_of(old, now) is not ClaimState.FREE else 0
        self._records.pop(key, None)
        self._records[key] = ClaimRecord(token, digest, lease_until, self._expiry(lease_until, now), failures)
        self._tidy(now)
        return Claimed(failures)

    def renew(self, key: str, token: str, lease_until: float, now: float) -> bool:
        record = self._records.get(key)
        if record is None or not may_renew(record, token, now):
            return False
        if record.lease_until < lease_until:  # else it was late on its way
            expires = self._expiry(lease_until, now)
            self._records[key] = replace(record, lease_until=lease_until, expires=expires)
        return True

    def complete(self, key: str, token: str, now: float) -> bool:
        record = self._records.get(key)
        if record is None or not may_complete(record, token, now):
            return False
        self._records[key] = replace(record, done_at=now, expires=self._expiry(0, now))
        return True

    def release(self, key: str, token: str, failures: int | None, now: float) -> bool:
        record = self._records.get(key)
        if record is None or not may_release(record, token, now):
            return failures is None and is_given_up(record, token)
        expires = now if failures is None else self._expiry(0, now)
        self._records[key] = replace(record, lease_until=0.0, failures=failures or 0, expires=expires)
        return True

    def read(self, key: str) -> ClaimRecord | None:
        return self._records.get(key)

    def remove(self, key: str, token: str) -> bool:
        record = self._records.get(key)
        if record is None or record.token != token:
            return False
        del self._records[key]
        return True

    def check(self) -> Sequence[TableFinding]:
        return [TableFinding("note", "claims are kept in memory: they end with the process")]

    def _expiry(self, lease_until: float, now: float) -> float:
        return expiry_of(lease_until, self._expires_seconds, now)

    def _tidy(self, now: float) -> None:
        """Look at the oldest records: what has expired leaves, and where there are too many, what nobody holds."""
        for _ in range(LOOKS):
            key = next(iter(self._records))
            state = state_of(self._records[key], now)
            too_many = len(self._records) > self._max_records
            if state is not ClaimState.FREE and not too_many:
                return
            record = self._records.pop(key)
            if state is ClaimState.HELD:
                self._records[key] = record  # the youngest from now on
