"""What others have written: cut, escaped, without secrets; whatever it is, nothing here raises."""

from __future__ import annotations

import json
import time
import traceback
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import pytest

from millpond import foreign
from millpond.errors import Stopped


class Nasty(Exception):
    """Everything that can be asked of it raises."""

    def __getattribute__(self, name: str) -> object:
        raise SystemExit(f"no {name}")

    def __str__(self) -> str:
        raise SystemExit("no text")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\x9bb\u2028c\x85d\u202ee", "a\\x9bb\\u2028c\\x85d\\u202ee"),
        ("half \ud800", "half \\ud800"),
        ("grüße 🙂", "grüße 🙂"),
    ],
)
def test_what_could_move_a_terminal_or_end_a_line_is_escaped(text, shown):
    assert foreign.shown(text) == shown


def test_a_text_of_fifteen_megabytes_is_cut():
    assert foreign.shown("x" * 15_000_000) == "x" * 497 + "..."


@pytest.mark.parametrize("make", [str, lambda secret: json.dumps(secret)[1:-1], lambda secret: quote(secret, safe="")])
def test_a_known_secret_is_not_shown_in_any_form(make):
    secret = 'p"ss/wörd+1='
    foreign.conceal(secret)

    assert foreign.shown(f"before {make(secret)} behind") == "before *** behind"


@pytest.mark.parametrize("room", range(480, 505))
def test_no_half_of_a_secret_is_left_where_a_text_is_cut(room):
    foreign.conceal("SECRET-0123456789")

    assert "SECRET" not in foreign.shown("x" * room + "SECRET-0123456789" + "y" * 20_000)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: HIDEME",
        "x-amz-security-token=HIDEME&b",
        '{"SecretAccessKey": "HIDEME"}',
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=HIDEME==;EndpointSuffix=b",
        "https://ann:HIDEME@host/queue",
        "AWS4-HMAC-SHA256 Credential=A/b, Signature=0123456789abcdef0123",
    ],
)
def test_what_looks_like_credentials_is_not_shown(text):
    shown = foreign.shown(text)

    assert "HIDEME" not in shown
    assert "0123456789abcdef" not in shown


def test_an_error_that_raises_whatever_it_is_asked_has_its_name():
    assert foreign.describe(Nasty()) == "Nasty"
    assert foreign.trace(Nasty()).endswith("Nasty: <Nasty>")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ValueError("")], ids=repr)
def test_an_error_that_says_nothing_is_its_name_alone(error):
    assert foreign.describe(error) == type(error).__name__


class Liar(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    "name", ["\x1b[2Ja\n\u2028\u202eb", "x" * 1_000_000, "the " + "n4me-of-a-secret", Liar("name")]
)
def test_the_name_of_a_type_is_a_short_line_too(name):
    foreign.conceal("n4me-of-a-secret")
    kind = type("Odd", (Exception,), {})
    kind.__name__ = name
    for told in (
        foreign.describe(kind("why")),
        foreign.trace(kind("why")),
        foreign.shown(kind(kind)),
        foreign.type_name(kind()),
    ):
        assert told.isprintable()
        assert len(told) < 700
        assert "secret" not in told
    assert foreign.describe(kind("why")).endswith(": why")


def test_a_syntax_error_with_fields_of_wrong_types_has_a_traceback():
    error = SyntaxError("bad")
    error.lineno, error.text, error.offset = "seven", 5, object()  # type: ignore[assignment]
    with pytest.raises(SyntaxError) as raised:
        raise error

    assert "SyntaxError" in foreign.trace(raised.value)


def test_an_interrupt_of_the_engine_goes_on():
    class Slow:
        def __str__(self) -> str:
            raise Stopped

    with pytest.raises(Stopped):
        foreign.shown(Slow())


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("5", 5),
        (7, 7),
        (" 8 ", 8),
        (0, 0),
        (1_000, 1_000),
        ("1000", 1_000),
        (1_001, 1),
        ("9" * 400, 1),
        (10**400, 1),
        ("-3", 1),
        (-3, 1),
        (None, 1),
        ("x", 1),
        (2.5, 1),
        ("", 1),
    ],
)
def test_a_number_is_read_within_its_bounds(value, number):
    assert foreign.number(value, 0, 1_000, 1) == number


# --- secrets


