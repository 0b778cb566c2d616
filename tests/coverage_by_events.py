"""A plugin of coverage.py: branches are measured by events of the interpreter (sys.monitoring), from Python 3.13 on.

Its tracer of C is called for each line of every program, botocore's too, and asks for the greenlet each time: tests
of ours took two to three times as long under it. An event is switched off where it has been seen, and needs no
greenlet. coverage.py does so itself from 3.14 on, where the two ways of a branch have an event each. In 3.13 they
have one together: it stays on until both ways are seen.
"""

from __future__ import annotations

import dis
import sys
from collections import defaultdict
from types import CodeType
from typing import Any

from coverage import CoveragePlugin, bytecode, env
from coverage.plugin_support import Plugins
from coverage.sysmon import SysMonitor
from coverage.types import TConfigurable

_one_way: defaultdict[tuple[int, int], set[int]] = defaultdict(set)


def _branch(monitor: SysMonitor, code: CodeType, offset: int, destination: int) -> Any:
    ways = _one_way[id(code), offset]  # the monitor keeps each code object, and so its id
    if destination not in ways:
        ways.add(destination)
        _either(monitor, code, offset, destination)
    return sys.monitoring.DISABLE if len(ways) > 1 else None


class Events(CoveragePlugin):
    def configure(self, config: TConfigurable) -> None:
        config.set_option("run:core", "sysmon")
        config.set_option("run:concurrency", ["thread"])


def coverage_init(plugins: Plugins, options: dict[str, Any]) -> None:
    if sys.version_info >= (3, 13):
        plugins.add_configurer(Events())


if (3, 13) <= sys.version_info < (3, 14):
    env.PYBEHAVIOR.branch_right_left = True
    sys.monitoring.events.BRANCH_LEFT = sys.monitoring.events.BRANCH_RIGHT = sys.monitoring.events.BRANCH
    bytecode.RETURNS.add(dis.opmap["RETURN_CONST"])
    _either, SysMonitor.sysmon_branch_either = SysMonitor.sysmon_branch_either, _branch
