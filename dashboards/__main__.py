"""`python -m dashboards` writes all files; `--check` says which differ, and ends with 1.

What it needs is in requirements-dashboards.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dashboards.alert_files import grafana_alerts, prometheus_alerts
from dashboards.grafana import dashboard_json

FOLDER = Path(__file__).parent


def files() -> dict[Path, str]:
    """Each file and its text."""
    return {
        FOLDER / "graphite/dashboard.json": dashboard_json("graphite"),
        FOLDER / "graphite/alerts.yaml": grafana_alerts(),
        FOLDER / "prometheus/dashboard.json": dashboard_json("prometheus"),
        FOLDER / "prometheus/alerts.yaml": prometheus_alerts(),
    }


def main(check: bool) -> int:
    """Write what differs, or say it; the exit code."""
    old = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    for path in old:
        print(f"{path.relative_to(FOLDER.parent)} {'differs: run python -m dashboards' if check else 'written'}")
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(files()[path])
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