@pytest.mark.parametrize("before", ["", "u", "us", "user", "\0user\0", "grüße "])
def test_a_secret_within_base64_is_not_shown(before):
    foreign.conceal("base64-of-a-secret")
    whole = b64encode(f"{before}base64-of-a-secret and more".encode()).decode()

    begin = len(before.encode())
    end = begin + len("base64-of-a-secret")
    # Six bits a character: those that have a bit of what stands beside it tell nothing, all the others are hidden.
    assert foreign.shown(whole) == whole[: -(-begin * 8 // 6)] + foreign.HIDDEN + whole[end * 8 // 6 :]


def test_a_secret_is_hidden_before_one_that_is_its_beginning():
    foreign.conceal("begin-of")
    foreign.conceal("begin-of-it-all")

    assert foreign.shown("x begin-of-it-all y begin-of z") == "x *** y *** z"


def test_what_is_too_short_for_a_secret_hides_nothing():
    foreign.conceal("z" * (foreign.MIN_SECRET - 1))
    foreign.conceal("w" * foreign.MIN_SECRET)

    assert foreign.shown(f"a {'z' * (foreign.MIN_SECRET - 1)} word") == f"a {'z' * (foreign.MIN_SECRET - 1)} word"
    assert foreign.shown(f"a {'w' * foreign.MIN_SECRET} word") == "a *** word"
    assert foreign.shown("w" * foreign.MIN_SECRET) == "***"


def test_of_keys_that_are_renewed_for_ever_the_last_ones_are_known():
    for number in range(foreign.MAX_SECRETS + 1):
        foreign.conceal(f"renewed-key-{number:04}")
    foreign.conceal("renewed-key-0001")
    foreign.conceal("renewed-key-9999")

    assert foreign.shown("renewed-key-0000 renewed-key-0002") == "renewed-key-0000 renewed-key-0002"
    assert foreign.shown("renewed-key-0001 renewed-key-0200 renewed-key-9999") == "*** *** ***"


def test_renewed_keys_are_hidden_for_two_generations_and_drive_no_other_secret_out():
    foreign.conceal("a-secret-of-the-settings")
    renewed = foreign.Renewed()
    for number in range(foreign.MAX_SECRETS + 1):
        renewed.conceal([f"access-key-{number:04}", f"secret-key-{number:04}", "the-same-token-always"])
        renewed.conceal([f"access-key-{number:04}", f"secret-key-{number:04}", "the-same-token-always"])

    assert foreign.shown("access-key-0200 secret-key-0199 the-same-token-always") == "*** *** ***"
    assert foreign.shown("access-key-0198 secret-key-0198") == "access-key-0198 secret-key-0198"
    assert foreign.shown("a-secret-of-the-settings") == "***"


def test_keys_that_one_owner_has_replaced_are_hidden_where_the_settings_have_them_too():
    foreign.conceal("key-of-the-settings")
    renewed = foreign.Renewed()
    for key in ("key-of-the-settings", "a-later-key", "an-even-later-key"):
        renewed.conceal([key])

    assert foreign.shown("key-of-the-settings") == "***"


def test_a_secret_with_spaces_in_it_is_hidden():
    foreign.conceal("correct horse battery")

    assert (
        foreign.shown("it is correct horse battery here, correct%20horse%20battery there")
        == "it is *** here, *** there"
    )


def test_a_text_is_hardly_dearer_where_secrets_are_known_and_a_new_one_is_learnt_in_a_moment(monkeypatch):
    """They were one pattern: 38 times as dear with 200 of them, and 0.3 s in the hub to make at each renewal."""
    text = "ValueError: some words of a handler " * 10
    monkeypatch.setattr(foreign, "_secrets", {})
    monkeypatch.setattr(foreign, "_keys", {})
    none = _cpu_seconds(lambda: [foreign.shown(text) for _ in range(100)])
    for number in range(200):
        foreign.conceal(f"{number:03}-" + "Ab+/" * 9)

    assert _cpu_seconds(lambda: [foreign.shown(text) for _ in range(100)]) < 5 * none
    assert _cpu_seconds(lambda: (foreign.conceal(f"{time.monotonic_ns():020}" * 45), foreign.shown(text))) < 0.05


def _cpu_seconds(do):
    """The least of several times: what else the machine does is in the others."""

    def once():
        began = time.thread_time()
        do()
        return time.thread_time() - began

    return min(once() for _ in range(7))


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
    foreign.conceal_value(name, value)
    part = next((part for part in value.split(".") if "9c1d" in part), value)

    assert foreign.shown(f"it is {part} here") == ("it is *** here" if hidden else f"it is {part} here")


def test_a_password_in_any_url_of_the_environment_is_a_secret():
    foreign.conceal_environment({"CLOUD_URL": "amqp://ann:p%2Fss-of-a-url@host:1/x", "NO_URL": "x://ann:pw@[::1/x"})

    assert foreign.shown("p%2Fss-of-a-url p/ss-of-a-url") == "*** ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Basic aGlkZTptZQ==", "Authorization: ***"),
        ('{"authorization": "Bearer HIDE.ME"}', '{"authorization": "***"}'),
        ('{\\"SecretAccessKey\\": \\"HIDEME\\"}', '{\\"SecretAccessKey\\": \\"***\\"}'),
        ("password=HIDEME&b=1", "password=***&b=1"),
        ("https://host/q?a=1&api_token=HIDEME&b=1", "https://host/q?a=1&api_token=***&b=1"),
        ("https://host/?X-Amz-Credential=HIDEME", "https://host/?X-Amz-Credential=***"),
        ("[handlers.email] password: is missing", "[handlers.email] password: is missing"),
        ("Signature expired: 20260101 is now", "Signature expired: 20260101 is now"),
        ("550 <ann@example.com>: unknown", "550 <***>: unknown"),
        ("'Ann' <jürgen+x@exämple.de>, b@[10.0.0.1]", "'Ann' <***>, ***"),
        ('"ann b"@example.com', "***"),
        ("@around and a @ b", "@around and a @ b"),
        ("KeyError: 'token'", "KeyError: 'token'"),
    ],
)
def test_credentials_and_addresses_are_known_by_their_looks_and_nothing_else_is_hidden(text, shown):
    assert foreign.shown(text) == shown


