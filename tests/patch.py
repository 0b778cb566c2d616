"""Loaded by pytest before anything else (`-p tests.patch`): the suite runs patched, as the worker does."""

from gevent import monkey

monkey.patch_all()
