"""A container of the image, as Docker or Kubernetes would start it, made by bubblewrap alone."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.image.building import Image
from tests.worker_process import SECONDS, WorkerProcess

#: The image that `python -m tests.image` has built, as JSON.
BUILT = "MILLPOND_IMAGE"


def built_image() -> Image:
    """The image under test."""
    files, config, layers = json.loads(os.environ[BUILT])
    return Image(Path(files), config, tuple(layers))


class Container(WorkerProcess):
    """Process 1 with the image's own user, folder, environment and command; nothing but /tmp can be written.

    It has no right of root, cannot get one, and shares nothing but the network. `mounts`: files and folders that lie
    over those of the image, by their paths in it.
    """

    def __init__(self, image: Image, *command: str, mounts: dict[str, Path] | None = None, **environ: str) -> None:
        config = image.config
        user, _, group = config["User"].partition(":")
        words = ["--reuid", user, "--regid", group or user, "--clear-groups", "--no-new-privs", "bwrap"]
        words += ["--unshare-user", "--uid", user, "--gid", group or user]
        words += ["--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
        words += ["--ro-bind", str(image.files), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        for path, source in (mounts or {}).items():
            words += ["--ro-bind", str(source), path]
        words += ["--chdir", config["WorkingDir"], "--clearenv"]
        for name, value in {**dict(one.split("=", 1) for one in config["Env"]), **environ}.items():
            words += ["--setenv", name, value]
        super().__init__(Path("/"), *words, *(command or config["Cmd"]), program=(), executable="setpriv")

    @property
    def first_process(self) -> int:
        """The number that its process 1 has outside. Raises AssertionError where there is none in time."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.running:
            for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                if self.status(int(child))["NSpid"].split()[-1] == "1":
                    return int(child)
            time.sleep(0.01)
        raise AssertionError(f"it has no process 1\n{self.output()}")

    def signal(self, number: int) -> None:
        os.kill(self.first_process, number)

    def stop(self, seconds: float = SECONDS) -> int:
        """As Docker stops it; its exit code."""
        self.signal(signal.SIGTERM)
        return self.exit_code(seconds)

    @staticmethod
    def status(pid: int) -> dict[str, Any]:
        """What the kernel says of a process."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
