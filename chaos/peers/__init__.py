"""The chaos run's schedules on other consumers, side by side with Millpond: `python -m chaos.peers`."""
