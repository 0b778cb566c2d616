"""Which secrets are known, for how long, and which settings are some."""

from __future__ import annotations

import pytest

from millpond.foreign.secrets import MAX_SECRETS, MIN_SECRET, Renewed, conceal, conceal_environment, conceal_value
from millpond.foreign.text import shown


def test_what_is_too_short_for_a_secret_hides_nothing():
    conceal("z" * (MIN_SECRET - 1))
    conceal("w" * MIN_SECRET)

    assert shown(f"a {'z' * (MIN_SECRET - 1)} word") == f"a {'z' * (MIN_SECRET - 1)} word"
    assert shown(f"a {'w' * MIN_SECRET} word") == "a *** word"
    assert shown("w" * MIN_SECRET) == "***"


def test_of_keys_that_are_renewed_for_ever_the_last_ones_are_known():
    for number in range(MAX_SECRETS + 1):
        conceal(f"renewed-key-{number:04}")
    conceal("renewed-key-0001")
    conceal("renewed-key-9999")

    assert shown("renewed-key-0000 renewed-key-0002") == "renewed-key-0000 renewed-key-0002"
    assert shown("renewed-key-0001 renewed-key-0200 renewed-key-9999") == "*** *** ***"


def test_renewed_keys_are_hidden_for_two_generations_and_drive_no_other_secret_out():
    conceal("a-secret-of-the-settings")
    renewed = Renewed()
    for number in range(MAX_SECRETS + 1):
        renewed.conceal([f"access-key-{number:04}", f"secret-key-{number:04}", "the-same-token-always"])
        renewed.conceal([f"access-key-{number:04}", f"secret-key-{number:04}", "the-same-token-always"])

    assert shown("access-key-0200 secret-key-0199 the-same-token-always") == "*** *** ***"
    assert shown("access-key-0198 secret-key-0198") == "access-key-0198 secret-key-0198"
    assert shown("a-secret-of-the-settings") == "***"


def test_keys_that_one_owner_has_replaced_are_hidden_where_the_settings_have_them_too():
    conceal("key-of-the-settings")
    renewed = Renewed()
    for key in ("key-of-the-settings", "a-later-key", "an-even-later-key"):
        renewed.conceal([key])

    assert shown("key-of-the-settings") == "***"


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("SMTP_PASS", "name-21 value", True),
        ("DB_PASS", "name-22 value", True),
        ("dbpass", "name-23 value", True),
        ("pass", "name-24 value", True),
        ("REDIS_PASS_2", "name-25 value", True),
        ("MYSQL_PWD", "name-26 value", True),
        ("PASSPHRASE", "name-27 value", True),
        ("key_passphrase", "name-28 value", True),
        ("PWD", "/name-29/value", False),
        ("OLDPWD", "/name-30/value", False),
        ("bypass", "name-31 value", False),
        ("COMPASS", "name-32 value", False),
        ("passenger", "name-33 value", False),
        ("PGPASSFILE", "/name-34/value", False),
        ("SMTP_PASSWORD", "name-1 value", True),
        ("api_key", "name-2 value", True),
        ("APIKEY", "name-3 value", True),
        ("key", "name-4 value", True),
        ("client_secret", "name-5 value", True),
        ("SESSION_TOKEN", "name-6 value", True),
        ("SENTRY_DSN", "name-7 value", True),
        ("credentials", "name-8 value", True),
        ("ENCRYPTION_KEY_2", "name-41 value", True),
        ("BASIC_AUTH", "name-42:value", True),
        ("Authorization", "Bearer name-43", True),
        ("JWT", "eyname-44", True),
        ("GITHUB_PAT", "ghp_name-45", True),
        ("SESSION_COOKIE", "name-46 value", True),
        ("PASSWORD_SALT", "name-47 value", True),
        ("SLACK_WEBHOOK_URL", "https://hooks.example/name-48", True),
        ("STORAGE_CONNECTION_STRING", "name-49 value", True),
        ("AUTHOR", "name-50 value", False),
        ("AUTH_HOST", "name-51 value", False),
        ("COOKIE_NAME", "name-52 value", False),
        ("PATH", "/name-53/value", False),
        ("SESSION_COOKIE_DOMAIN", "name-54.example", False),
        ("keyspace", "name-9 value", False),
        ("monkey", "name-10 value", False),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/name-11", False),
        ("secret_arn", "arn:aws:name-12", False),
        ("host", "name-13 value", False),
        ("prefix", "millpond-prod", False),
        ("prefix", "millpond-9c1d", False),
        ("prefix", "1f0c3a7e-9c1d-4bd2", True),
        ("prefix", "stats.2f0c3a7e-9c1d-4bd2.worker", True),
        ("prefix", "a-prefix-without-digits", False),
        ("prefix", "3f0c3a7e-9c1d-4b", True),
        ("prefix", "4f0c3a7e-9c1d-4", False),
    ],
)
def test_a_setting_is_a_secret_by_its_name_or_its_looks(name, value, hidden):
    conceal_value(name, value)
    part = next((part for part in value.split(".") if "9c1d" in part), value)

    assert shown(f"it is {part} here") == ("it is *** here" if hidden else f"it is {part} here")


def test_a_password_in_any_url_of_the_environment_is_a_secret():
    conceal_environment({"CLOUD_URL": "amqp://ann:p%2Fss-of-a-url@host:1/x", "NO_URL": "x://ann:pw@[::1/x"})

    assert shown("p%2Fss-of-a-url p/ss-of-a-url") == "*** ***"
