"""Celery, its worker as in celery_app: `autoretry_for` the errors that pass, `retry_backoff=True` and five retries, as
its page on tasks has them (jitter is its default); `rate_limit` where the rate is known. It has no idempotency: "make
your tasks idempotent"."""

from __future__ import annotations

import time

from chaos.peer_jobs.call import AFTER_SECONDS, RATE, Busy, call
from chaos.peer_jobs.celery_app import app

app.finalize()
app.tasks.unregister("chaos.job")  # that of celery_app


@app.task(
    name="chaos.job",
    autoretry_for=(OSError, Busy),
    retry_backoff=True,
    retry_kwargs={"max_retries": 5},
    rate_limit=f"{RATE:g}/s" if RATE else None,
)
def run_call(n: int, ms: int) -> None:
    time.sleep(ms / 1000)
    call(n)
    time.sleep(AFTER_SECONDS)
