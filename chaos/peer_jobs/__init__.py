"""The handlers of the other consumers' chaos runs: each does what chaos/jobs/work.py does."""
