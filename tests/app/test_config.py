"""config.toml: its defaults, its variables, and a finding for each thing that is wrong with it."""

from __future__ import annotations

import json
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from handlers import email
from millpond.app.config import PLATFORM_VARIABLES, AllSettings, QueueSettings, handler_settings, load
from millpond.app.toml import Reading, Table, unknown
from millpond.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
REAL = "https://sqs.eu-west-1.amazonaws.com/1/mails"
ONE_QUEUE = f'[queues.emails]\nurl = "{REAL}"\n'


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text: str | bytes, **environ: str) -> AllSettings:
        path = Path("config.toml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, environ)

    return read


@pytest.fixture
def findings(read):
    def findings(text: str | bytes, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, **environ)
        return list(caught.value.findings)

    return findings


# --- the files of the project

STRUCTS = {
    field.name: field.type
    for field in msgspec.structs.fields(AllSettings)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
} | {"queues.emails": QueueSettings}


def written(name: str) -> dict[str, Any]:
    """A table of the project's config.toml, read in an empty environment."""
    content = tomllib.loads((ROOT / "config.toml").read_text())
    for part in name.split("."):
        content = content[part]
    return Table(name, content, Reading({})).values


@pytest.mark.parametrize("name", STRUCTS)
def test_config_toml_has_every_key_and_its_default(name):
    values, struct = written(name), STRUCTS[name]
    assert set(values) == set(struct.__struct_fields__)
    if name == "queues.emails":
        assert values.pop("url") == "local"  # the one key that has no default
    assert msgspec.convert(values, struct, strict=False) == struct()


def test_config_toml_has_every_key_of_the_email_handler_and_its_default():
    values = written("handlers.email")
    fields = msgspec.structs.fields(email.Settings)
    assert set(values) == {field.encode_name for field in fields}
    assert handler_settings(email.Settings, "handlers.email", values) == email.Settings()


def test_config_toml_runs_as_it_stands():
    settings = load(ROOT / "config.toml", {})
    assert settings.queues["emails"].is_local
    assert settings.folder == ROOT
    assert settings.worker.name == socket.gethostname()


def test_config_toml_reads_the_names_that_people_have_set():
    environ = {
        "AWS_REGION": "eu-west-1",
        "SQS_QUEUE_URL": REAL,
        "SQS_MAX_MESSAGES": "9",
        "SQS_WAIT_TIME_SECONDS": "8",
        "SQS_VISIBILITY_TIMEOUT": "70",
        "WORKER_CONCURRENCY": "60",
        "WORKER_MAX_RETRIES": "3",
        "WORKER_POLL_INTERVAL": "0.5",
        "WORKER_SHUTDOWN_TIMEOUT": "15",
        "STATSD_HOST": "127.0.0.1",
        "STATSD_PORT": "9125",
        "LOG_LEVEL": "WARNING",
        "SMTP_HOST": "mail.example.com",
        "SMTP_PORT": "2525",
        "SMTP_USER": "me",
        "SMTP_PASSWORD": "${not} a reference",
    }
    settings = load(ROOT / "config.toml", environ)
    queue, mail = settings.queues["emails"], settings.handlers["email"]
    assert settings.sqs.region == "eu-west-1"
    assert (queue.url, queue.max_messages, queue.wait_seconds, queue.visibility_seconds) == (REAL, 9, 8, 70)
    assert (settings.worker.concurrency, settings.worker.drain_seconds, queue.pause_seconds) == (60, 15, 0.5)
    assert settings.retry.max_attempts == 3
    assert (settings.statsd.host, settings.statsd.port, settings.log.level) == ("127.0.0.1", 9125, "warning")
    assert (mail["host"], mail["port"], mail["user"]) == ("mail.example.com", "2525", "me")
    assert mail["password"] == "${not} a reference"


@pytest.mark.parametrize(
    ("value", "port"), [("tcp://10.0.0.7:9125", 9125), ("udp://[fd00::7]:9125", 9125), ("9125", 9125)]
)
def test_the_ports_that_kubernetes_sets_for_a_service_are_understood(value, port):
    settings = load(ROOT / "config.toml", {"STATSD_PORT": value, "SMTP_PORT": value})
    assert settings.statsd.port == port
    assert handler_settings(email.Settings, "handlers.email", settings.handlers["email"]).port == port


def test_a_port_of_kubernetes_is_a_port_in_any_table_and_within_its_limits(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[queues.q]\nurl = "local"\n[local]\nport = "${LOCAL_PORT}"\n[retry]\nmax_attempts = "tcp://a:7"')
    with pytest.raises(ConfigError) as caught:
        load(path, {"LOCAL_PORT": "tcp://10.0.0.7:70000"})
    assert [finding.split(": ")[1] for finding in caught.value.findings] == [
        '[retry] max_attempts = "tcp://a:7"',
        "[local] port (from ${LOCAL_PORT})",
    ]


def test_env_example_has_the_variables_of_config_toml_and_sets_none():
    lines = (ROOT / ".env.example").read_text().splitlines()
    variables = [line for line in lines if line and not line.startswith("#")]
    text = re.sub("^#.*", "", (ROOT / "config.toml").read_text(), flags=re.MULTILINE)
    assert sorted(variables) == sorted(f"{name}=" for name in set(re.findall(r"\$\{(\w+)", text)))
    assert all(lines[lines.index(variable) - 1].startswith("# ") for variable in variables)


def test_env_example_tells_the_defaults_of_config_toml():
    text = re.sub("^#.*", "", (ROOT / "config.toml").read_text(), flags=re.MULTILINE)
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]+)\}", text))
    told = re.findall(
        r"^# .*?(?:\(([^ ;()]+)[^()]*\)[^()\n]*)?\n(\w+)=$", (ROOT / ".env.example").read_text(), re.MULTILINE
    )
    said = {variable: default for default, variable in told if default}
    of_others = {"SQS_QUEUE_URL": "local", "SMTP_PORT": "0"}  # told in words
    assert {key: value for key, value in defaults.items() if key not in of_others} == {
        key: value for key, value in said.items() if key in defaults and key not in of_others
    }


