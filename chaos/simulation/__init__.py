"""Consumers, leases and batchers on a virtual clock, against a simulated SQS on a bad network: many seeded schedules.

A schedule is a function of its seed: `plan.py` draws it, `schedule.py` runs it and records what happened in a
history, and `rules/` looks for what must never be in one. `python -m chaos.simulation` runs thousands.
"""
