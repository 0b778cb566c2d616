"""What runs the worker, and the memory that it gives: by variables, and by files as each platform has them."""

from __future__ import annotations

import pytest

from millpond.app.platform import DOCKER, PLATFORMS, memory_bytes, platform_of, usable_cores


@pytest.fixture
def machine(tmp_path):
    """machine(path=text, ...) -> the root of a file system with these files; "/" in a path is "_"."""

    def make(files: dict[str, str]):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("DYNO", "Heroku"),
        ("ECS_CONTAINER_METADATA_URI_V4", "ECS"),
        ("KUBERNETES_SERVICE_HOST", "Kubernetes"),
        ("INVOCATION_ID", "systemd"),
    ],
)
def test_each_platform_is_known_by_its_variable_also_inside_a_container(machine, variable, name):
    root = machine({".dockerenv": ""})
    assert platform_of({variable: "x"}, root) is PLATFORMS[variable]
    assert PLATFORMS[variable].name == name


def test_docker_and_podman_are_known_by_their_file_and_an_empty_variable_is_none(tmp_path, machine):
    assert platform_of({"DYNO": ""}, tmp_path) is None
    assert platform_of({}, machine({"run/.containerenv": ""})) is DOCKER
    assert platform_of({}, machine({".dockerenv": ""})) is DOCKER


MIB = 2**20


@pytest.mark.parametrize(
    ("environ", "files", "mebibytes"),
    [
        ({}, {}, 0),
        ({"DYNO_RAM": "512"}, {}, 512),
        ({"DYNO_RAM": "much"}, {}, 0),
        # A container: it sees its own cgroup as the root.
        ({}, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{300 * MIB}\n"}, 300),
        ({}, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 0),
        # A service of systemd, in a slice with a lower limit.
        (
            {},
            {
                "proc/self/cgroup": "0::/small.slice/millpond.service\n",
                "sys/fs/cgroup/small.slice/millpond.service/memory.max": "max\n",
                "sys/fs/cgroup/small.slice/memory.max": f"{200 * MIB}\n",
            },
            200,
        ),
        # cgroups of version 1; a container's path is the host's, and is not there.
        (
            {"DYNO_RAM": "1024"},
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/lxc/dyno\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 * MIB}\n",
            },
            512,
        ),
        (
            {},
            {
                "proc/self/cgroup": "4:memory:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
            },
            0,
        ),
        ({}, {"proc/self/cgroup": "not one\n0:\n::::\n0::/\n", "sys/fs/cgroup/memory.max": "-5"}, 0),
    ],
)
def test_the_memory_is_the_lowest_of_all_limits_and_zero_where_there_is_none(machine, environ, files, mebibytes):
    assert memory_bytes(environ, machine(files)) == mebibytes * MIB


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("", 64),
        ("max 100000", 64),
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("990000 100000", 9),
        ("x y", 64),
        ("5 0", 64),
    ],
)
def test_the_cores_are_those_that_the_process_may_use(tmp_path, monkeypatch, text, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {*range(64)}, raising=False)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(text)
    assert usable_cores(tmp_path) == cores