# --- values


def test_a_text_becomes_the_number_that_its_key_wants(read):
    settings = read(ONE_QUEUE + 'wait_seconds = "5"\npause_seconds = "0.25"\nvisibility_seconds = 30.0\n')
    queue = settings.queues["emails"]
    assert (queue.wait_seconds, queue.pause_seconds, queue.visibility_seconds) == (5, 0.25, 30)


def test_an_empty_variable_counts_as_unset(read):
    text = ONE_QUEUE + 'wait_seconds = "${WAIT:-7}"\n'
    assert read(text, WAIT="").queues["emails"].wait_seconds == 7
    assert read(text, WAIT="3").queues["emails"].wait_seconds == 3


def test_variables_are_read_inside_texts_and_lists_and_inner_tables(read):
    settings = read(
        f"""
        [queues.emails]
        url = "https://sqs.${{AWS_REGION}}.amazonaws.com/${{ACCOUNT:-1}}/mails"
        [handlers.shop]
        hosts = ["${{ONE}}", "two"]
        [handlers.shop.inner]
        key = "a ${{ONE}} b {"$"}"
        """,
        AWS_REGION="eu-west-1",
        ONE="uno",
    )
    assert settings.queues["emails"].url == "https://sqs.eu-west-1.amazonaws.com/1/mails"
    assert settings.handlers["shop"] == {"hosts": ["uno", "two"], "inner": {"key": "a uno b $"}}


def test_the_workers_name_is_its_own_or_the_dyno_or_the_host(read):
    assert read(ONE_QUEUE, DYNO="worker.1").worker.name == "worker.1"
    assert read('[worker]\nname = "mine"\n' + ONE_QUEUE, DYNO="worker.1").worker.name == "mine"
    assert read(ONE_QUEUE).worker.name == socket.gethostname()


def test_a_heartbeat_is_a_third_of_the_visibility_where_it_is_not_set(read):
    assert read(ONE_QUEUE + "visibility_seconds = 30").queues["emails"].beat_seconds == 10
    assert read(ONE_QUEUE + "heartbeat_seconds = 12").queues["emails"].beat_seconds == 12


def test_a_byte_order_mark_and_windows_line_ends_are_read(read):
    assert read(b"\xef\xbb\xbf" + ONE_QUEUE.replace("\n", "\r\n").encode()).queues["emails"].url == REAL


