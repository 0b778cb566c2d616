"""Calls to one table of DynamoDB by botocore, and the sentence that each failure becomes."""

from __future__ import annotations

import os
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from millpond.claims.table_errors import store_error
from millpond.errors import ConfigError, QueueError
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.hub.home import within
from millpond.sqs.codes import KEY_CODES
from millpond.sqs.credentials import Credentials, SdkKeys, credentials_loader
from millpond.sqs.endpoint import EMULATOR_REGION, Endpoint
from millpond.sqs.queue_url import is_loopback

#: DynamoDB answers within 10 ms: a connection or an answer that takes this long is not worth a longer wait, since the
#: message waits meanwhile in a slot.
TABLE_CONNECT_SECONDS, TABLE_READ_SECONDS = 2.0, 5.0
#: How often one call is sent: botocore waits 1 s at most before the second time, 2 s before the third.
TABLE_ATTEMPTS = 3
#: All of one call, name look-ups and credentials included.
TABLE_CALL_SECONDS = 15.0


class Refused(Exception):
    """A condition did not hold: nothing was written. `item`: what stands there; None: nothing, or it was not asked."""

    def __init__(self, item: dict[str, Any] | None) -> None:
        super().__init__("the condition does not hold")
        self.item = item


class TableClient:
    """One table. `connections`: calls that can be under way at once. Raises ConfigError where botocore cannot call."""

    def __init__(self, table: str, region: str, connections: int) -> None:
        self.table = table
        self._credentials = Credentials(lambda: credentials_loader(self._endpoint)())
        core = botocore.session.get_session()
        core.register_component("credential_provider", SdkKeys(self._credentials))
        try:
            self._client = _client(core, region or _own_region(core), connections)
        except (BotoCoreError, ValueError) as error:
            text = "set [idempotency] region, or AWS_REGION, and look at the AWS configuration"
            raise ConfigError(f"[idempotency] table = {shown(table)} cannot be called: {error}: {text}") from None
        self.region: str = self._client.meta.region_name
        self.url: str = self._client.meta.endpoint_url
        self._endpoint = Endpoint(self.url, self.region, "", proxied=False)

    def call(self, name: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a call on the table. Raises Refused, and ClaimStoreError for every other failure."""
        try:
            return within(TABLE_CALL_SECONDS, lambda: self._signed(name, {"TableName": self.table, **parameters}))
        except TimeoutError:
            raise store_error(self, name, "", f"no answer in {TABLE_CALL_SECONDS:g} s") from None
        except ClientError as error:
            told = error.response.get("Error", {})
            code = shown(told.get("Code", ""), 100)
            if code == "ConditionalCheckFailedException":
                raise Refused(error.response.get("Item")) from None
            raise store_error(self, name, code, shown(told.get("Message") or error)) from error
        except QueueError as error:  # credentials: there are none, or their provider does not answer
            raise store_error(self, name, error.code, shown(error)) from error
        except Exception as error:  # botocore stumbles over garbage with KeyError, AttributeError and worse
            raise store_error(self, name, "", describe(error)) from error

    def _signed(self, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """A call that is made once; twice only where its keys are refused and there are others."""
        keys = self._credentials.keys()
        method = getattr(self._client, xform_name(name))
        try:
            answer: dict[str, Any] = method(**parameters)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in KEY_CODES or self._credentials.renew(keys) == keys:
                raise
            answer = method(**parameters)
        return answer


def _client(core: Any, region: str, connections: int) -> Any:
    config = Config(
        connect_timeout=TABLE_CONNECT_SECONDS,
        read_timeout=TABLE_READ_SECONDS,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": TABLE_ATTEMPTS},
        tcp_keepalive=True,
        # Our requests are right: checking them costs 100 us a call, and so does the long user agent.
        parameter_validation=False,
        user_agent="millpond",
    )
    return core.create_client("dynamodb", region_name=region or None, config=config)


def _own_region(core: Any) -> str:
    """The region of this process; "" where it has none. An emulator on this machine needs none."""
    own = os.environ.get("AWS_REGION") or core.get_config_variable("region")
    return own or (EMULATOR_REGION if is_loopback(os.environ.get("AWS_ENDPOINT_URL_DYNAMODB", "")) else "")
