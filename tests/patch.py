"""Loaded by pytest before anything else (`-p tests.patch`): the suite runs patched, as the worker does."""

import os
import signal

from millpond.patched import patch_all

patch_all()

# nohup and a shell's background ignore these, and a worker would inherit that: it would not see what a test sends it.
# Here they stay ignored, but by a handler: what has one is at its default again in a process that is started.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda number, frame: None)

# By this variable a process measures its coverage, for which it loads gevent. That is for workers alone, which
# tests/worker_process.py starts: other processes of the tests must show that they load none.
if config := os.environ.pop("COVERAGE_PROCESS_CONFIG", ""):
    os.environ["WORKER_COVERAGE"] = config
