"""`python -m chaos.peers.launch PROGRAM ARGUMENT...`: becomes that program, at the head of its own group."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    os.setsid()
    os.execvp(sys.argv[1], sys.argv[1:])
