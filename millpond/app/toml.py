"""A TOML file of settings: tables with ${NAME} resolved, keys checked against Structs, every finding kept.

config.py knows what the settings mean.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from millpond.app.secret_references import is_no_secret, is_reference
from millpond.app.secret_values import Fetch
from millpond.errors import ConfigError
from millpond.foreign.nearest import did_you_mean, nearest
from millpond.foreign.secrets import conceal_value
from millpond.foreign.text import shown

SettingsType = TypeVar("SettingsType", bound=msgspec.Struct)

#: Keys whose values no finding shows. The prefix is one: some StatsD services take their API key there.
_SECRET = re.compile("passw|secret|token|key|credential|dsn|prefix", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")


#: The value that a reference to a secret has, or why it has none; None: nobody has asked for it.
SecretOf = Callable[[str], str | ConfigError | None]


class Reading:
    """What all tables of one file share: the environment, the secrets, and what was found so far.

    `references`: where each reference to a secret stands, and its text.
    """

    def __init__(self, environ: Mapping[str, str], secret_of: SecretOf = lambda reference: None) -> None:
        self.environ = environ
        self.secret_of = secret_of
        self.findings: list[str] = []
        self.references: list[tuple[str, str]] = []


class TomlFile:
    """The tables of one file, and what was found wrong in them so far. Raises ConfigError where it is not TOML.

    Its secrets are fetched at once, each once.
    """

    def __init__(self, path: Path, environ: Mapping[str, str], known: Collection[str], fetch: Fetch) -> None:
        self._path = path
        self._content = _parse(path)
        self._reading = Reading(environ, _secrets(self._content, environ, known, fetch))
        for name in (name for name in self._content if name not in known):
            self.wrong(f"[{toml_key(name)}]", unknown("table", name, known))

    @property
    def findings(self) -> list[str]:
        """What is wrong, a line each."""
        return self._reading.findings

    @property
    def references(self) -> list[tuple[str, str]]:
        """The place of each reference to a secret, "[handlers.email] password", and its text."""
        start = f"{self._path}: "
        return [(place.removeprefix(start), text) for place, text in self._reading.references]

    def wrong(self, where: str, allowed: str) -> None:
        """Keep a finding: where it is, and what is allowed there."""
        self.findings.append(f"{self._path}: {where}: {allowed}")

    def table(self, name: str) -> Table:
        """A table at the top; empty where the file has none."""
        return self._table(name, self._inside(name))

    def tables(self, name: str) -> dict[str, Table]:
        """The tables within a table, by their names."""
        found = {}
        for inner, content in self._inside(name).items():
            if isinstance(content, dict):
                found[inner] = self._table(f"{name}.{toml_key(inner)}", content)
            else:
                self.wrong(f"[{name}] {toml_key(inner)}", f"keys stand in a table with a name, [{name}.<name>]")
        return found

    def _inside(self, name: str) -> dict[str, Any]:
        content = self._content.get(name, {})
        if isinstance(content, dict):
            return content
        self.wrong(name, f"a table is wanted, [{name}]")
        return {}

    def _table(self, name: str, content: dict[str, Any]) -> Table:
        return Table(f"{self._path}: [{name}]", content, self._reading)


class Table:
    """One table: its values with ${} resolved, and where each of them came from."""

    def __init__(self, where: str, content: dict[str, Any], reading: Reading) -> None:
        self._where = where
        self._content = content
        self._reading = reading
        self._unsound: set[str] = set()
        self._origins: dict[str, list[str]] = {}  # key -> the variables that gave its value
        self.variables: dict[str, list[str]] = {}  # key -> the variables that its text names, set or not
        self.values: dict[str, Any] = {}
        for key, value in content.items():
            self.values[key] = self._resolved(key, value)

    def read(self, settings_type: type[SettingsType]) -> SettingsType:
        """The table as its Struct. A key with a finding has its default, so that all the others are checked."""
        sound = {key: value for key, value in self.values.items() if key not in self._unsound}
        settings = settings_type(**decode(settings_type, sound, self.wrong))
        self.values = msgspec.structs.asdict(settings) | self.values
        return settings

    def wrong(self, key: str, allowed: str) -> None:
        """Keep a finding on a key of this table, and what is allowed there."""
        self._reading.findings.append(f"{self._where} {self.named(key)}: {allowed}")
        self._unsound.add(key)

    def sound(self, *keys: str) -> bool:
        """True where none of these keys has a finding."""
        return self._unsound.isdisjoint(keys)

    def named(self, key: str) -> str:
        """The key as a finding shows it: with its value, or with the variables that its value came from."""
        if key in self._origins:
            return f"{toml_key(key)} (from {', '.join(self._origins[key])})"
        if key not in self.values or _SECRET.search(key):
            return toml_key(key)
        return f"{toml_key(key)} = {_shown(self.values[key])}"

    def inner(self, key: str) -> Table:
        """The table that a key of this one is."""
        return Table(f"{self._where[:-1]}.{toml_key(key)}]", self._content[key], self._reading)

    def _resolved(self, key: str, value: Any, inner_key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self._resolved(key, inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._resolved(key, inner, inner_key) for inner in value]
        if not isinstance(value, str):
            return value
        text = self._text(key, value)
        if not is_no_secret(text):  # one that could not be read: its finding names it
            conceal_value(inner_key or key, text)
        return text

    def _text(self, key: str, text: str) -> str:
        """The text with its variables and its secrets. A secret is a whole text, or all of a variable."""
        if "${" not in text:
            return self._secret(key, text)
        if "${" in _REFERENCE.sub("", text):
            self.wrong(key, "write ${NAME} or ${NAME:-default}, not one within another")
        before = len(self._reading.references)
        resolved = _REFERENCE.sub(lambda reference: self._secret(key, self._variable(key, reference)), text)
        has_secret = len(self._reading.references) > before  # what it is, no secret's own text can change
        return resolved if has_secret else self._secret(key, resolved)

    def _variable(self, key: str, reference: re.Match[str]) -> str:
        name, default = reference.groups()
        self.variables.setdefault(key, []).append(name)
        if value := self._reading.environ.get(name):
            self._origins.setdefault(key, []).append(f"${{{name}}}")
            return value
        if default is None:
            self.wrong(key, f"${{{name}}} is not set: set it, or give it a default, ${{{name}:-default}}")
        return default or ""

    def _secret(self, key: str, text: str) -> str:
        """The value that this text stands for. What nobody has fetched stays as it is, and its key has its default."""
        if not is_reference(text):
            return text
        self._reading.references.append((f"{self._where} {toml_key(key)}", text))
        value = self._reading.secret_of(text)
        if isinstance(value, str):
            self._origins.setdefault(key, []).append(text)
            return value
        self._unsound.add(key)
        if value is not None:
            self.wrong(key, str(value))
        return text


def _secrets(content: dict[str, Any], environ: Mapping[str, str], known: Collection[str], fetch: Fetch) -> SecretOf:
    """The values of all references in the known tables."""
    looking = Reading(environ)
    for name in known:
        if isinstance(table := content.get(name), dict):
            Table("", table, looking)
    return fetch({text for _, text in looking.references}).get


def decode(
    settings_type: type[msgspec.Struct], values: Mapping[str, Any], wrong: Callable[[str, str], None]
) -> dict[str, Any]:
    """The values that fit the Struct, by attribute; `wrong` is called with each other key, and what is allowed."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(settings_type)}
    sound: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            wrong(key, unknown("key", key, fields))
            continue
        try:
            sound[fields[key].name] = _converted(_port(value) if key == "port" else value, fields[key].type)
        except msgspec.ValidationError as error:
            wrong(key, _allowed(fields[key].type, value, str(error)))
    return sound


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence for a name that does not exist: with the nearest one that does, or else all of them."""
    return f"no such {kind}; {did_you_mean(name, known)}"


def toml_key(name: str) -> str:
    """A key as TOML writes it: in quotes where it needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _other_settings(path: Path) -> str:
    """What may be meant by a file that is not there; "" where nothing is known of it."""
    if path.exists():
        return ""
    if near := nearest(path.name, [one.name for one in path.parent.glob("*.toml")]):
        return f"; did you mean {path.with_name(near)}?"
    return "; name your own by -c PATH" if path == Path("config.toml") else ""


