"""Foreign: texts, errors and numbers that others have written, made fit to be shown or used.

Nothing here raises but the engine's own Interrupt, should it come while a user's object is asked for its text.

Whatever comes from outside (an endpoint's answer, a message, a handler's exception) passes here before it goes into a
log line, an error, a dead letter or onto a terminal: cut, escaped, without any secret that this process knows, and
without mail addresses. Objects are read by the interpreter's own slots, which no property of a user's can falsify.
"""

from __future__ import annotations

import re
import sys
import traceback
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from json import dumps
from typing import Any, NamedTuple, cast
from urllib.parse import quote, unquote, urlsplit

from millpond.errors import Interrupt

#: Characters of one foreign text in a log line or an error.
MAX_SHOWN = 500
#: Characters of the name of a type.
MAX_NAME = 100
#: Characters of a traceback, and of each of its lines: Heroku splits a log line after 10 kB.
MAX_TRACE, MAX_TRACE_LINE = 8_000, 500
#: Frames of one error in a traceback, errors that led to one another, errors of a group, groups within groups.
MAX_FRAMES, MAX_LINKS, MAX_GROUP, MAX_DEPTH = 30, 5, 5, 3
#: Items of a container that are shown, and how deep: repr() of ten million numbers takes the hub a second.
MAX_ITEMS, MAX_NESTED = 20, 3
#: What is shorter is no secret, but would blot out half of every text.
MIN_SECRET = 6
#: Secrets that are remembered: so many of the settings, and so many keys. Of keys that are renewed every hour, those in
#: use and those before them, of which an answer or an error may still speak.
MAX_SECRETS, GENERATIONS = 200, 2
#: A value that is so long and has digits in it is a key, whatever its name says.
MIN_KEY = 16
#: Digits that a number may have: any SQS timestamp has 13, and int() of thousands raises ValueError (CVE-2020-10735).
MAX_DIGITS = 18
HIDDEN = "***"
CAUSE = "The above exception was the direct cause of the following exception:"
CONTEXT = "During handling of the above exception, another exception occurred:"

#: Names of settings and variables whose values are secrets, and of those that only say where one is.
#: ("PWD" alone is the working directory; "compass" and "bypass" are no passwords.)
SECRET_NAME = re.compile(
    r"(?i)pass_?(?:w|phrase|code)|secret|token|credential|dsn|api_?key|[._-]pwd$"
    r"|(?:^|[._-])(?:db|smtp|mysql|pg|redis|user)?pass(?:[._-]?[0-9]+)?$|(?:^|[._-])key(?:[._-]?[0-9]+)?$"
    r"|(?:^|[._-])(?:auth|authorization|bearer|cookie|jwt|pat|salt|signature)$|webhook|connection_?string"
)
_PLACE_NAME = re.compile(r"(?i)(file|path|dir|folder|arn|name|version|expiration|ttl|seconds)$")
_NUMBER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}")
_VALUE = r"""[^\s"'\\,;&<>{}\[\]()]+"""
_QUOTE = r"""[\\"']{0,4}\s{0,4}"""
# Between a name and its value: in a header, which a setting's name in a sentence must not look like; in JSON or a URL.
_COLON, _JOIN = rf"{_QUOTE}[:=]\s{{0,4}}{_QUOTE}", rf"""(?:[\\"']{{1,4}}\s{{0,4}}:|\s{{0,4}}=)\s{{0,4}}{_QUOTE}"""
# What shows credentials or an address whatever they are: an echo of a signed request, a URL with a password in it. Each
# is looked for where one of its words is, in lower case.
_PATTERNS = tuple(
    (words, re.compile(pattern, re.IGNORECASE), instead)
    for words, pattern, instead in (
        (("authorization",), rf"\b(authorization{_COLON})(?:[a-z0-9-]+\s+)?{_VALUE}", rf"\1{HIDDEN}"),
        (("security-token",), rf"(security-token{_COLON}){_VALUE}", rf"\1{HIDDEN}"),
        (
            ("credential", "signature", "key", "token", "passw", "client_secret"),
            r"((?:x-amz-credential|\bcredential|signature|secret_?access_?key|(?:session|access|auth|api|account)_?(?:token|key)"
            rf"|passw(?:or)?d|client_secret){_JOIN}){_VALUE}",
            rf"\1{HIDDEN}",
        ),
        (
            ("?", "&"),
            rf"([?&][\w.-]{{0,40}}(?:token|key|secret|passw|sig|credential)[\w.-]{{0,40}}=){_VALUE}",
            rf"\1{HIDDEN}",
        ),
        (("://",), r"([a-z][a-z0-9+.-]{0,30}://)[^\s/@\"'<>]{1,2000}@", rf"\1{HIDDEN}@"),
        (
            ("@",),
            r"(?:\"[^\"@\n]{1,64}\"|[^\s@\"'`<>()\[\]{},;:=*/\\]{1,64})@(?:\[[^\]\s]{1,64}\]|[\w-][\w.-]{0,253})",
            HIDDEN,
        ),
    )
)