# --- findings


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("wait_seconds = 30", "wait_seconds = 30: 1 to 20 seconds, a whole number"),
        ("wait_seconds = 0", "wait_seconds = 0: 1 to 20 seconds, a whole number"),
        ("wait_seconds = 1.5", "wait_seconds = 1.5: 1 to 20 seconds, a whole number"),
        ('wait_seconds = "soon"', 'wait_seconds = "soon": 1 to 20 seconds, a whole number'),
        ("wait_seconds = true", "wait_seconds = true: 1 to 20 seconds, a whole number"),
        ("wait_seconds = [1]", "wait_seconds = [...]: 1 to 20 seconds, a whole number"),
        ("wait_seconds = 2026-11-21", 'wait_seconds = "2026-11-21": 1 to 20 seconds, a whole number'),
        ("max_messages = 4.5", "max_messages = 4.5: 1 to 10, a whole number"),
        ('max_messages = "four"', 'max_messages = "four": 1 to 10, a whole number'),
        ("max_messages = 11", "max_messages = 11: 1 to 10, a whole number"),
        ("visibility_seconds = 43201", "visibility_seconds = 43201: 1 to 43200 seconds, a whole number"),
        ("pollers = 0", "pollers = 0: a whole number, 1 or more"),
        ("prefetch = -1", "prefetch = -1: 0 to 120000, a whole number"),
        ("pause_seconds = inf", "pause_seconds = Infinity: 0 seconds or more"),
        ("pause_seconds = nan", "pause_seconds = NaN: 0 seconds or more"),
        ('pause_seconds = "nan"', 'pause_seconds = "nan": 0 seconds or more'),
        ("event_type = 5", "event_type = 5: a text in quotes"),
        (
            "heartbeat_seconds = 60",
            "heartbeat_seconds = 60: 58 at most, or 0 for a third: with visibility_seconds = 60 a later beat comes "
            "when the lease is over",
        ),
        ("heartbeat_seconds = 0.5", "heartbeat_seconds = 0.5: 0 (a third of visibility_seconds), or 1 second and more"),
        ("concurrency = 101", "concurrency = 101: not more than [worker] concurrency = 100"),
        ("wait_second = 3", "wait_second = 3: no such key; did you mean wait_seconds?"),
        (
            'envelope = "cloudevent"',
            'envelope = "cloudevent": auto | millpond | sns | eventbridge | s3 | cloudevents | none; '
            "did you mean cloudevents?",
        ),
        ('"a\\nb" = 3', '"a\\nb" = 3: no such key; there are: ' + ", ".join(QueueSettings.__struct_fields__)),
        ('dead_letter_url = "local"', 'dead_letter_url = "local": a URL, https://...'),
        (
            f'dead_letter_url = "{REAL}.fifo"',
            f'dead_letter_url = "{REAL}.fifo": a FIFO queue (.fifo) for a FIFO queue, '
            "a standard one for a standard one",
        ),
        ("max_hold_seconds = 59", "max_hold_seconds = 59: not less than visibility_seconds = 60"),
        (
            f'dead_letter_url = "{REAL}"',
            f'dead_letter_url = "{REAL}": another queue than url, or each dead letter would come back at once',
        ),
    ],
)
def test_a_finding_names_table_key_value_and_what_is_allowed(findings, line, finding):
    assert findings(ONE_QUEUE + line) == [f"config.toml: [queues.emails] {finding}"]


@pytest.mark.parametrize(
    ("url", "finding"),
    [
        ("", 'url = "": "local", or the URL of a queue, https://...'),
        ("mails", 'url = "mails": "local", or the URL of a queue, https://...'),
        (REAL + r"\n", f'url = "{REAL}\\n": "local", or the URL of a queue, https://...'),
        ("ftp://u:hush@host/q", 'url = ...: "local", or the URL of a queue, https://...'),
    ],
)
def test_a_url_is_local_or_that_of_a_queue(findings, url, finding):
    assert findings(f'[queues.emails]\nurl = "{url}"') == [f"config.toml: [queues.emails] {finding}"]


@pytest.mark.parametrize(
    ("end", "is_fifo"),
    [
        ("q.fifo", True),
        ("q.fifo/", True),
        ("q.fifo?a=b", True),
        ("q", False),
        ("q?a=b.fifo", False),
        ("q.fifo/q", False),
    ],
)
def test_a_fifo_queue_is_known_by_its_name_however_its_url_ends(tmp_path, end, is_fifo):
    path = tmp_path / "config.toml"
    path.write_text(f'[queues.q]\nurl = "https://sqs.eu-west-1.amazonaws.com/1/{end}"\n')
    assert load(path, {}).queues["q"].is_fifo is is_fifo