def _parse(path: Path) -> dict[str, Any]:
    data = b""
    try:
        data = path.read_bytes()
        return tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{_other_settings(path)}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        text, _, place = str(error).rpartition(" (at ")
        place = place.removesuffix(")").replace("end of document", f"line {len(data.splitlines())}, at its end")
        raise ConfigError(f"{path}: {place}: {text}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, thousands of brackets
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _port(value: Any) -> Any:
    """Kubernetes sets STATSD_PORT=tcp://10.0.0.7:8125 for a Service named statsd: the port is at its end."""
    found = re.fullmatch(r"(?:tcp|udp|sctp)://\S+:([0-9]{1,5})", value) if isinstance(value, str) else None
    return found[1] if found else value


def _converted(value: Any, wanted: Any) -> Any:
    if typing.get_origin(wanted) is Literal and isinstance(value, str) and value.lower() in typing.get_args(wanted):
        return value.lower()  # LOG_LEVEL=INFO is what most people set
    converted = msgspec.convert(value, wanted, strict=False)
    if isinstance(converted, float) and not math.isfinite(converted):
        raise msgspec.ValidationError("Expected a finite number")
    return converted


def _allowed(wanted: Any, value: Any, message: str) -> str:
    """What a key may be: its own description, or what msgspec says without any value that it quotes."""
    if typing.get_origin(wanted) is Literal:
        names = [str(one) for one in typing.get_args(wanted)]
        near = nearest(value, names) if isinstance(value, str) else ""
        return " | ".join(names) + (f"; did you mean {near}?" if near else "")
    for meta in getattr(wanted, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return re.sub(r"^(Invalid (?:enum )?value) .*?( - at `[^`]*`)?\Z", r"\1\2", message, flags=re.DOTALL)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return "{...}" if isinstance(value, dict) else "[...]"
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if text.isprintable() else json.dumps(value, default=str)
    if "://" in text and "@" in text:
        return "..."  # a URL with a password in it
    return shown(text, 100)
