"""deploy/terraform/ as data: its blocks, and the references in them. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import hcl2

ROOT = Path(__file__).parents[2]
STAGES = sorted((ROOT / "deploy/terraform").glob("[0-9]*"))

#: Comments are no data.
BARE = hcl2.SerializationOptions(with_comments=False)

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """A block of the first level. `type` is the provider's: `aws_sqs_queue`, `data.aws_subnets`; "" for others."""

    kind: str  # resource, data, variable, output, locals, provider, terraform
    type: str
    name: str
    arguments: Arguments
    file: str

    @property
    def address(self) -> str:
        """As an expression names it."""
        head = {"variable": "var", "output": "output"}.get(self.kind, self.kind)
        return f"{self.type or head}.{self.name}"


@dataclass
class Stage:
    """One folder. Its files are read as Terraform reads them: all *.tf, together."""

    folder: Path
    blocks: list[Block] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Block]:
        return [block for block in self.blocks if block.kind == kind]

    def block(self, address: str) -> Block:
        """The one of this address: `aws_sqs_queue.main`, `var.name`."""
        [found] = [block for block in self.blocks if block.address == address]
        return found

    @cached_property
    def locals(self) -> Arguments:
        return {name: value for block in self.of_kind("locals") for name, value in block.arguments.items()}


def read(folder: Path) -> Stage:
    stage = Stage(folder)
    for path in sorted(folder.glob("*.tf")):
        for kind, found in parsed(path.read_text()).items():
            for one in found:
                stage.blocks.append(_block(kind, one, path.name))
    return stage


@cache
def parsed(text: str) -> Arguments:
    """A text of HCL; not to be changed, as the tests read the same files again and again."""
    return hcl2.loads(text, serialization_options=BARE)


def _block(kind: str, found: Arguments, file: str) -> Block:
    labels = []
    while not found.get("__is_block__"):
        [(label, found)] = found.items()
        labels.append(unquoted(label))
    arguments = plain(found)
    if kind in ("resource", "data"):
        of, name = labels
        return Block(kind, f"data.{of}" if kind == "data" else of, name, arguments, file)
    return Block(kind, "", labels[0] if labels else "", arguments, file)


def unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def plain(value: Any) -> Any:
    """The same without the marks of the parser. Keys lose their quotes; a text keeps its own."""
    if isinstance(value, dict):
        return {unquoted(key): plain(one) for key, one in value.items() if key != "__is_block__"}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


def is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("${") and value.endswith("}")


def is_block(value: Any) -> bool:
    """Whether a value was written as a block: `setting { ... }`, not `setting = ...`."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


# --- references

_REFERENCE = re.compile(r"(?<![\w.-])((?:data\.)?[a-z]\w*(?:\.\w+|\[[^\]]*\])*\.\w+(?:\[[^\]]*\])?)")


def references(value: Any) -> Iterator[str]:
    """Every dotted name in the expressions of a value, with its indexes: `var.name`, `aws_ecs_cluster.main[0].id`."""
    if isinstance(value, dict):
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)
    elif isinstance(value, str):
        yield from _REFERENCE.findall(code_of(value))


def functions(value: Any) -> set[str]:
    """The names of the functions that the expressions of a value call."""
    if isinstance(value, dict):
        return {name for one in value.values() for name in functions(one)}
    if isinstance(value, list):
        return {name for one in value for name in functions(one)}
    return set(re.findall(r"(?<![\w.])([a-z]\w*)\(", code_of(value))) if isinstance(value, str) else set()


def code_of(text: str) -> str:
    """An expression, or a text in quotes, with spaces in the place of all that is no code."""
    kept: list[str] = []
    modes: list[int | None] = []  # None: in a text; a number: in code, within this many braces
    at = 0
    while at < len(text):
        here = text[at : at + 2]
        in_text = bool(modes) and modes[-1] is None
        step = 1
        if in_text and (here[0] == "\\" or text.startswith("$${", at)):
            step = 2 if here[0] == "\\" else 3
        elif here == "${" and (in_text or not modes):
            modes.append(0)
            step = 2
        elif here[0] == '"':
            modes.pop() if in_text else modes.append(None)
        elif not in_text and modes:
            depth = (modes[-1] or 0) + {"{": 1, "}": -1}.get(here[0], 0)
            if depth < 0:
                modes.pop()
            else:
                modes[-1] = depth
                kept.append(here[0])
                at += 1
                continue
        kept.append(" " * step)
        at += step
    return "".join(kept)
