"""Loaded by pytest before anything else (`-p tests.patch`): the suite runs patched, as the worker does."""

import os

from gevent import monkey

monkey.patch_all()

# By this variable a process measures its coverage, for which it loads gevent. That is for workers alone, which
# tests/worker_process.py starts: other processes of the tests must show that they load none.
if config := os.environ.pop("COVERAGE_PROCESS_CONFIG", ""):
    os.environ["WORKER_COVERAGE"] = config
