"""A question to whoever sits at the terminal."""

from __future__ import annotations

import sys

from millpond.dead_letters.sweep import Stop


def answer_to(question: str, stop: Stop) -> str:
    """What was typed; "" where a signal has ended the question, or the terminal is gone."""
    if stop.asked:
        return ""
    stop.interrupts = True
    try:
        return input(question).strip()
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return ""
    finally:
        stop.interrupts = False
