"""A program's instructions, by library, between its marks: by valgrind's callgrind, in lockstep (lockstep.c)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).parent / "lockstep.c"
HEADER = Path("/usr/include/valgrind/callgrind.h")
#: Until a program is given up that comes to no last mark: it waits for an answer that does not come.
PATIENCE_SECONDS = 1_800


def missing() -> str:
    """What is not there and how to get it; "" where all is."""
    if shutil.which("valgrind") and shutil.which("cc") and HEADER.exists():
        return ""
    return "needs valgrind with its headers and a C compiler: apt-get install valgrind gcc libc6-dev"


@contextmanager
def lockstep() -> Iterator[dict[str, str]]:
    """What a program's environment needs so that time and the network are the same in every run."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "lockstep.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        yield {"LD_PRELOAD": str(library), "PYTHONHASHSEED": "1"}


def instructions(command: Sequence[str], environ: Mapping[str, str], folder: Path) -> Counter[str]:
    """By library. The program calls getloadavg() where lockstep begins, where counting does, and where all ends.

    Raises RuntimeError with the end of what it said for one that comes to no end.
    """
    counts, log = folder / "callgrind.out", folder / "log"
    tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={counts}"]
    with log.open("wb") as file, lockstep() as more:
        done = subprocess.run(
            [*tool, *command], cwd=folder, env={**environ, **more}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
    found = by_library(counts.read_text()) if counts.exists() else Counter()
    if done.returncode or not found:
        raise RuntimeError(f"it ended with {done.returncode}:\n{log.read_text(errors='replace')[-2_000:]}")
    return found


def by_library(counts: str) -> Counter[str]:
    """The sums of callgrind's file: https://valgrind.org/docs/manual/cl-format.html."""
    found: Counter[str] = Counter()
    names: dict[str, str] = {}  # a name stands where its number comes first
    library, of_a_call = "", False
    for line in counts.splitlines():
        key, _, value = line.partition("=")
        if key in ("ob", "cob"):
            number, _, name = value.partition(" ")
            names.setdefault(number, Path(name).name.partition(".")[0])
            library = names[number] if key == "ob" else library
        elif key == "calls":
            of_a_call = True  # the next line has what the function called has cost, which stands there too
        elif line[:1] in "0123456789+-*" and line:
            found[library] += 0 if of_a_call else int(line.split()[1])
            of_a_call = False
    return found
