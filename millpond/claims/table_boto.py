"""Calls to one table of DynamoDB by botocore: where a proxy is in the way, or by [sqs] client = "boto3"."""

from __future__ import annotations

from typing import Any

import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from millpond.claims.table_errors import REFUSED, Refused, store_error
from millpond.claims.table_wire import TABLE_ANSWER_SECONDS, TABLE_CALL_SECONDS
from millpond.errors import ConfigError, QueueError
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.hub.home import within
from millpond.sqs.codes import KEY_CODES
from millpond.sqs.credentials import Credentials, SdkKeys, credentials_loader
from millpond.sqs.endpoint import Endpoint

TABLE_CONNECT_SECONDS = 2.0
#: How often one call is sent: botocore waits 1 s at most before the second time, 2 s before the third.
TABLE_ATTEMPTS = 3


class BotoTable:
    """One table. `connections`: calls that can be under way at once. Raises ConfigError where botocore cannot call."""

    def __init__(self, table: str, endpoint: Endpoint, connections: int) -> None:
        self.table = table
        self.region = endpoint.region
        self.url = endpoint.url
        self._credentials = Credentials(credentials_loader(endpoint))
        core = botocore.session.get_session()
        core.register_component("credential_provider", SdkKeys(self._credentials))
        try:
            self._client = _client(core, endpoint, connections)
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"[idempotency] table = {shown(table)} cannot be called: {error}") from None

    def call(self, name: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a call on the table. Raises Refused, and ClaimStoreError for every other failure."""
        try:
            return within(TABLE_CALL_SECONDS, lambda: self._signed(name, {"TableName": self.table, **parameters}))
        except TimeoutError:
            raise store_error(self, name, "", f"no answer in {TABLE_CALL_SECONDS:g} s") from None
        except ClientError as error:
            said = error.response.get("Error", {})
            code = shown(said.get("Code", ""), 100)
            if code == REFUSED:
                raise Refused(error.response.get("Item")) from None
            raise store_error(self, name, code, shown(said.get("Message") or error)) from error
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


def _client(core: Any, endpoint: Endpoint, connections: int) -> Any:
    config = Config(
        connect_timeout=TABLE_CONNECT_SECONDS,
        read_timeout=TABLE_ANSWER_SECONDS,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": TABLE_ATTEMPTS},
        tcp_keepalive=True,
        # The endpoint is found already; botocore refuses one beside these.
        use_fips_endpoint=False,
        use_dualstack_endpoint=False,
        # Our requests are right: checking them costs 100 us a call, and so does the long user agent.
        parameter_validation=False,
        user_agent="millpond",
    )
    url = endpoint.url.rstrip("/")
    return core.create_client("dynamodb", region_name=endpoint.region, endpoint_url=url, config=config)
