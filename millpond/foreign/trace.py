"""Exceptions, as one line or as a traceback: text that never fails, and has an end.

Errors are read by the interpreter's own slots, which no property of a user's can falsify.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from types import FrameType
from typing import Any

from millpond import errors
from millpond.errors import Interrupt
from millpond.foreign.text import MAX_LINE, MAX_LINES, clean, name_of, own_text, shown, type_name

#: Frames of one error in a traceback, errors that led to one another, errors of a group, groups within groups.
MAX_TRACE_FRAMES, MAX_LINKS, MAX_GROUP, MAX_DEPTH = 30, 5, 5, 3
CAUSE = "The above exception was the direct cause of the following exception:"
CONTEXT = "During handling of the above exception, another exception occurred:"

#: Characters of a place.
MAX_PLACE = 200
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_MILLPOND = os.path.dirname(errors.__file__)
#: Frames below the call of a handler that are never its own: the engine's, the decoders', what @around's are made with.
_WINGS = ("app", "engine", "hub", "observe", "process")
_NOT_THEIRS = (*(os.path.join(_MILLPOND, wing, "") for wing in _WINGS), contextlib.__file__)

_OWN: Any = type.__dict__["__dict__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_SUPPRESSED: Any = BaseException.__dict__["__suppress_context__"]
_MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]


def describe(error: BaseException) -> str:
    """An exception in one line: its type and its text."""
    text = own_text(error)
    return f"{type_name(error)}: {shown(text)}" if text else type_name(error)


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception; its end, where it is long."""
    texts = _trace(error, MAX_DEPTH)
    return "\n".join([shown(line, MAX_LINE) for text in texts for line in text.splitlines()])[-MAX_LINES:]


def raised_at(error: BaseException) -> tuple[str, int]:
    """The file and the line where an exception was raised; "" and 0 where that is unknown."""
    trace = _TRACEBACK.__get__(error)
    if trace is None:
        return "", 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno or 0


def own_frames(innermost: FrameType | None, call_file: str) -> list[FrameType]:
    """The frames of a handler's own code in a stack, the innermost first; none where the stack is in no handler.

    `call_file`: the file that calls handlers. Of a handler that lies among the libraries, as an installed one does, its
    outermost frame stands for all.
    """
    inside, frame = [], innermost
    while frame is not None and frame.f_code.co_filename != call_file:
        inside.append(frame)
        frame = frame.f_back
    if frame is None:
        return []
    inside = [one for one in inside if not one.f_code.co_filename.startswith(_NOT_THEIRS)]
    return [one for one in inside if not _is_librarys(one.f_code.co_filename)] or inside[-1:]


def place_of_frame(frame: FrameType) -> str:
    """Where a frame stands: handlers/report.py:41 in fetch."""
    code = frame.f_code
    return _place_of(code.co_filename, frame.f_lineno, code.co_qualname)


@lru_cache(1_000)  # the page asks each second of fifty handlers, which mostly stand at the same line
def _place_of(file: str, line: int | None, name: str) -> str:
    with contextlib.suppress(OSError):  # the current folder can be gone
        file = file.removeprefix(f"{os.getcwd()}{os.sep}")
    return shown(f"{file}:{line} in {name}", MAX_PLACE)


def _is_librarys(file: str) -> bool:
    return file.startswith(_STANDARD_LIBRARY) or "/site-packages/" in file or "/dist-packages/" in file


def _trace(error: BaseException, depth: int) -> Iterator[str]:
    """What the traceback module would write. But that fails on fields of wrong types and on deep groups, and follows
    a chain of causes to its end."""
    chain = list(islice(links(error), MAX_LINKS))
    for link, joint in reversed(chain):
        yield from _own_trace(link, depth)
        if joint:
            yield f"\n{joint}\n\n"


def members(error: BaseException) -> tuple[BaseException, ...]:
    """The exceptions of a group; none where it is no group."""
    found: tuple[BaseException, ...] = ()
    if issubclass(type(error), BaseExceptionGroup):
        found = _MEMBERS.__get__(error)
    return found


def links(error: BaseException | None) -> Iterator[tuple[BaseException, str]]:
    """The error, its cause, the cause of that, and so on; each with the words that join it to the one before."""
    joint, seen = "", set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error, joint
        cause = _CAUSE.__get__(error)
        joint = CONTEXT if cause is None else CAUSE
        error = cause if cause is not None or _SUPPRESSED.__get__(error) else _CONTEXT.__get__(error)


def _own_trace(error: BaseException, depth: int) -> Iterator[str]:
    frames = _TRACEBACK.__get__(error)
    if frames is not None:
        yield "Traceback (most recent call last):"
        yield from _frames(frames)
    text = clean(error, MAX_LINES)
    yield f"{_qualified(type(error))}: {text}" if text else _qualified(type(error))
    yield from _notes(error)
    if group := members(error):
        yield from _members(group, depth)


def _frames(frames: Any) -> Iterator[str]:
    try:
        yield "".join(traceback.format_tb(frames, -MAX_TRACE_FRAMES))
    except Interrupt:
        raise
    except BaseException:  # it asks the module's __loader__ for the source
        yield "  (the lines cannot be read)"


def _members(group: tuple[BaseException, ...], depth: int) -> Iterator[str]:
    if not depth:
        yield "  | ..."
        return
    for number, member in enumerate(group[:MAX_GROUP], 1):
        yield f"  +---------------- {number} ----------------"
        for text in _trace(member, depth - 1):
            yield "\n".join(f"  | {line}" for line in text.splitlines())
    if len(group) > MAX_GROUP:
        yield f"  | and {len(group) - MAX_GROUP} more"


def _notes(error: BaseException) -> Iterator[str]:
    try:
        notes = object.__getattribute__(error, "__notes__")
    except Interrupt:
        raise
    except BaseException:  # nearly always an AttributeError: there are none
        return
    for note in notes[:MAX_GROUP] if type(notes) is list else [notes]:
        yield clean(note, MAX_LINES)


def _qualified(kind: type) -> str:
    """The name of a type with its module, as a traceback has it."""
    module = _OWN.__get__(kind).get("__module__")
    name = name_of(kind)
    return f"{module}.{name}" if type(module) is str and module not in ("builtins", "__main__") else name
