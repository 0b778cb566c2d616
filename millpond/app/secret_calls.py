"""The calls that read secrets: AWS Secrets Manager and the Parameter Store of Systems Manager, by botocore."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from millpond.app.secret_references import Fetched, SecretPlace
from millpond.errors import ConfigError, QueueError
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.sqs.codes import DENIED_CODES
from millpond.sqs.credentials import Credentials, SdkKeys, credentials_loader
from millpond.sqs.endpoint import service_endpoint
from millpond.sqs.queue_url import is_loopback

SECRET_CONNECT_SECONDS, SECRET_ANSWER_SECONDS = 3.0, 5.0
#: How often one call is sent: a new service's first seconds, a throttle.
SECRET_ATTEMPTS = 3
#: All references of a file are read at once, each over its own connection.
SECRET_CONNECTIONS = 50
MISSING_SECRET_CODES = frozenset({"ResourceNotFoundException", "ParameterNotFound", "ParameterVersionNotFound"})
#: The secret is denied by the key that encrypts it.
KEY_DENIED_CODES = frozenset({"DecryptionFailure", "InvalidKeyId", "KMSAccessDeniedException"})


class _Service(NamedTuple):
    title: str
    right: str
    call: str  # without a parameter: by it the endpoint is found


SERVICES = {
    "secretsmanager": _Service("Secrets Manager", "secretsmanager:GetSecretValue", "list_secrets"),
    "ssm": _Service("the Parameter Store", "ssm:GetParameter", "describe_parameters"),
}


class SecretReader:
    """Reads these secrets, from any number of threads or greenlets: one client for each service and region."""

    def __init__(self, places: Iterable[SecretPlace]) -> None:
        wanted = {(place.service, place.region) for place in places}
        self._clients = {key: _client_or_error(*key) for key in wanted}

    def read(self, place: SecretPlace) -> Fetched:
        """What is kept there. Raises ConfigError: why it cannot be read, and what helps; never what is kept there."""
        client = self._clients[place.service, place.region]
        if isinstance(client, ConfigError):
            raise client
        try:
            return _read(client, place)
        except ClientError as error:
            raise ConfigError(_refused(error, place, client.meta.region_name)) from None
        except QueueError as error:  # credentials: there are none, or their provider does not answer
            raise ConfigError(shown(error)) from None
        except ConfigError:
            raise
        except Exception as error:  # botocore stumbles over garbage with KeyError, AttributeError and worse
            raise ConfigError(f"{SERVICES[place.service].title} gives no answer: {describe(error)}") from None


def _client_or_error(service: str, region: str) -> Any:
    try:
        return _new_client(service, region)
    except ConfigError as error:
        return error
    except (BotoCoreError, ValueError) as error:
        return ConfigError(f"{SERVICES[service].title} cannot be called: {shown(error)}")


def _new_client(service: str, region: str) -> Any:
    """A client with our own keys, which no call waits for without end."""
    endpoint = service_endpoint(service, SERVICES[service].call, region)
    if not endpoint.region:
        raise ConfigError("its region is not known: set AWS_REGION, or write its ARN in the place of its name")
    session = botocore.session.get_session()
    session.register_component("credential_provider", SdkKeys(Credentials(credentials_loader(endpoint))))
    config = Config(
        connect_timeout=SECRET_CONNECT_SECONDS,
        read_timeout=SECRET_ANSWER_SECONDS,
        max_pool_connections=SECRET_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": SECRET_ATTEMPTS},
        # HTTP_PROXY is not meant for this machine itself, and NO_PROXY often forgets it.
        proxies={} if is_loopback(endpoint.url) else None,
        # The endpoint is found already; botocore refuses one beside these.
        use_fips_endpoint=False,
        use_dualstack_endpoint=False,
    )
    url = endpoint.url.rstrip("/")
    return session.create_client(service, region_name=endpoint.region, endpoint_url=url, config=config)


def _read(client: Any, place: SecretPlace) -> Fetched:
    if place.service == "ssm":
        found = client.get_parameter(Name=place.name, WithDecryption=True).get("Parameter", {})
        return Fetched(_text(found.get("Value"), place), hidden=found.get("Type") not in ("String", "StringList"))
    answer = client.get_secret_value(SecretId=place.name)
    if "SecretString" not in answer and "SecretBinary" in answer:
        raise ConfigError("what is kept there is binary: a text is needed")
    return Fetched(_text(answer.get("SecretString"), place), hidden=True)


def _text(value: object, place: SecretPlace) -> str:
    if not isinstance(value, str):  # a page with status 200
        title = SERVICES[place.service].title
        raise ConfigError(f"the answer is not from {title}: look at what stands between it and the worker (a proxy)")
    return value


def _refused(error: ClientError, place: SecretPlace, region: str) -> str:
    """What a refusal means, and what helps."""
    answer, service = error.response.get("Error", {}), SERVICES[place.service]
    code, said = shown(answer.get("Code", ""), 100), shown(answer.get("Message", ""))
    if code in MISSING_SECRET_CODES:
        return f"{service.title} has none of this name in {region}: create it, or correct its name or the region"
    if code in KEY_DENIED_CODES:
        return f"its key does not decrypt it: give the worker's role kms:Decrypt on that key ({code}: {said})"
    if code in DENIED_CODES:
        return f"{service.title} refuses: give the worker's role {service.right} on it ({code}: {said})"
    return f"{service.title} refuses: {code}: {said}"
