"""`python -m tests.image` (`make image`): builds the image, runs it, prints its size; more arguments are pytest's.

It needs root, and packages of Debian, which it installs (tests/image/building.py): `make test` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.image.building import DOCKERFILE, ROOT, build, install_packages

# A network of its own, so that compose.yaml's ports are free: nothing but loopback.
IN_OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def main() -> int:
    """The exit code: that of the tests."""
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__.partition("\n")[0])
    parser.add_argument("--dockerfile", type=Path, default=DOCKERFILE, help="build this one (default: %(default)s)")
    options, more = parser.parse_known_args()
    install_packages()
    with tempfile.TemporaryDirectory(prefix="millpond-image-") as folder:
        os.chmod(folder, 0o755)  # the user of the image has to get through
        started = time.monotonic()
        image = build(options.dockerfile, Path(folder))
        os.chmod(folder, 0o755)  # the base has brought its own
        print(f"built in {time.monotonic() - started:.0f} s: {_sizes(image.layers)}", flush=True)
        pytest = (*IN_OWN_NETWORK, sys.executable, "-m", "pytest", "tests/image/checks.py", "-s", *more)
        environ = {**os.environ, "MILLPOND_IMAGE": json.dumps([str(image.files), image.config, image.layers])}
        return subprocess.run(pytest, cwd=ROOT, env=environ, check=False).returncode


def _sizes(layers: tuple[int, ...]) -> str:
    base, *ours = (size / 1e6 for size in layers)
    return f"{base + sum(ours):.0f} MB unpacked, {sum(ours):.0f} MB of it on top of the base"


if __name__ == "__main__":
    sys.exit(main())
