"""The handlers of the other consumers' chaos runs: each does what tests/chaos/jobs/work.py does."""