class _Hiding(NamedTuple):
    """Every form of the secrets that were known in one state."""

    state: object
    words: tuple[str, ...]  # without white space, the shortest first
    phrases: tuple[str, ...]
    shortest: int
    longest: int


_Forms = frozenset[str]
_secrets: dict[str, _Forms] = {}  # the last one learnt is the last here
_keys: dict[str, _Forms] = {}  # those that are renewed: they never drive out a secret of the settings
_state = object()  # another one after each change, whichever thread has made it
_hiding = _Hiding(_state, (), (), sys.maxsize, 0)

# The interpreter's own view of a type and of an exception.
_NAME: Any = type.__dict__["__name__"]
_MRO: Any = type.__dict__["__mro__"]
_OWN: Any = type.__dict__["__dict__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_SUPPRESSED: Any = BaseException.__dict__["__suppress_context__"]
_ARGS: Any = BaseException.__dict__["args"]
_MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]


# Secrets


def conceal(secret: str) -> None:
    """From now on this is shown to nobody: as it is, as JSON escapes it, as a URL does, or within base64."""
    _learn(_secrets, secret)


class Renewed:
    """One owner's keys that take the place of one another: two generations are hidden, older ones have expired.

    (Each secret that is known costs at every log line.)
    """

    def __init__(self) -> None:
        self._generations: list[frozenset[str]] = []

    def conceal(self, secrets: Iterable[str]) -> None:
        """These are in use from now on."""
        latest = frozenset(secrets)
        if latest not in self._generations:
            self._generations.append(latest)
        for secret in latest:
            _learn(_keys, secret)
        while len(self._generations) > GENERATIONS:
            for secret in self._generations.pop(0).difference(*self._generations):
                _forget(_keys, secret)


def _learn(known: dict[str, _Forms], secret: str) -> None:
    if len(secret) < MIN_SECRET:
        return
    forms = known.pop(secret, None)
    known[secret] = forms or frozenset(_forms(secret))
    if forms is None:
        for old in list(known)[:-MAX_SECRETS]:
            _forget(known, old)
        _change()


def _forget(known: dict[str, _Forms], secret: str) -> None:
    known.pop(secret, None)
    _change()


def _change() -> None:
    global _state
    _state = object()


def conceal_value(name: str, value: str) -> None:
    """Hide the value of a setting or a variable of this name, where either says that it is a secret."""
    if SECRET_NAME.search(name) and not _PLACE_NAME.search(name):
        conceal(value)
    elif "prefix" in name.lower():  # some StatsD services take their API key there; "millpond" is none
        for part in value.split("."):
            if len(part) >= MIN_KEY and re.search("[0-9]", part):
                conceal(part)
    if "://" in value:
        _conceal_in_url(value)


def conceal_environment(environ: Mapping[str, str]) -> None:
    """Hide what the environment holds of secrets."""
    for name, value in environ.items():
        conceal_value(name, value)


def _conceal_in_url(url: str) -> None:
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return
    conceal(password)
    conceal(unquote(password))


