"""Schedules of idempotent handlers: the simulation's workers, at one store of claims on which everything can go wrong.

The world is that of chaos.simulation; its rules are others, since what counts here is the effect of an event, and who
may write what of it at the store.
"""
