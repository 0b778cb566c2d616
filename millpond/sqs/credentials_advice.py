"""What mends an error of credentials, by where this process has them from."""

from __future__ import annotations

from collections.abc import Mapping

from millpond.errors import AccessDenied, QueueError
from millpond.foreign.text import shown

NO_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the task or pod a role"


def with_advice(error: QueueError, environ: Mapping[str, str]) -> str:
    """The error's text; with what mends it, where it is the credentials and no single right."""
    if not isinstance(error, AccessDenied) or error.code.startswith("AccessDenied"):
        return str(error)
    return f"{without_advice(error, environ)}: {mend_credentials(error.code, environ)}"


def without_advice(error: QueueError, environ: Mapping[str, str]) -> str:
    """The error's text alone: that of credentials that cannot be had ends with what mends it."""
    return str(error).removesuffix(f": {mend_credentials(error.code, environ)}")


def mend_credentials(code: str, environ: Mapping[str, str]) -> str:
    """What mends an error of credentials: by the profile, the SSO session or the role that this process uses."""
    profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or ""
    login = f"aws sso login --profile {shown(profile)}" if profile else "aws sso login"
    if "SSO" in code or code in ("TokenRetrievalError", "UnauthorizedException"):
        return f"the SSO session is over: {login}"
    if role := environ.get("AWS_ROLE_ARN"):
        return f"the role is {shown(role)} (AWS_ROLE_ARN): look at its trust policy and at its policies"
    if environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return "the keys are of the task's role (taskRoleArn, not the execution role): look at its policies"
    if profile:
        return f"the profile is {shown(profile)} (AWS_PROFILE): look at it in ~/.aws/config, or try {login}"
    if environ.get("AWS_ACCESS_KEY_ID"):
        return "the keys are those of AWS_ACCESS_KEY_ID: look whether they are active, and whose they are"
    return NO_KEYS