def _forms(secret: str) -> Iterator[str]:
    yield from {
        secret,
        dumps(secret)[1:-1],
        dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        repr(secret)[1:-1],
    }
    data = secret.encode("utf-8", "surrogatepass")
    for shift in range(3):  # base64 of something that has it at any place, as AUTH PLAIN and Basic have a password
        whole = b64encode(bytes(shift) + data).decode().rstrip("=")
        yield whole[-(-8 * shift // 6) : 8 * (shift + len(data)) // 6]


def _make_hiding() -> _Hiding:
    """Made when it is first needed: with 200 secrets it takes 1 ms."""
    global _hiding
    state = _state  # another thread may learn one meanwhile: then this is made again
    forms = sorted({form for known in (_secrets, _keys) for forms in list(known.values()) for form in forms}, key=len)
    words = tuple(form for form in forms if form.split() == [form])
    phrases = tuple(form for form in forms if form.split() != [form])
    _hiding = _Hiding(state, words, phrases, len(forms[0]) if forms else sys.maxsize, len(forms[-1]) if forms else 0)
    return _hiding


def _hide(text: str, hiding: _Hiding) -> str:
    """Most words of a text are shorter than any secret: those that are not are searched, and nothing else."""
    _, forms, phrases, shortest, _ = hiding
    found = [form for form in phrases if form in text] if phrases else []
    words = text.split()
    longest = max(map(len, words), default=0)
    if longest >= shortest:
        searched = " ".join([word for word in words if len(word) >= shortest]) if len(words) > 1 else text
        found += [form for form in forms[: bisect_right(forms, longest, key=len)] if form in searched]
    if found:
        for form in sorted(found, key=len, reverse=True):
            text = text.replace(form, HIDDEN)
    return text


def _scrubbed(text: str, limit: int) -> str:
    """The beginning of it, without secrets. Where it is cut, no half of one is left at the end."""
    hiding = _hiding if _hiding.state is _state else _make_hiding()
    window = limit + 2 * hiding.longest + 1_000
    whole = len(text) <= window
    text = text[:window]
    if len(text) >= hiding.shortest:
        text = _hide(text, hiding)
    if ":" in text or "=" in text or "@" in text:  # no pattern is without one of them, nearly every id is
        lower = text.lower()
        for words, pattern, instead in _PATTERNS:
            if any(word in lower for word in words):
                text = pattern.sub(instead, text)
    return text if whole else text[: max(0, len(text) - hiding.longest)]


# Texts


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """Any value as one line of at most `limit` printable characters, without secrets."""
    return _cut(escaped(_scrubbed(text_of(value), limit)), limit)


def clean(value: object, limit: int = MAX_SHOWN) -> str:
    """The same for where line breaks and control characters are escaped later, as in JSON."""
    return _cut(_scrubbed(text_of(value), limit), limit)


def escaped(text: str) -> str:
    """Line breaks of every kind, control characters, those that turn the direction of a text, half characters."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def text_of(value: object) -> str:
    """Any value as text; its type's name where it does not turn into any."""
    text = _text_of(value)
    return f"<{type_name(value)}>" if text is None else text


def _text_of(value: object) -> str | None:
    kind = type(value)
    if kind is str:
        return cast("str", value)
    try:
        if issubclass(kind, BaseException) and _has_base_text(kind):
            return _text_of_args(_ARGS.__get__(value))
        return _brief(value, MAX_NESTED) if kind in _CONTAINERS else str.__str__(str(value))
    except Interrupt:  # the engine's own, which stops the handler that this is called from
        raise
    except BaseException:  # a user's __str__ may do anything, sys.exit() included
        return None


def type_name(value: object) -> str:
    """The name of its type."""
    return _name_of(type(value))


def _name_of(kind: type) -> str:
    """A class can be given any name: of any length, with line breaks, even one that lies."""
    return shown(str.__str__(_NAME.__get__(kind)), MAX_NAME)


def _has_base_text(kind: type) -> bool:
    """Whether its text is that of BaseException: made of its args, which may be anything, and huge."""
    return next(base for base in _MRO.__get__(kind) if "__str__" in _OWN.__get__(base)) is BaseException


def _text_of_args(args: tuple[object, ...]) -> str | None:
    if len(args) == 1:
        return _text_of(args[0])
    return _brief(args, MAX_NESTED) if args else ""


def _brief(value: Any, levels: int) -> str:
    """repr() of a container, the beginning of it."""
    kind = type(value)
    if kind is str or kind is bytes:
        return repr(value[:MAX_TRACE])
    if kind not in _CONTAINERS:
        return str.__str__(repr(value))
    if not levels:
        return "..."
    if kind is dict:
        items = [f"{_brief(key, levels - 1)}: {_brief(value[key], levels - 1)}" for key in islice(value, MAX_ITEMS)]
    else:
        items = [_brief(item, levels - 1) for item in islice(value, MAX_ITEMS)]
    more = ["..."] if len(value) > MAX_ITEMS else [""] if kind is tuple and len(value) == 1 else []
    begin, end = _CONTAINERS[kind]
    return f"{begin}{', '.join([*items, *more]).rstrip(' ')}{end}"


_CONTAINERS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def lines(value: object) -> str:
    """A text of several lines, the end of it where it is long; each without secrets, and cut."""
    text = text_of(value)
    if len(text) > 2 * MAX_TRACE:  # from a line's beginning on: half a secret is not known for one
        text = text[-2 * MAX_TRACE :].partition("\n")[2] or text[: 2 * MAX_TRACE]
    return _end([clean(line, MAX_TRACE_LINE) for line in text.splitlines()])


def _end(texts: list[str]) -> str:
    return "\n".join(texts)[-MAX_TRACE:]


# Errors


def describe(error: BaseException) -> str:
    """An exception in one line: its type, and what it says."""
    text = _text_of(error)
    return f"{type_name(error)}: {shown(text)}" if text else type_name(error)


def trace(error: BaseException) -> str:
    """Its traceback, the end of it where it is long; what cannot be formatted is told by its description alone."""
    texts = _trace(error, MAX_DEPTH)
    return _end([shown(line, MAX_TRACE_LINE) for text in texts for line in text.splitlines()])


def place(error: BaseException) -> tuple[str, int]:
    """The file and the line where it was raised; "" and 0 where nobody knows."""
    trace = _TRACEBACK.__get__(error)
    if trace is None:
        return "", 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno or 0


def _trace(error: BaseException, depth: int) -> Iterator[str]:
    """What the traceback module would write of it. That fails on fields of wrong types and on deep groups, and takes
    as long as a chain of causes is."""
    links = list(islice(_links(error), MAX_LINKS))
    for link, joint in reversed(links):
        yield from _own_trace(link, depth)
        if joint:
            yield f"\n{joint}\n\n"


def _links(error: BaseException | None) -> Iterator[tuple[BaseException, str]]:
    """It, what it came from, and so on; each with the words that lead on to the one before it."""
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
    text = clean(error, MAX_TRACE)
    yield f"{_qualified(type(error))}: {text}" if text else _qualified(type(error))
    yield from _notes(error)
    if issubclass(type(error), BaseExceptionGroup):
        yield from _members(_MEMBERS.__get__(error), depth)


def _frames(frames: Any) -> Iterator[str]:
    try:
        yield "".join(traceback.format_tb(frames, -MAX_FRAMES))
    except Interrupt:
        raise
    except BaseException:  # it asks the module's __loader__ for the source
        yield "  (its lines cannot be read)"


def _members(members: tuple[BaseException, ...], depth: int) -> Iterator[str]:
    if not depth:
        yield "  | ..."
        return
    for number, member in enumerate(members[:MAX_GROUP], 1):
        yield f"  +---------------- {number} ----------------"
        for text in _trace(member, depth - 1):
            yield "\n".join(f"  | {line}" for line in text.splitlines())
    if len(members) > MAX_GROUP:
        yield f"  | and {len(members) - MAX_GROUP} more"


def _notes(error: BaseException) -> Iterator[str]:
    try:
        notes = object.__getattribute__(error, "__notes__")
    except Interrupt:
        raise
    except BaseException:  # nearly always an AttributeError: there are none
        return
    for note in notes[:MAX_GROUP] if type(notes) is list else [notes]:
        yield clean(note, MAX_TRACE)


def _qualified(kind: type) -> str:
    """With its module, as a traceback has it."""
    module = _OWN.__get__(kind).get("__module__")
    name = _name_of(kind)
    return f"{module}.{name}" if type(module) is str and module not in ("builtins", "__main__") else name


class Unshown:
    """Beside msgspec.Struct as a base: repr() has no field, since some hold bodies or passwords. Whoever sends an error
    to a service such as Sentry sends the repr() of every local variable with it."""

    __slots__ = ()
    __rich_repr__: Any = lambda self: iter(())  # rich would draw the fields

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


# Numbers


def number(value: object, least: int, most: int, otherwise: int) -> int:
    """A whole number within these bounds; `otherwise` for all else."""
    if type(value) is str and _NUMBER.fullmatch(value.strip()):
        value = int(value)
    return value if type(value) is int and least <= value <= most else otherwise
