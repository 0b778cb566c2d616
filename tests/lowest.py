"""The lowest versions that pyproject.toml allows, as pip takes them: `python tests/lowest.py` (`make lowest`)."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for dependency in project["dependencies"]:
    name, _, lowest = dependency.partition(">=")
    print(f"{name.strip()}=={lowest.strip()}")
