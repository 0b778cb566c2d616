"""`dlq replay --edit`: a payload in the user's editor, checked by its handler's type before it is sent."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import which

import msgspec

from millpond.app.envelope import Undecodable
from millpond.app.opener import Opener
from millpond.app.payload_errors import payload_error
from millpond.app.routing import Route, name_of_route
from millpond.commands.question import answer_to
from millpond.dead_letters.letter import Letter
from millpond.dead_letters.sweep import Stop
from millpond.errors import ConfigError
from millpond.foreign.text import shown

#: Our own envelope, as it stands: what else is in it is kept.
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def editor_of(
    routes: Mapping[str, Route], opener: Opener, environ: Mapping[str, str], stop: Stop
) -> Callable[[Letter], str | None]:
    """What gives the new body of a letter, by $VISUAL or $EDITOR; None where the user left it. Raises ConfigError."""
    program = _program_of(environ.get("VISUAL") or environ.get("EDITOR") or "")

    def edit(letter: Letter) -> str | None:
        text, wrong = payload_of(letter.received.text), ""
        while True:
            if (edited := _edited(program, text)) is None:
                return None
            body = with_payload(letter.received.text, edited)
            wrong = wrong_with(letter, body, routes, opener)
            if not wrong:
                return body
            print(f"{letter.id}: {wrong}", file=sys.stderr)
            if not sys.stdin.isatty() or answer_to("edit it again? (yes, or it stays) ", stop) not in ("y", "yes"):
                return None
            text = edited

    return edit


def _program_of(command: str) -> list[str]:
    try:
        program = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"--edit: EDITOR is no command: {error}") from None
    if not program:
        raise ConfigError("--edit: set EDITOR to the program that edits the payload, as in EDITOR=nano")
    if which(program[0]) is None:
        raise ConfigError(f"--edit: {program[0]} cannot be started: there is no such program")
    return program


def payload_of(body: str) -> str:
    """The payload of an envelope of our own, or else the whole body; JSON with line breaks."""
    try:
        fields = _fields(body)
        part = bytes(fields["payload"]).decode() if {"event_type", "payload"} <= fields.keys() else body
        return msgspec.json.format(part, indent=2) + "\n"
    except (ValueError, RecursionError):
        return body


def with_payload(body: str, payload: str) -> str:
    """The body with this in the place of what `payload_of` gave."""
    try:
        fields = _fields(body)
        if not {"event_type", "payload"} <= fields.keys():
            return payload
        return msgspec.json.encode(
            {**fields, "payload": msgspec.Raw(msgspec.json.format(payload, indent=-1).encode())}
        ).decode()
    except (ValueError, RecursionError):
        return payload


def wrong_with(letter: Letter, body: str, routes: Mapping[str, Route], opener: Opener) -> str:
    """Why no handler takes this body; "" where one does."""
    received = msgspec.structs.replace(letter.received, body=body)
    try:
        envelope = opener.open(received)
    except Undecodable as error:
        return shown(error)
    name = name_of_route(envelope.event_type, routes)
    if name is None:
        return f"no handler of these settings takes the type {shown(envelope.event_type)}"
    try:
        routes[name].decode(envelope.payload)
    except Exception as error:  # a type's own code may raise anything
        return payload_error(error, envelope.payload, envelope.path)
    return ""


def _edited(program: list[str], text: str) -> str | None:
    """The text as the editor left it; None where that ended with an error, as by `:cq`, or left none."""
    path = ""
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8", delete=False) as file:
            path = file.name
            file.write(text)
        if subprocess.run([*program, path]).returncode:  # noqa: S603  the user's own EDITOR
            return None
        return Path(path).read_text("utf-8")
    except (
        OSError,
        ValueError,
    ) as error:  # no UTF-8, say; what was moved before this letter is to be told all the same
        print(f"--edit: the editor left no text: {shown(error)}", file=sys.stderr)
        return None
    finally:
        if path:
            Path(path).unlink(missing_ok=True)
