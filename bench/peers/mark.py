"""Messages of this type are the marks between which instructions are counted (bench/callgrind.py)."""

import os

from millpond import handler


@handler("bench.mark")
def mark(nothing: None) -> None:
    os.getloadavg()
