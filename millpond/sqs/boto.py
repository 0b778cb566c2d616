"""SQS by boto3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectionClosedError, ReadTimeoutError

from millpond.errors import ConfigError, QueueError, Unanswered, Unreachable
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.hub.home import within
from millpond.sqs import answers
from millpond.sqs.codes import KEY_CODES
from millpond.sqs.connection_pool import CONNECT_SECONDS, tls_context
from millpond.sqs.credentials import Credentials, SdkKeys, credentials_loader
from millpond.sqs.endpoint import find_endpoint
from millpond.sqs.http_connection import TOO_LARGE
from millpond.sqs.queue import CALL_SECONDS, POLL_GRACE_SECONDS
from millpond.sqs.queue_url import is_loopback
from millpond.sqs.requests import Request, as_parameters
from millpond.sqs.shapes import MAX_TOLD
from millpond.sqs.signed_calls import moment_of
from millpond.sqs.sqs_queue import Sqs

Read = TypeVar("Read")


class BotoSqs(Sqs):
    """SQS by two boto3 clients of one session: a throttled or hung poll takes no connection from the calls that settle.

    See `clients.connect` for the arguments, and for what it raises.
    """

    client = "boto3"

    def __init__(
        self, queue_url: str, region: str, endpoint_url: str, wait_seconds: int, polls: int, settles: int
    ) -> None:
        endpoint = find_endpoint(queue_url, region, endpoint_url)
        self.endpoint_url = url = endpoint.url.rstrip("/")
        self.credentials = Credentials(credentials_loader(endpoint))
        try:
            core = botocore.session.get_session()
            core.register_component("credential_provider", SdkKeys(self.credentials))
            session = boto3.Session(botocore_session=core, region_name=endpoint.region)
            self.poll = _client(session, url, wait_seconds + POLL_GRACE_SECONDS, polls)
            self.settle = _client(session, url, CALL_SECONDS, settles)
            tls_context(endpoint.ca_file)  # else the first call would find that it cannot be read
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"[sqs] cannot connect: {error}") from None

    def call(self, name: str, request: Request, seconds: float, read: Callable[[bytes | bytearray], Read]) -> Read:
        parameters = as_parameters(request)
        try:
            return within(seconds, lambda: self._call(name, parameters, read))
        except TimeoutError:
            raise Unanswered(f"{name}: no answer in {seconds:.3g} s") from None

    def _call(self, name: str, parameters: dict[str, Any], read: Callable[[bytes], Read]) -> Read:
        method = getattr(self.poll if name == "ReceiveMessage" else self.settle, xform_name(name))
        try:
            return read(self._answer(method, parameters)["body"])
        except Exception as error:  # botocore stumbles over garbage with KeyError, AttributeError and worse
            raise _queue_error(name, error) from error

    def date(self, request: Request) -> float | None:
        asked = lambda: self._answer(self.settle.get_queue_attributes, as_parameters(request))  # noqa: E731
        try:
            return moment_of(within(CALL_SECONDS, asked)["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
        except Exception as error:
            raise _queue_error("GetQueueAttributes", error) from error

    def _answer(self, method: Callable[..., Any], parameters: dict[str, Any]) -> dict[str, Any]:
        """The answer to a call that is made once; twice only where SQS refuses the keys and there are others."""
        keys = self.credentials.keys()
        try:
            answer: dict[str, Any] = method(**parameters)
        except QueueError as error:
            if error.code not in KEY_CODES or self.credentials.renew(keys) == keys:
                raise
            answer = method(**parameters)
        return answer


def _client(session: boto3.Session, endpoint_url: str, read_seconds: int, connections: int) -> Any:
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        # No retries by the SDK: after a read time-out each would strand another batch, and settling has its own.
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
        # HTTP_PROXY is not meant for this machine itself, and NO_PROXY often forgets it.
        proxies={} if is_loopback(endpoint_url) else None,
        # The endpoint is found already; botocore refuses one beside these.
        use_fips_endpoint=False,
        use_dualstack_endpoint=False,
        # Our requests are right: checking them costs 100 us a call, and so does the long user agent.
        parameter_validation=False,
        user_agent="millpond",
    )
    client = session.client("sqs", endpoint_url=endpoint_url, config=config)
    client.meta.events.register("before-parse.sqs", _keep_body)
    return client


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Keep the answer for our own readers, and give botocore an empty one to parse. Raises QueueError for a refusal.

    botocore would take a proxy's page for an empty receive, would fail as a whole where one message is not as SQS
    writes it, and would take four times as long.
    """
    headers, body = response_dict["headers"], response_dict["body"]
    if response_dict["status_code"] != 200:
        raise answers.error_of(response_dict["status_code"], headers.get("x-amzn-query-error", ""), body)
    content_type = headers.get("content-type", "")
    if "json" not in content_type:
        raise ValueError(f"the answer is {content_type or 'of no content type'}, not JSON")
    customized_response_dict["body"], response_dict["body"] = body, b"{}"


def _queue_error(call: str, error: Exception) -> QueueError:
    if isinstance(error, QueueError):
        return type(error)(f"{call}: {shown(error, MAX_TOLD)}", error.code)
    if isinstance(error, MemoryError):
        return Unreachable(f"{call}: no memory for the answer", TOO_LARGE)
    if isinstance(error, BotoCoreError) and not isinstance(error, ReadTimeoutError | ConnectionClosedError):
        return Unreachable(f"{call}: {describe(error)}")
    return Unanswered(f"{call}: {describe(error)}")