@pytest.mark.parametrize("url", ["http://host", "https://sqs.eu-west-1.amazonaws.com/", "https://host/123456789012"])
@pytest.mark.parametrize("key", ["url", "dead_letter_url"])
def test_the_url_of_no_queue_is_a_finding_that_says_what_is_missing(findings, url, key):
    text = ONE_QUEUE if key == "dead_letter_url" else "[queues.emails]\n"
    [finding] = findings(f'{text}{key} = "{url}"')
    assert finding.startswith(f'config.toml: [queues.emails] {key} = "{url}": the queue\'s name is missing at its end')


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("[worker]\nhandlers = []", '[worker] handlers = [...]: a list of folders and modules, ["handlers"]'),
        ('[worker]\nhandlers = "x"', '[worker] handlers = "x": a list of folders and modules, ["handlers"]'),
        ("[worker]\nconcurrency = 0", "[worker] concurrency = 0: 1 to 120000, a whole number"),
        ("[worker]\ndrain_seconds = 0.5", '[worker] drain_seconds = 0.5: 1 second or more, or "until done"'),
        ("[worker]\ndrain_seconds = inf", '[worker] drain_seconds = Infinity: 1 second or more, or "until done"'),
        ("[retry]\nmax_attempts = 0", "[retry] max_attempts = 0: a whole number, 1 or more"),
        ("[retry]\nmax_seconds = 43201", "[retry] max_seconds = 43201: 0 to 43200 seconds"),
        ("[retry]\nbase_seconds = 1801", "[retry] base_seconds = 1801: not more than max_seconds = 1800.0"),
        ("[statsd]\nport = 65536", "[statsd] port = 65536: 1 to 65535, a whole number"),
        ('[statsd]\nformat = "influx"', '[statsd] format = "influx": graphite | datadog'),
        (
            '[cloudwatch]\nmetrics = ["succeeded", "sucks"]',
            "[cloudwatch] metrics = [...]: names of docs/reference/metrics.md; sucks is none; did you mean stuck?",
        ),
        (
            '[cloudwatch]\nnamespace = "Mill"\n[log]\nformat = "text"',
            '[cloudwatch] namespace = "Mill": nothing, unless [log] format is "json" or "auto": '
            "it is read from a JSON log",
        ),
        ('[cloudwatch]\nnamespace = "a b"', '[cloudwatch] namespace = "a b": 1 to 255 letters, digits, and ._-/#:'),
        (
            '[statsd]\nhost = "10.0.0.1:8125"',
            '[statsd] host = "10.0.0.1:8125": a host name or an address, without its port',
        ),
        ("[local]\nport = -1", "[local] port = -1: 0 (any free one) to 65535, a whole number"),
        ('[log]\nlevel = "loud"', '[log] level = "loud": debug | info | warning | error | critical'),
        ("[log]\nformat = 5", "[log] format = 5: auto | text | json"),
        ('[sqs]\nendpoint_url = "localhost"', '[sqs] endpoint_url = "localhost": a URL, https://...'),
        ("[wroker]\nx = 1", "[wroker]: no such table; did you mean worker?"),
        ("[handlers]\nemail = 5", "[handlers] email: keys stand in a table with a name, [handlers.<name>]"),
        ("[[statsd]]\nport = 1", "statsd: a table is wanted, [statsd]"),
    ],
)
def test_every_table_is_checked(findings, text, finding):
    assert findings(f"{text}\n{ONE_QUEUE}") == [f"config.toml: {finding}"]


def test_an_ipv6_address_is_a_host(read):
    assert read('[statsd]\nhost = "fd00::1"\n' + ONE_QUEUE).statsd.host == "fd00::1"


def test_a_key_before_all_tables_is_a_finding(findings):
    tables = "worker, sqs, queues, retry, types, idempotency, large_bodies, "
    tables += "statsd, cloudwatch, log, local, http, platform, handlers"
    assert findings("pollers = 3\n" + ONE_QUEUE) == [f"config.toml: [pollers]: no such table; there are: {tables}"]


def test_a_value_from_the_environment_is_not_shown(findings):
    text = '[queues.emails]\nurl = "${URL}"\nwait_seconds = "${WAIT:-5}"\n'
    assert findings(text, URL="hush", WAIT="${hush}") == [
        'config.toml: [queues.emails] url (from ${URL}): "local", or the URL of a queue, https://...',
        "config.toml: [queues.emails] wait_seconds (from ${WAIT}): 1 to 20 seconds, a whole number",
    ]


