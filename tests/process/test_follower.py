"""start_followers: what of a platform is started, by the settings and the environment."""

from __future__ import annotations

import msgspec
import pytest

from millpond.app.config import AllSettings, load
from millpond.errors import ConfigError
from millpond.process.core import Core
from millpond.process.follower import start_followers
from tests.process.running import events


@pytest.fixture
def core(process):
    return process({}, start=False).core


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "config.toml").write_text('[queues.q]\nurl = "https://sqs.eu-west-1.amazonaws.com/1/q"\n')
    return load(tmp_path / "config.toml", {})


def with_platform(settings: AllSettings, drain_seconds: float = 25.0, **platform: object) -> AllSettings:
    worker = msgspec.structs.replace(settings.worker, drain_seconds=drain_seconds)
    own = msgspec.structs.replace(settings.platform, **platform)
    return msgspec.structs.replace(settings, worker=worker, platform=own)


def names(settings: AllSettings, core: Core, **environ: str) -> list[str]:
    return [type(one).__name__ for one in start_followers(settings, core, environ)]


def test_where_nothing_asks_for_it_nothing_is_started(settings, core):
    assert names(settings, core) == names(settings, core, ECS_AGENT_URI="http://127.0.0.1:1/api") == []


def test_task_protection_needs_the_setting_and_an_agent(settings, core):
    auto = with_platform(settings, task_protection="auto")
    assert names(auto, core) == []
    assert names(auto, core, ECS_AGENT_URI="http://127.0.0.1:1/api/1") == ["TaskProtection"]
    with pytest.raises(ConfigError, match=r'^\[platform\] task_protection = "auto": ECS_AGENT_URI is no http:// URL'):
        names(auto, core, ECS_AGENT_URI="169.254.170.2")


@pytest.mark.parametrize(
    ("drain_seconds", "own", "environ", "warned"),
    [
        (25, 0, {"DYNO": "worker.1"}, False),
        (26, 0, {"DYNO": "worker.1"}, True),
        (100, 0, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # nobody knows: `check` says so
        (100, 105, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        (100, 104, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        (25, 20, {}, True),
    ],
)
def test_a_drain_that_is_cut_short_for_sure_is_a_warning(settings, core, caplog, drain_seconds, own, environ, warned):
    names(with_platform(settings, drain_seconds, grace_seconds=own), core, **environ)
    assert events(caplog) == ["platform.short"] * warned