@pytest.mark.parametrize(
    "text", ["a", "a@", "://", "authorization:", "password=", "?token", "&a=", '"', "\\u0000", "a:="]
)
def test_a_text_of_any_kind_is_shown_in_a_moment(text):
    began = time.process_time()
    foreign.shown(text * 2_000_000)

    assert time.process_time() - began < 1


# --- texts


class Liar(str):
    __slots__ = ()

    def isprintable(self) -> bool:
        raise SystemExit

    __len__ = __getitem__ = isprintable  # type: ignore[assignment]


@pytest.mark.parametrize("show", [foreign.shown, foreign.clean])
def test_a_text_that_lies_is_the_text_that_it_is(show):
    assert type(show(Liar("text"))) is str
    assert show(Liar("text")) == show(ValueError(Liar("text"))) == "text"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, "a", b"b", (1,), (), {"c": None}, {2}], "[1, 'a', b'b', (1,), (), {'c': None}, {2}]"),
        (ValueError("a", 5), "('a', 5)"),
        (ValueError(), ""),
        (ValueError(["a"]), "['a']"),
        (KeyError("a"), "'a'"),
        (frozenset({1}), "frozenset({1})"),
        (ValueError([1] * 30), f"[{'1, ' * 20}...]"),
        (list(range(30)), f"[{', '.join(map(str, range(20)))}, ...]"),
        (list(range(20)), f"[{', '.join(map(str, range(20)))}]"),
        ([[[["deep"]]]], "[[[...]]]"),
        (None, "None"),
    ],
)
def test_a_container_is_shown_as_repr_shows_it_the_beginning_of_it(value, text):
    assert foreign.shown(value) == text


def test_what_is_cleaned_keeps_its_line_breaks():
    assert foreign.clean("a\nb\x1b") == "a\nb\x1b"
    assert foreign.clean("x" * 501) == "x" * 497 + "..."
    assert foreign.clean("x" * 500) == "x" * 500


@pytest.mark.parametrize("text", ["a\n" * 20_000 + "TAIL-OF-A-SECRET\nb", "x" * 30_000 + "TAIL-OF-A-SECRET"])
def test_of_many_lines_the_end_is_kept_and_no_half_of_a_secret(text):
    foreign.conceal("TAIL-OF-A-SECRET")
    lines = foreign.lines(text)

    assert len(lines) <= foreign.MAX_TRACE
    assert "SECRET" not in lines
    assert max(map(len, lines.split("\n"))) <= foreign.MAX_TRACE_LINE


@pytest.mark.parametrize("length", [foreign.MAX_TRACE, 2 * foreign.MAX_TRACE])
def test_lines_that_are_short_enough_once_each_is_cut_are_all_kept(length):
    text = "first\n" + "x" * (length - len("first\n"))

    assert foreign.lines(text).startswith("first\nxxx")


# --- tracebacks


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        if cause is not None:
            raise error from cause
        raise error
    except BaseException as caught:
        return caught


def test_a_traceback_is_the_one_that_python_writes():
    error = raised(ValueError("second\nline"), raised(KeyError("first")))
    error.add_note("a note")

    written = "".join(traceback.format_exception(error)).strip()
    assert foreign.trace(error) == written


def within(error: BaseException, other: BaseException) -> BaseException:
    try:
        raise raised(error)
    except BaseException:
        return raised(other)


def test_a_traceback_of_an_error_while_another_is_handled_has_both():
    error = within(KeyError("first"), ValueError("second"))

    assert foreign.trace(error) == "".join(traceback.format_exception(error)).strip()