def test_a_default_in_the_file_is_shown(findings):
    assert findings(ONE_QUEUE + 'wait_seconds = "${WAIT:-50}"') == [
        'config.toml: [queues.emails] wait_seconds = "50": 1 to 20 seconds, a whole number'
    ]


def test_a_secret_is_not_shown(findings):
    assert findings("[statsd]\nprefix = 12345\napi_key = 12345\n" + ONE_QUEUE) == [
        "config.toml: [statsd] prefix: a text in quotes",
        "config.toml: [statsd] api_key: no such key; there are: host, port, prefix, format",
    ]


def test_a_variable_that_is_not_set_is_named_and_is_one_finding(findings):
    text = ONE_QUEUE + 'wait_seconds = "${WAIT}"\n[handlers.email]\npassword = "${PASSWORD}"\n'
    assert findings(text, PASSWORD="") == [
        "config.toml: [queues.emails] wait_seconds: ${WAIT} is not set: set it, or give it a default, ${WAIT:-default}",
        "config.toml: [handlers.email] password: ${PASSWORD} is not set: "
        "set it, or give it a default, ${PASSWORD:-default}",
    ]


@pytest.mark.parametrize("text", ["${", "${A:-${B:-x}}", "${A-B}", "${1}", "${A"])
def test_a_broken_reference_is_a_finding_and_not_a_value(findings, text):
    assert findings(ONE_QUEUE + f'event_type = "{text}"', A="a") == [
        "config.toml: [queues.emails] event_type: write ${NAME} or ${NAME:-default}, not one within another"
    ]


def test_all_findings_come_at_once_and_one_wrong_key_causes_no_other_finding(findings):
    text = """
        [worker]
        concurrency = 0
        [queues.one]
        url = "https://sqs/1"
        visibility_seconds = "long"
        heartbeat_seconds = 100
        concurrency = 50
        [queues.two]
        url = "https://sqs/2"
        pollers = 0
    """
    assert [finding.split(" = ")[0] for finding in findings(text)] == [
        "config.toml: [worker] concurrency",
        "config.toml: [queues.one] visibility_seconds",
        "config.toml: [queues.two] pollers",
    ]


def test_no_queue_at_all_is_a_finding(findings):
    assert findings("") == ["config.toml: [queues]: there is no queue: add [queues.emails] and its url"]


def test_fewer_permits_than_queues_is_a_finding(findings):
    text = '[worker]\nconcurrency = 1\n[queues.a]\nurl = "local"\n[queues.b]\nurl = "local"\n'
    assert findings(text) == [
        "config.toml: [worker] concurrency = 1: 2 or more, since each of the 2 queues needs one message in hand"
    ]


def test_two_tables_for_one_queue_are_a_finding_but_two_local_queues_are_two(findings, read):
    assert findings(f'{ONE_QUEUE}[queues.again]\nurl = "{REAL}"') == [
        f'config.toml: [queues.again] url = "{REAL}": another queue than [queues.emails]'
    ]
    assert len(read('[queues.a]\nurl = "local"\n[queues.b]\nurl = "local"\n').queues) == 2


@pytest.mark.parametrize("name", ["a b", "a.b", "ü", "", "a\\n"])
def test_a_queues_name_must_fit_statsd(findings, name):
    (finding,) = findings(f'[queues."{name}"]\nurl = "{REAL}"')
    assert finding.endswith('"]: only letters, digits, _ and -, since the name is a part of StatsD names')
    assert "\n" not in finding


