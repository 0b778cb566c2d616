"""Where SQS is: as botocore has it, and with the few rules of our own."""

from __future__ import annotations

import itertools
from typing import Any

import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import EndpointVariantError

from millpond.errors import ConfigError
from millpond.sqs.boto import BotoSqs
from millpond.sqs.clients import connect
from millpond.sqs.credentials import Credentials, credentials_loader
from millpond.sqs.endpoint import Endpoint, find_endpoint
from millpond.sqs.queue_url import DUAL_STACK_SUFFIXES, SUFFIXES
from millpond.sqs.sigv4 import Keys
from tests.http_server import Server

QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/q"
LOCAL = "http://127.0.0.1:9324/000000000000/q"
SESSION = botocore.session.get_session()
#: At Amazon, but in no region that the name tells.
ANYWHERE = "https://vpce-1.sqs.amazonaws.com/1/q"
PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No setting of this machine counts."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def found(queue_url: str = QUEUE, region: str = "", endpoint_url: str = "") -> Endpoint:
    return find_endpoint(queue_url, region, endpoint_url)


class Nothing:
    def stream(self) -> tuple[bytes]:
        return (b"{}",)


def real_call(**settings: Any) -> str:
    """Where botocore would send a call to."""
    urls: list[str] = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        urls.append(request.url)
        return AWSResponse(request.url, 200, {}, Nothing())

    client = SESSION.create_client("sqs", aws_access_key_id="a", aws_secret_access_key="b", config=Config(**settings))
    client.meta.events.register("before-send.sqs", answer)
    client.list_queues()
    return urls[0]


# --- by the URL alone

