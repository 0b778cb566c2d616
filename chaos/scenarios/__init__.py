"""Five stories of real processes, each with what must hold at its end: `python -m chaos.scenarios`."""