@pytest.mark.parametrize("variable", PLATFORM_VARIABLES)
def test_the_local_queue_is_refused_on_a_platform(findings, read, variable):
    text = '[queues.emails]\nurl = "${SQS_QUEUE_URL:-local}"\n'
    refusal = f"{variable} is set, and a queue in memory is no place for real mail"
    assert findings(text, **{variable: "x"}) == [
        f'config.toml: [queues.emails] url = "local": set SQS_QUEUE_URL: {refusal}'
    ]
    assert findings(text.replace("SQS_", "BILLS_"), **{variable: "x"}) == [
        f'config.toml: [queues.emails] url = "local": set BILLS_QUEUE_URL: {refusal}'
    ]
    assert read(text, **{variable: "x", "SQS_QUEUE_URL": REAL}).queues["emails"].url == REAL
    assert read(text, **{variable: ""}).queues["emails"].is_local


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"[worker]\nname = \n", "config.toml: line 2, column 8: "),
        (b"[worker]\nname", "config.toml: line 2, at its end: "),
        (b"[worker]\nname = '\xff'\n", "config.toml: line 2: not UTF-8"),
        (b"[worker]\n[worker]\n", "config.toml: line 2, column 8: "),
        (b"x = " + b"1" * 5000, "config.toml: not valid TOML: "),
        (b"x = " + b"[" * 100_000, "config.toml: not valid TOML: "),
    ],
    ids=["no value", "cut off", "not UTF-8", "twice", "a long number", "deep brackets"],
)
def test_what_is_no_toml_is_one_line_with_its_place(findings, content, finding):
    (text,) = findings(content)
    assert text.startswith(finding)
    assert "\n" not in text


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file or directory$"):
        load(tmp_path / "nowhere.toml", {})
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
        load(tmp_path, {})


def test_settings_that_are_not_there_are_met_by_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"No such file or directory; name your own by -c PATH$"):
        load(Path("config.toml"), {})
    Path("staging.toml").touch()
    Path("stagin").mkdir()
    with pytest.raises(ConfigError, match=r"No such file or directory; did you mean stagin/../staging.toml\?$"):
        load(Path("stagin/../stagin.toml"), {})


TEXTS = st.text("a ${}:-'\"\\\n\x00\x7f\x85\u2028\U0001f600", max_size=8)
TOML_VALUES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    TEXTS.map(json.dumps),
    st.sampled_from(['"${A}"', '"${A:-5}"', '"${A:-${B}}"', "[]", "[1, 'a']", "{}", "{url = 1}", "07:30:00"]),
)
KEYS = sorted({key for struct in STRUCTS.values() for key in struct.__struct_fields__})
LINES = st.tuples(st.sampled_from([*KEYS, "x"]), TOML_VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}")
TABLE_NAMES = st.sampled_from(["worker", "queues", "queues.a", "queues.b", "retry", "log", "handlers.x", "y"])
TABLES_OF_LINES = st.dictionaries(TABLE_NAMES, st.lists(LINES, max_size=4), max_size=5)


def load_or_findings(path: Path, **environ: str) -> AllSettings | list[str]:
    try:
        return load(path, environ)
    except ConfigError as error:
        return list(error.findings)


@given(tables=TABLES_OF_LINES, value=TEXTS)
def test_whatever_stands_in_the_file_it_is_settings_or_findings_of_one_line(tmp_path_factory, tables, value):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    text = "".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in tables.items())
    path.write_text(text, encoding="utf-8")
    outcome = load_or_findings(path, A=value)
    if not isinstance(outcome, AllSettings):
        assert outcome
        assert all(len(finding.splitlines()) == 1 for finding in outcome)


