"""asyncio.run in a handler: each loop has a thread of its own."""

from __future__ import annotations

import asyncio
import asyncio.unix_events
import contextvars
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from gevent import get_hub
from gevent.threadpool import ThreadPool

from millpond.hub.forked import caught

#: Loops at once; the next one waits.
MAX_LOOPS = 100

_run = asyncio.run


def install() -> None:
    """Let asyncio.run work in any handler. Call it in the hub's thread."""
    asyncio.run = partial(_in_thread, get_hub(), ThreadPool(MAX_LOOPS))
    # Its own way, by a pidfd, finds no process any more where gevent has waited for it.
    setattr(asyncio.unix_events, "can_use_pidfd", lambda: False)  # noqa: B010


def _in_thread(hub: Any, pool: ThreadPool, main: Coroutine[Any, Any, Any], **options: Any) -> Any:
    """Python keeps by the thread which loop runs: two greenlets of one thread cannot have one each.

    So each loop of the hub's thread gets a thread of its own, for which its greenlet waits; where that is interrupted,
    the coroutine is cancelled.
    """
    if get_hub() is not hub or asyncio.events._get_running_loop() is not None:
        return _run(main, **options)
    cancel: list[Callable[[], object]] = []
    interrupted: list[bool] = []
    call = partial(_cancellable, main, options, cancel, interrupted)
    running = pool.spawn(contextvars.copy_context().run, caught, call)
    try:
        value, error = running.get()
    except BaseException:
        interrupted.append(True)  # before the look at `cancel`: the thread does it the other way round
        for stop in cancel:
            with suppress(RuntimeError):  # its loop is closed
                stop()
        raise
    if error is not None:
        raise error
    return value


def _cancellable(
    main: Coroutine[Any, Any, Any],
    options: dict[str, Any],
    cancel: list[Callable[[], object]],
    interrupted: list[bool],
) -> Any:
    async def outer() -> Any:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101  for mypy
        cancel.append(partial(loop.call_soon_threadsafe, task.cancel))
        if interrupted:
            main.close()
            raise asyncio.CancelledError
        return await main

    return _run(outer(), **options)
