"""find_endpoint(): which host is called and for which region, by our settings and by those of botocore."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import msgspec
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from millpond.errors import ConfigError
from millpond.foreign.text import shown
from millpond.sqs.queue_url import Place, is_loopback, place_of

#: An emulator has no region of its own; what it makes its ARNs of does not matter here.
EMULATOR_REGION = "us-east-1"


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of SQS. `ca_file`: the certificates that it is checked with. `proxied`: a proxy is in the way."""

    url: str
    region: str
    ca_file: str
    proxied: bool


def find_endpoint(queue_url: str, region: str, endpoint_url: str) -> Endpoint:
    """The endpoint of this queue: the host in its URL is called, and requests are signed for the region in its URL.

    `endpoint_url` is called instead; without it, and for a host of Amazon's, what the SDK's own settings name. `region`
    counts only where the URL names none, and after it AWS_REGION, AWS_DEFAULT_REGION and the profile. Raises
    ConfigError where there is no region, and where the AWS configuration cannot be read.
    """
    place = place_of(queue_url)
    called = place_of(endpoint_url) if endpoint_url else place
    try:
        session = botocore.session.get_session()
        region = place.region or called.region or region or _own_region(session, called)
        if not region:
            where = "[sqs] region (of a Producer: region=), or AWS_REGION"
            raise ConfigError(f"{shown(called.endpoint_url)} names no region: set {where}")
        url = endpoint_url or _url(session, place, region)
        return endpoint_at(url, region, session)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"[sqs] cannot connect: {error}") from None


def service_endpoint(service: str, call: str, region: str, endpoint_url: str = "") -> Endpoint:
    """The endpoint of another service: `endpoint_url`, or as botocore finds it, in this region or the process's own.

    Its region is "" where there is none: an emulator on this machine needs none. `call`: one that needs no parameter.
    Raises BotoCoreError, and ValueError, where the AWS configuration is wrong.
    """
    session = botocore.session.get_session()
    region = region or os.environ.get("AWS_REGION") or session.get_config_variable("region") or ""
    if not region and is_loopback(endpoint_url or _own_endpoint(session, service)):
        region = EMULATOR_REGION
    if not region:
        return Endpoint("", "", "", proxied=False)
    return endpoint_at(endpoint_url or called_by_sdk(session, service, call, region), region, session)


def _own_endpoint(session: Any, service: str) -> str:
    """What the environment says of this service, or of all: AWS_ENDPOINT_URL_SECRETS_MANAGER, AWS_ENDPOINT_URL."""
    name = session.get_service_model(service).service_id.upper().replace(" ", "_")
    return os.environ.get(f"AWS_ENDPOINT_URL_{name}") or os.environ.get("AWS_ENDPOINT_URL", "")


def endpoint_at(url: str, region: str, session: Any) -> Endpoint:
    """The endpoint of this URL, with what the SDK's settings say of certificates and proxies."""
    proxied = not is_loopback(url) and urlsplit(url).scheme in get_environ_proxies(url)
    return Endpoint(f"{url.rstrip('/')}/", region, ca_file(session), proxied)


def _own_region(session: Any, called: Place) -> str:
    """The region of this process; "" where it has none. An endpoint without TLS can only be an emulator."""
    own = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    return own or (
        "" if called.endpoint_url.startswith("https:") and not is_loopback(called.endpoint_url) else EMULATOR_REGION
    )


def _url(session: Any, place: Place, region: str) -> str:
    """The URL that is called where our settings name none."""
    if not place.aws:
        return place.endpoint_url
    url = called_by_sdk(session, "sqs", "list_queues", region, variants=place.regional)
    return url if place.regional or not place_of(url).regional else place.endpoint_url


def ca_file(session: Any) -> str:
    """The file of certificates that servers are checked with: by the configuration, or else certifi's."""
    bundle = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return str(get_cert_path(bundle or True))


def called_by_sdk(session: Any, service: str, call: str, region: str, *, variants: bool = True) -> str:
    """The endpoint of a service that botocore would call: it builds and signs a request, which is never sent.

    So all its rules count: partitions, AWS_ENDPOINT_URL_SQS, the configuration file, and with `variants` FIPS and
    dual-stack.
    """
    requests = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        requests.append(request)
        return AWSResponse(request.url, 200, {}, _Nothing())

    plain = {} if variants else {"use_fips_endpoint": False, "use_dualstack_endpoint": False}
    client = session.create_client(
        service,
        region_name=region,
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",  # noqa: S106  it signs what is thrown away
        config=Config(parameter_validation=False, **plain),
    )
    client.meta.events.register(f"before-send.{service}", answer)
    getattr(client, call)()
    [request] = requests
    return str(request.url)


class _Nothing:
    def stream(self) -> tuple[bytes]:
        return (b"",)