@given(content=st.binary(max_size=60))
def test_whatever_bytes_the_file_has_it_is_findings(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load(path, {})


# --- the tables of handlers


class Mail(msgspec.Struct):
    host: str
    sender: Annotated[str, msgspec.Meta(pattern="@", description="an address")] = msgspec.field(name="from", default="")
    port: int = 587
    security: Literal["starttls", "tls"] = "starttls"
    limits: dict[str, int] = {}

    def __post_init__(self) -> None:
        if self.port == 465 and self.security == "starttls":
            raise ValueError("port 465 speaks tls")


def test_a_handlers_table_becomes_its_settings():
    table = {"host": "mail", "from": "a@b", "port": "25", "security": "TLS", "limits": {"day": "5"}}
    settings = handler_settings(Mail, "handlers.email", table)
    assert settings == Mail(host="mail", sender="a@b", port=25, security="tls", limits={"day": 5})


def test_a_handlers_table_has_all_findings_at_once_and_never_shows_a_value():
    table = {"from": "hush", "port": "hush", "security": "hush", "limits": {"day": "hush"}, "hots": "hush"}
    with pytest.raises(ConfigError) as caught:
        handler_settings(Mail, "handlers.email", table)
    assert list(caught.value.findings) == [
        "[handlers.email] from: an address",
        "[handlers.email] port: Expected `int`, got `str`",
        "[handlers.email] security: starttls | tls",
        "[handlers.email] limits: Expected `int`, got `str` - at `$[...]`",
        "[handlers.email] hots: no such key; did you mean host?",
        "[handlers.email] host: is missing",
    ]


def test_a_value_that_msgspec_would_quote_is_not_shown():
    class Nested(msgspec.Struct):
        modes: list[Literal["a", "b"]]

    with pytest.raises(ConfigError) as caught:
        handler_settings(Nested, "handlers.x", {"modes": ["hush ' - at `$` hush"]})
    assert caught.value.findings == ("[handlers.x] modes: Invalid enum value - at `$[0]`",)


def test_what_a_structs_own_check_says_is_a_finding():
    with pytest.raises(ConfigError) as caught:
        handler_settings(Mail, "handlers.email", {"host": "mail", "port": 465})
    assert caught.value.findings == ("[handlers.email]: port 465 speaks tls",)


def test_a_name_that_does_not_exist_gets_the_nearest_one():
    assert unknown("key", "prot", ["port", "host"]) == "no such key; did you mean port?"
    assert unknown("key", "zzz", ["port", "host"]) == "no such key; there are: port, host"
    assert unknown("key", "zzz", []) == "no such key; there are: none"


# A heartbeat that works


@pytest.mark.parametrize(
    ("visibility", "heartbeat", "allowed"),
    [
        (10, 9.5, "8 at most, or 0 for a third"),
        (10, 9, "8 at most, or 0 for a third"),
        (10, 8.01, "8 at most, or 0 for a third"),
        (60, 58.5, "58 at most, or 0 for a third"),
        (5, 4, "3 at most, or 0 for a third"),
        (3, 1.5, "1.25 at most, or 0 for a third"),
        (2, 1, "0, for a third of it: all else is too long"),
        (1, 1, "0, for a third of it: all else is too long"),
    ],
)
def test_a_heartbeat_that_comes_when_the_lease_is_over_is_refused_with_the_longest_that_works(
    findings, visibility, heartbeat, allowed
):
    text = f"{ONE_QUEUE}visibility_seconds = {visibility}\nheartbeat_seconds = {heartbeat}"
    (finding,) = findings(text)
    assert finding.startswith(f"config.toml: [queues.emails] heartbeat_seconds = {heartbeat:g}")
    assert allowed in finding
    assert f"visibility_seconds = {visibility}" in finding


@pytest.mark.parametrize(
    ("visibility", "heartbeat"), [(10, 8), (60, 58), (3, 1.25), (5, 3), (43_200, 43_198), (1, 0), (2, 0)]
)
def test_the_longest_heartbeat_that_works_is_accepted(read, visibility, heartbeat):
    text = f"{ONE_QUEUE}visibility_seconds = {visibility}\nheartbeat_seconds = {heartbeat}"
    assert read(text).queues["emails"].visibility_seconds == visibility


@pytest.mark.parametrize(
    ("worker", "rest", "finding"),
    [
        (
            "processes = 2",
            '[queues.q]\nurl = "local"',
            '[worker] processes = 2: must be 1 with a queue of url = "local", which is in the memory of one process: '
            "start python -m millpond.local, and set the URL",
        ),
        (
            "max_memory_mb = 300",
            '[queues.q]\nurl = "local"',
            "[worker] max_memory_mb = 300: must be 0 with a queue of url",
        ),
        (
            'processes = "cores"',
            f'{ONE_QUEUE}[platform]\ntask_protection = "auto"',
            '[worker] processes = "cores": must be 1 with [platform] task_protection',
        ),
        ('processes = "many"', ONE_QUEUE, '[worker] processes = "many": 1 to 1000, a whole number, or "cores"'),
        ("processes = 0", ONE_QUEUE, '[worker] processes = 0: 1 to 1000, a whole number, or "cores"'),
    ],
)
def test_several_processes_need_queues_that_they_share(findings, worker, rest, finding):
    (found,) = findings(f"[worker]\n{worker}\n{rest}")
    assert found.removeprefix("config.toml: ").startswith(finding)


def test_the_number_of_processes_is_a_number_or_that_of_the_cores(read):
    def number(text: str) -> int:
        return read(f"[worker]\nprocesses = {text}\n{ONE_QUEUE}", N="3").worker.process_number(4)

    assert [number(text) for text in ("1", '"cores"', '"${N}"', '"${M:-2}"')] == [1, 4, 3, 2]
    assert read('[worker]\nprocesses = "cores"\n[queues.q]\nurl = "local"').has_local
