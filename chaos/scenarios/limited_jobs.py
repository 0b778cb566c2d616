"""A handler that is held to a rate."""

from __future__ import annotations

from chaos.scenarios.jobs import Job, wait
from millpond import Message, handler


@handler("limited", rate="14/s")
def limited(job: Job, message: Message) -> None:
    wait(job, message)