ACCOUNT = "123456789012/q"
#: The URL of a queue; the region that its requests are signed for, "" where the URL has none.
URLS = [
    # Amazon's own, a host for each partition (botocore's endpoints.json)
    ("https://sqs.eu-central-1.amazonaws.com", "eu-central-1"),
    ("https://sqs.ap-southeast-4.amazonaws.com", "ap-southeast-4"),
    ("https://SQS.Eu-Central-1.AmazonAWS.com", "eu-central-1"),
    ("https://sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
    ("https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ("https://sqs.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
    ("https://sqs.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
    ("https://sqs.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
    ("https://sqs.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1"),
    ("https://sqs.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1"),
    ("https://sqs.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
    # dual-stack
    ("https://sqs.us-east-1.api.aws", "us-east-1"),
    ("https://sqs.us-gov-west-1.api.aws", "us-gov-west-1"),
    ("https://sqs.cn-north-1.api.amazonwebservices.com.cn", "cn-north-1"),
    ("https://sqs.eusc-de-east-1.api.amazonwebservices.eu", "eusc-de-east-1"),
    ("https://sqs.us-iso-east-1.api.aws.ic.gov", "us-iso-east-1"),
    ("https://sqs.us-isob-east-1.api.aws.scloud", "us-isob-east-1"),
    ("https://sqs.eu-isoe-west-1.api.cloud-aws.adc-e.uk", "eu-isoe-west-1"),
    ("https://sqs.us-isof-east-1.api.aws.hci.ic.gov", "us-isof-east-1"),
    # FIPS
    ("https://sqs-fips.us-east-1.amazonaws.com", "us-east-1"),
    ("https://sqs-fips.ca-west-1.amazonaws.com", "ca-west-1"),
    ("https://sqs-fips.us-east-2.api.aws", "us-east-2"),
    # legacy
    ("https://queue.amazonaws.com", "us-east-1"),
    ("https://us-east-2.queue.amazonaws.com", "us-east-2"),
    ("https://us-gov-west-1.queue.amazonaws.com", "us-gov-west-1"),
    ("https://cn-north-1.queue.amazonaws.com.cn", "cn-north-1"),
    # VPC endpoints, with and without the zone
    ("https://vpce-0a1b2c3d4e5f60718-8293a4b5.sqs.us-east-1.vpce.amazonaws.com", "us-east-1"),
    ("https://vpce-0a1b2c3d4e5f60718-8293a4b5-us-east-1a.sqs.us-east-1.vpce.amazonaws.com", "us-east-1"),
    ("https://vpce-0a1b2c3d4e5f60718-8293a4b5.sqs.cn-north-1.vpce.amazonaws.com.cn", "cn-north-1"),
    ("https://vpce-0a1b2c3d4e5f60718-8293a4b5.sqs-fips.us-gov-west-1.vpce.amazonaws.com", "us-gov-west-1"),
    ("https://vpce-0a1b2c3d4e5f60718-8293a4b5.queue.us-east-1.vpce.amazonaws.com", "us-east-1"),
    ("https://vpce-1.sqs.amazonaws.com", ""),
    # another service before it
    ("https://a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com", "eu-west-1"),
    ("https://sqs.eu-central-1.amazonaws.com:8443", "eu-central-1"),
    # LocalStack
    ("http://sqs.eu-west-1.localhost.localstack.cloud:4566", "eu-west-1"),
    ("https://sqs.eu-west-1.localhost.localstack.cloud:4566", "eu-west-1"),
    ("http://eu-west-1.queue.localhost.localstack.cloud:4566", "eu-west-1"),
    ("http://sqs.eu-west-1.localstack:4566", "eu-west-1"),
    ("http://localhost:4566/queue/eu-west-1", "eu-west-1"),
    ("http://localhost.localstack.cloud:4566/queue/eu-west-1", "eu-west-1"),
    ("http://queue.localhost.localstack.cloud:4566", ""),
    ("http://localhost.localstack.cloud:4566", ""),
    ("http://localhost:4566", ""),
    # goaws, ElasticMQ, moto, a name of one's own
    ("http://eu-west-1.goaws.com:4100", "eu-west-1"),
    ("http://localhost:9324/queue", ""),
    ("http://[::1]:9324", ""),
    ("http://127.0.0.1:5000", ""),
    ("https://prod-east-1.example.com", ""),
    ("https://queues.internal.example", ""),
]


def called_host(url: str) -> str:
    """Scheme, host and port of a URL, as they are written."""
    return "/".join(url.split("/")[:3]) + "/"


@pytest.mark.parametrize(("base", "region"), URLS)
def test_the_host_that_is_written_is_called_and_signed_for_the_region_of_the_url(monkeypatch, base, region):
    monkeypatch.setenv("AWS_REGION", "sa-east-1")  # what a platform sets for all that runs in it
    one = found(f"{base}/{ACCOUNT}")
    assert one.url.lower() == called_host(base).lower()
    assert one.region == (region or "sa-east-1")
    assert find_endpoint(f"{base}/{ACCOUNT}", "us-west-2", "").region == (region or "us-west-2")


@pytest.mark.parametrize(("base", "region"), [case for case in URLS if "amazon" in case[0]][::3])
def test_boto3_calls_the_same_host_for_the_same_region(monkeypatch, base, region):
    monkeypatch.setenv("AWS_REGION", "sa-east-1")
    sqs = BotoSqs(f"{base}/{ACCOUNT}", "us-west-2", "", wait_seconds=1, polls=1, settles=1)
    assert f"{sqs.settle.meta.endpoint_url}/".replace("//", "/").lower() == called_host(base).replace("//", "/").lower()
    assert sqs.settle.meta.region_name == (region or "us-west-2")


def test_every_partition_that_botocore_knows_is_known():
    rules = SESSION.get_component("data_loader").load_data("partitions")["partitions"]
    suffixes = {one["outputs"][kind] for one in rules for kind in ("dnsSuffix", "dualStackDnsSuffix")}
    assert suffixes == {*SUFFIXES, *DUAL_STACK_SUFFIXES}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://ann:secret-word@sqs.eu-central-1.amazonaws.com/1/q", "sqs.eu-central-1.amazonaws.com"),
        ("http://ann:secret-word@queue.example:4566/1/q", "queue.example:4566"),
    ],
)
@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_a_password_in_the_url_goes_into_no_host(url, host, client):
    assert found(url).url in (f"https://{host}/", f"http://{host}/")
    sqs: Any = connect(url, client=client, wait_seconds=1, polls=1, settles=1)
    assert "secret-word" not in (sqs.endpoint_url if client == "wire" else sqs.settle.meta.endpoint_url)
    with pytest.raises(ConfigError) as caught:
        found("https://ann:secret-word@queue.example:port/1/q")
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://[::1/1/q", "https://host:99999/1/q", "https:///1/q", "ftp://host/q", "mails"])
@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_what_is_no_url_is_a_finding(url, client):
    with pytest.raises(ConfigError):
        connect(url, client=client, wait_seconds=1, polls=1, settles=1)
    with pytest.raises(ConfigError):
        connect(QUEUE, client=client, endpoint_url=url, wait_seconds=1, polls=1, settles=1)


# --- and by the settings

SUFFIX_OF = {"cn-north-1": "amazonaws.com.cn", "us-iso-east-1": "c2s.ic.gov"}


@pytest.mark.parametrize("region", ["us-east-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1", "xx-nowhere-9"])
def test_partitions_fips_and_dual_stack_are_botocores(monkeypatch, region):
    for fips, dual_stack in itertools.product(["true", "false"], repeat=2):
        monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", fips)
        monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", dual_stack)
        try:
            theirs = real_call(region_name=region)
        except EndpointVariantError:
            continue
        ours = found(f"https://sqs.{region}.{SUFFIX_OF.get(region, 'amazonaws.com')}/1/q")
        assert (ours.url, ours.region) == (theirs, region)


@pytest.mark.parametrize("variable", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"])
@pytest.mark.parametrize("client", ["wire", "boto3"])
@pytest.mark.parametrize(
    "base",
    [
        "http://127.0.0.1:9324",
        "https://sqs-fips.us-east-1.amazonaws.com",
        "https://vpce-1.sqs.us-east-1.vpce.amazonaws.com",
    ],
)
def test_a_host_that_is_not_the_regions_own_is_called_whatever_kind_the_sdk_is_to_choose(
    monkeypatch, variable, client, base
):
    """botocore has no FIPS host beside an endpoint of one's own, and says so: "cannot be combined"."""
    monkeypatch.setenv(variable, "true")
    assert found(f"{base}/1/q").url == f"{base}/"
    connect(f"{base}/1/q", client=client, wait_seconds=1, polls=1, settles=1)


def test_a_region_that_has_no_such_endpoint_is_a_finding(monkeypatch):
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    with pytest.raises(ConfigError, match=r"\[sqs\] cannot connect: .*dualstack"):
        found("https://sqs.eu-isoe-west-1.cloud.adc-e.uk/1/q")


@pytest.mark.parametrize(
    ("settings", "url", "region"),
    [
        ({}, "https://sqs.eu-central-1.amazonaws.com/", "eu-central-1"),
        ({"region": "us-west-2"}, "https://sqs.eu-central-1.amazonaws.com/", "eu-central-1"),
        ({"endpoint_url": "https://mine.example/sqs/"}, "https://mine.example/sqs/", "eu-central-1"),
        (
            {"endpoint_url": "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com"},
            "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/",
            "eu-central-1",
        ),
        ({"queue_url": LOCAL}, "http://127.0.0.1:9324/", "us-east-1"),
        ({"queue_url": LOCAL, "region": "us-west-2"}, "http://127.0.0.1:9324/", "us-west-2"),
        (
            {"queue_url": LOCAL, "endpoint_url": "https://sqs.eu-west-1.amazonaws.com"},
            "https://sqs.eu-west-1.amazonaws.com/",
            "eu-west-1",
        ),
    ],
)
def test_the_endpoint_of_the_settings_is_called_and_the_region_is_the_urls_where_it_has_one(settings, url, region):
    one = found(**settings)
    assert (one.url, one.region) == (url, region)


@pytest.mark.parametrize("source", ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL", "services", "profile"])
def test_an_endpoint_can_come_from_where_the_sdk_has_it(monkeypatch, tmp_path, source):
    mine = "https://sqs.mine.example:8443"
    if source == "services":
        text = f"[default]\nservices = here\n[services here]\nsqs =\n  endpoint_url = {mine}\n"
        (tmp_path / "config").write_text(text)
    elif source == "profile":
        (tmp_path / "config").write_text(f"[default]\nendpoint_url = {mine}\n")
    else:
        monkeypatch.setenv(source, mine)
    assert found().url == f"{mine}/"
    assert found(queue_url=LOCAL).url == "http://127.0.0.1:9324/"  # an emulator's URL is its own endpoint
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert found().url == "https://sqs.eu-central-1.amazonaws.com/"


def test_a_region_can_come_from_where_the_sdk_has_it(monkeypatch, tmp_path):
    (tmp_path / "config").write_text("[default]\nregion = eu-south-2\n[profile other]\nregion = eu-north-1\n")
    assert found(ANYWHERE).region == "eu-south-2"
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert found(ANYWHERE).region == "eu-north-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    assert found(ANYWHERE).region == "us-west-1"
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert found(ANYWHERE).region == "us-west-2"
    assert found(ANYWHERE, "sa-east-1").region == "sa-east-1"


@pytest.mark.parametrize(("url", "region"), [("https://localhost:4566", "us-east-1"), ("http://sqs:4566", "us-east-1")])
def test_only_an_emulator_needs_no_region(url, region):
    assert found(f"{url}/1/q").region == region
    with pytest.raises(ConfigError, match=r"region: set \[sqs\] region \(of a Producer: region=\), or AWS_REGION"):
        found("https://sqs.internal.example/1/q")


@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_a_missing_region_and_a_missing_profile_are_findings(monkeypatch, client):
    anywhere = {"queue_url": ANYWHERE, "wait_seconds": 1, "polls": 1, "settles": 1}
    with pytest.raises(ConfigError, match="AWS_REGION"):
        connect(client=client, **anywhere)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        connect(client=client, region="eu-west-1", **anywhere)


@pytest.mark.parametrize("source", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "profile"])
def test_the_ca_bundle_is_found_where_botocore_finds_it(monkeypatch, tmp_path, source):
    if source == "profile":
        (tmp_path / "config").write_text("[default]\nca_bundle = /mine.pem\n")
    else:
        monkeypatch.setenv(source, "/mine.pem")
    assert found().ca_file == "/mine.pem"


@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_an_empty_ca_bundle_is_a_finding_and_never_trust_in_everyone(monkeypatch, client):
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        with monkeypatch.context() as one:
            one.setenv(name, "")
            with pytest.raises(ConfigError, match="Invalid CA bundle"):
                connect(QUEUE, client=client, wait_seconds=1, polls=1, settles=1)


@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_a_ca_bundle_that_is_not_there_is_a_finding_at_boot(monkeypatch, client):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(ConfigError, match=r"the CA bundle /nowhere\.pem \(AWS_CA_BUNDLE"):
        connect(QUEUE, client=client, wait_seconds=1, polls=1, settles=1)


def test_without_a_ca_bundle_of_ones_own_it_is_everybodys():
    assert found().ca_file.endswith("cacert.pem")


@pytest.mark.parametrize(
    ("url", "environment", "client"),
    [
        (QUEUE, {}, "wire"),
        (QUEUE, {"HTTPS_PROXY": PROXY}, "boto3"),
        (QUEUE, {"https_proxy": PROXY}, "boto3"),
        (QUEUE, {"HTTP_PROXY": PROXY}, "wire"),
        (QUEUE, {"HTTPS_PROXY": PROXY, "NO_PROXY": ".amazonaws.com"}, "wire"),
        ("http://emulator.example:4566/1/q", {"HTTP_PROXY": PROXY}, "boto3"),
        ("http://127.0.0.1:4566/1/q", {"HTTP_PROXY": PROXY}, "wire"),
        ("http://localhost:4566/1/q", {"HTTP_PROXY": PROXY}, "wire"),
    ],
)
def test_where_a_proxy_applies_boto3_takes_over(monkeypatch, url, environment, client):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert connect(url, client="wire", wait_seconds=1, polls=1, settles=1).client == client


def test_the_client_is_the_settings_or_else_the_environments_or_else_ours(monkeypatch):
    def chosen(client: Any = None) -> str:
        return connect(LOCAL, client=client, wait_seconds=1, polls=1, settles=1).client

    monkeypatch.delenv("SQS_CLIENT", raising=False)
    assert chosen() == "wire"
    monkeypatch.setenv("SQS_CLIENT", "boto3")
    assert chosen() == "boto3"
    assert chosen("wire") == "wire"
    monkeypatch.setenv("SQS_CLIENT", "")
    assert chosen() == "wire"


def test_an_emulator_on_this_machine_gets_made_up_credentials_and_nobody_else(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert credentials_loader(found(LOCAL))().access_key == "local"
    assert credentials_loader(found())() is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert credentials_loader(found(LOCAL))().access_key == "mine"


ASSUMED = b"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>assumed</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""


def test_a_role_is_assumed_in_the_region_of_the_queue(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    sts = Server()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n"
    sts.script.append(head % len(ASSUMED) + ASSUMED)
    (tmp_path / "config").write_text(
        "[profile base]\naws_access_key_id = a\naws_secret_access_key = s\n"
        "[profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/mail\nsource_profile = base\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "deploy")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
    assert Credentials(credentials_loader(found())).keys() == Keys("assumed", "s", "t")
    assert b"/eu-central-1/sts/aws4_request" in sts.requests[0]
    sts.close()


def test_credentials_are_searched_anew_each_time(tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    load = credentials_loader(found())
    for key in ("first", "second"):
        (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")
        assert load().access_key == key


def test_the_two_boto3_clients_share_a_session_and_have_their_own_time_outs_and_no_retries(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    sqs = BotoSqs(QUEUE, "", "", wait_seconds=20, polls=3, settles=4)
    configs = [client.meta.config for client in (sqs.poll, sqs.settle)]
    assert [one.read_timeout for one in configs] == [30, 10]
    assert [one.connect_timeout for one in configs] == [5, 5]
    assert [one.max_pool_connections for one in configs] == [3, 4]
    assert [one.retries["total_max_attempts"] for one in configs] == [1, 1]
    assert sqs.poll._get_credentials() is sqs.settle._get_credentials()
    assert sqs.poll.meta.endpoint_url == "https://sqs.eu-central-1.amazonaws.com"
