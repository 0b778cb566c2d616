"""Where SQS is and who we are there, as botocore finds it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import msgspec
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, NoRegionError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from millpond.errors import ConfigError


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of SQS. `ca_file`: the certificates it is checked with; `proxied`: it is reached by a proxy."""

    url: str
    region: str
    ca_file: str
    proxied: bool


def find_endpoint(queue_url: str, region: str, endpoint_url: str) -> Endpoint:
    """Region and endpoint by the settings, or else by the queue's URL, or else where the SDK's own settings have them.

    Raises ConfigError where no region is to be found, and where the AWS configuration is unreadable.
    """
    own = endpoint_url or own_endpoint(queue_url)
    try:
        session = botocore.session.get_session()
        url, region = _asked(session, region or region_of(queue_url), own)
    except NoRegionError:
        raise ConfigError(f"{queue_url}: no region; set [sqs] region (AWS_REGION)") from None
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"[sqs] cannot connect: {error}") from None
    proxied = not is_loopback(url) and urlsplit(url).scheme in get_environ_proxies(url)
    return Endpoint(url, region, ca_file(session), proxied)


def ca_file(session: Any) -> str:
    """The certificates that servers are checked with: what the configuration names, or else certifi's."""
    bundle = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return str(get_cert_path(bundle or True))


def _asked(session: Any, region: str, endpoint_url: str | None) -> tuple[str, str]:
    """Endpoint and region of a request that botocore builds and signs, and that never leaves.

    So every rule of its own counts: partitions, FIPS, dual-stack, AWS_ENDPOINT_URL_SQS, the configuration file.
    """
    requests = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        requests.append(request)
        return AWSResponse(request.url, 200, {}, _Nothing())

    client = session.create_client(
        "sqs",
        region_name=region or None,
        endpoint_url=endpoint_url,
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",  # noqa: S106  it signs what is thrown away
        config=Config(parameter_validation=False),
    )
    client.meta.events.register("before-send.sqs", answer)
    client.list_queues()
    scope = requests[0].headers["Authorization"].decode().split("/")
    return requests[0].url, scope[2]


class _Nothing:
    def stream(self) -> tuple[bytes]:
        return (b"{}",)


def region_of(queue_url: str) -> str:
    """The region in a queue's URL; "" where it names none."""
    host = urlsplit(queue_url).hostname or ""
    parts = host.split(".")
    if is_aws(queue_url) and parts[0] == "sqs" and len(parts) > 3:
        return parts[1]
    if is_aws(queue_url):
        return ""
    return os.environ.get("AWS_DEFAULT_REGION", "us-east-1")  # an emulator has no region of its own


def own_endpoint(queue_url: str) -> str | None:
    """None lets botocore decide; a queue that is not at AWS is its own endpoint."""
    if is_aws(queue_url):
        return None
    parts = urlsplit(queue_url)
    return f"{parts.scheme}://{parts.netloc}"


def is_aws(queue_url: str) -> bool:
    """Whether this URL is one of Amazon's own."""
    host = urlsplit(queue_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def is_loopback(url: str) -> bool:
    """Whether this URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def needs_no_credentials(endpoint_url: str | None) -> bool:
    """An emulator on this machine checks none: made-up ones save a search that takes seconds."""
    return endpoint_url is not None and is_loopback(endpoint_url) and not os.environ.get("AWS_ACCESS_KEY_ID")


def credentials_loader(endpoint: Endpoint) -> Callable[[], Any]:
    """A search along botocore's chain of providers, from its beginning each time; None where none has any."""

    def load() -> Any:
        if needs_no_credentials(endpoint.url):
            return Credentials("local", "local")
        session = botocore.session.get_session()
        session.set_config_variable("region", endpoint.region)  # for STS, where a provider asks it
        return session.get_credentials()

    return load