def test_a_context_that_is_suppressed_is_left_out():
    error = within(KeyError("first"), ValueError("second"))
    error.__suppress_context__ = True

    assert "first" not in foreign.trace(error)
    assert "second" in foreign.trace(error)


def test_the_errors_of_a_group_are_named_the_first_of_them():
    text = foreign.trace(ExceptionGroup("many", [ValueError(number) for number in range(9)]))

    assert text.startswith("ExceptionGroup: many (9 sub-exceptions)\n  +---------------- 1 ----------------\n")
    assert "  | ValueError: 4" in text
    assert "ValueError: 5" not in text
    assert text.endswith("  | and 4 more")
    text = foreign.trace(ExceptionGroup("few", [ValueError(number) for number in range(5)]))
    assert "  | ValueError: 4" in text
    assert "more" not in text


def test_of_a_recursion_the_innermost_frames_are_told():
    def deep(number: int) -> None:
        if number:
            deep(number - 1)
        raise ValueError("innermost")

    with pytest.raises(ValueError, match="innermost") as caught:
        deep(500)
    text = foreign.trace(caught.value)
    assert len(text) <= foreign.MAX_TRACE
    assert text.startswith("Traceback (most recent call last):\n  File ")
    assert text.endswith("ValueError: innermost")


def test_a_place_is_where_an_error_was_raised():
    error = raised(ValueError())

    assert foreign.place(error) == (__file__, error.__traceback__.tb_lineno)
    assert foreign.place(ValueError()) == ("", 0)


def test_many_secrets_in_a_row_leave_no_half_of_one_at_the_end():
    secret = "S" + "0123456789" * 10
    foreign.conceal(secret)

    assert foreign.shown(secret * 500).strip("*.") == ""


def test_a_text_made_by_an_object_is_a_text_of_pythons_own():
    class Making:
        def __str__(self) -> str:
            return Liar("made")

    assert type(foreign.text_of(Making())) is str
    assert foreign.text_of([Making()]).startswith("[<")


def test_of_a_chain_of_errors_the_last_ones_are_told():
    error: BaseException = ValueError("first")
    for number in range(100):
        error = raised(ValueError(number), error)

    text = foreign.trace(error)
    assert text.count(foreign.CAUSE) == foreign.MAX_LINKS - 1
    assert text.endswith("ValueError: 99")


def test_errors_that_are_each_others_cause_are_told_once():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert foreign.trace(first) == f"ValueError: second\n\n{foreign.CAUSE}\n\nValueError: first"


def test_groups_within_groups_are_told_to_a_depth():
    error: Exception = ValueError("innermost")
    for _ in range(foreign.MAX_DEPTH):
        error = ExceptionGroup("group", [error])
    assert "innermost" in foreign.trace(error)

    deeper = foreign.trace(ExceptionGroup("group", [error]))
    assert "innermost" not in deeper
    assert deeper.endswith("| ...")


def test_of_many_notes_the_first_are_told():
    error = ValueError("x")
    error.__notes__ = [f"note {number}" for number in range(9)]

    assert foreign.trace(error).split("\n") == ["ValueError: x", *(f"note {number}" for number in range(5))]


def test_an_error_of_a_module_is_told_with_it():
    assert foreign.trace(json.JSONDecodeError("no", "", 0)).startswith("json.decoder.JSONDecodeError: no")
    assert foreign.trace(type("Odd", (Exception,), {"__module__": 5})()) == "Odd"


def test_a_type_that_has_no_name_to_tell_has_its_own():
    class FalseName(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise SystemExit

    assert foreign.type_name(FalseName("Odd", (), {})()) == "Odd"


def test_of_many_frames_the_innermost_are_told():
    def even(number: int) -> None:
        odd(number - 1) if number else raised_here()

    def odd(number: int) -> None:
        even(number - 1)

    def raised_here() -> None:
        raise ValueError("innermost")

    with pytest.raises(ValueError, match="innermost") as caught:
        even(100)
    assert foreign.trace(caught.value).count("  File ") <= foreign.MAX_FRAMES


def test_lines_that_are_cut_begin_with_a_whole_one():
    foreign.conceal("A-SECRET-IN-EACH-LINE")

    assert set(foreign.lines("A-SECRET-IN-EACH-LINE\n" * 3_000).split("\n")) == {"***"}


def test_what_is_nested_is_shown_to_a_depth_keys_as_values():
    key: Any = ()
    value: Any = []
    for _ in range(20):
        key, value = (key,), [value]
    shown_key, shown_value = foreign.shown({key: 1}), foreign.shown([value])
    assert shown_key.count("(") == shown_value.count("[") - 1
    assert "..." in shown_key
    assert "..." in shown_value
