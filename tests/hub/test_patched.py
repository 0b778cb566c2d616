"""The first thing that a worker does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOOKS = """
from importlib import metadata
looks, look = [], metadata.entry_points
metadata.entry_points = counted = lambda **wanted: (looks.append(wanted), look(**wanted))[1]
from millpond.patched import patch_all
patch_all()
print(len(looks), metadata.entry_points is counted)
"""


def test_the_installed_packages_are_read_once_and_a_plugin_of_gevent_among_them_is_called(tmp_path):
    (tmp_path / "plugin.py").write_text("def called(event): print('called')\n")
    (tmp_path / "plugin-1.dist-info").mkdir()
    (tmp_path / "plugin-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    points = "[gevent.plugins.monkey.will_patch_all]\nplugin = plugin:called\n"
    (tmp_path / "plugin-1.dist-info" / "entry_points.txt").write_text(points)
    environ = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", LOOKS], env=environ, capture_output=True, text=True, timeout=30)
    assert (done.stdout.split(), done.stderr) == (["called", "1", "True"], "")
