"""What is wrong with a stage of deploy/terraform/, without Terraform: each finding is a sentence.

`terraform validate` needs the provider, which CI cannot have. This checks what it would: every argument and block
against the provider's schema (aws.json), every reference against what is there. And what it would not: policies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.deploy.provider_schema import EXTRACT
from tests.deploy.terraform_files import (
    Arguments,
    Block,
    Stage,
    code_of,
    functions,
    is_block,
    is_expression,
    parsed,
    plain,
    references,
    unquoted,
)

SCHEMA: dict[str, Arguments] = json.loads(EXTRACT.read_text())["types"]
META = {"count", "for_each", "depends_on", "provider"}
META_BLOCKS = {"lifecycle"}
#: The functions of Terraform that are used here; another one is added when it is used, after a look at its page.
FUNCTIONS = {
    *("can", "concat", "contains", "filebase64sha256", "flatten", "format", "join", "jsonencode", "length", "max"),
    *(
        "merge",
        "min",
        "regex",
        "replace",
        "slice",
        "split",
        "startswith",
        "templatefile",
        "title",
        "tostring",
        "values",
    ),
    *("map", "list", "set", "object"),  # types
}
#: A task that scales is one of Fargate: what counts the one may name the other.
IMPLIES = {"${local.scales}": "${local.on_fargate}"}
#: Actions that know no resource.
OF_NO_RESOURCE = {"ecr:GetAuthorizationToken"}


def findings(stage: Stage) -> list[str]:
    return [
        *(f"{block.file}: {block.address}: {text}" for block in stage.blocks for text in _of_block(block, stage)),
        *_unused(stage),
    ]


def _of_block(block: Block, stage: Stage) -> Iterator[str]:
    if block.type:
        if block.type not in SCHEMA:
            yield f"there is no {block.type}"
        else:
            yield from _arguments(block.arguments, SCHEMA[block.type], META, META_BLOCKS)
    yield from _references(block, stage)
    yield from (f"there is no function {name}" for name in sorted(functions(block.arguments) - FUNCTIONS))
    yield from _templates(block, stage)
    for policy in policies(block, stage):
        yield from wildcards(policy)


# --- arguments


def _arguments(found: Arguments, schema: Arguments, meta: set[str], blocks: set[str]) -> Iterator[str]:
    dynamic = {name: one for each in found.get("dynamic", ()) for name, one in each.items()}
    for name, value in found.items():
        if name not in meta | blocks | {"dynamic"}:
            yield from _argument(name, value, schema.get(name))
    for name, one in dynamic.items():
        for content in one.get("content", ()):
            yield from _argument(name, [content], schema.get(name))
    for name, known in schema.items():
        need = known if isinstance(known, str) else known["is"]
        if need.startswith("required") and name not in found and name not in dynamic:
            yield f"{name} is missing"


def _argument(name: str, value: Any, known: str | Arguments | None) -> Iterator[str]:
    if known is None:
        yield f"there is no argument {name}"
    elif known == "read":
        yield f"{name} can only be read"
    elif isinstance(known, str):
        if _is_other_type(value, known.split()[1]):
            yield f"{name} is not a {known.split()[1]}: {value}"
    elif not is_block(value):
        yield f"{name} is a block, not an argument"
    else:
        if known["is"].endswith("block") and len(value) > 1:
            yield f"there can be one {name} only"
        for one in value:
            yield from (f"{name}: {text}" for text in _arguments(one, known["of"], set(), set()))


def _is_other_type(value: Any, wanted: str) -> bool:
    """Whether a literal cannot be converted to the type. Expressions can be anything."""
    if is_expression(value) or value is None:
        return False
    if wanted in ("list", "set"):
        return not isinstance(value, list) or is_block(value)
    if wanted == "map":
        return not isinstance(value, dict)
    text = unquoted(value) if isinstance(value, str) else json.dumps(value)
    if "${" in text:
        return False
    if wanted == "boolean":
        return text not in ("true", "false")
    if wanted == "number":
        return not re.fullmatch(r"-?[0-9.]+", text)
    return isinstance(value, dict | list)


# --- references


def _references(block: Block, stage: Stage) -> Iterator[str]:
    own = _names_of_its_own(block.arguments)
    for name in sorted({*references(block.arguments)}):
        parts = re.sub(r"\[[^\]]*\]", "", name).split(".")
        if parts[0] not in own:
            yield from _reference(name, parts, block, stage)


def _names_of_its_own(arguments: Arguments) -> set[str]:
    """What an expression of a block may name beside what is declared: iterators of `for`, `dynamic` and `for_each`."""
    text = json.dumps(arguments)
    names = {name for pair in re.findall(r"\bfor (\w+)(?:, (\w+))? in\b", text) for name in pair}
    names |= {*re.findall(r'"dynamic": \[\{"(\w+)"', text)} | {*re.findall(r'\}, \{"(\w+)": \{"for_each"', text)}
    return names | {"path", *(["each"] if "for_each" in arguments else [])}


def _reference(name: str, parts: list[str], block: Block, stage: Stage) -> Iterator[str]:
    if parts[0] == "local":
        if parts[1] not in stage.locals:
            yield f"there is no {name}"
        return
    address, attribute = (".".join(parts[:3]), parts[3:4]) if parts[0] == "data" else (".".join(parts[:2]), parts[2:3])
    found = [one for one in stage.blocks if one.address == address]
    if not found:
        yield f"there is no {address}"
    elif found[0].type and attribute:
        if attribute[0] not in SCHEMA.get(found[0].type, {}):
            yield f"{address} has no attribute {attribute[0]}"
        yield from _index(name, found[0], block)


def _index(name: str, named: Block, block: Block) -> Iterator[str]:
    """One that is counted is named by an index, and only by what is there when it is, or asks before."""
    count, indexed = named.arguments.get("count"), "[" in name
    if (count is None and "for_each" not in named.arguments) == indexed:
        yield f"{name}: {named.address} {'is not counted' if indexed else 'is counted: [0]'}"
    elif count is not None and "[0]" in name:
        own, each = block.arguments.get("count"), str(block.arguments.get("for_each", ""))
        implied = str(count)[2:-1] in str(own) or IMPLIES.get(str(own)) == count or str(count)[2:-1] in each
        if not implied and not _is_asked(name, block.arguments):
            yield f"{name}: {named.address} is not always there where this is"


def _is_asked(name: str, value: Any) -> bool:
    """Whether each expression that names it is one of a condition."""
    if isinstance(value, dict):
        return all(_is_asked(name, one) for one in value.values())
    if isinstance(value, list):
        return all(_is_asked(name, one) for one in value)
    return not (isinstance(value, str) and name in value) or " ? " in code_of(value)


def _unused(stage: Stage) -> Iterator[str]:
    named = {re.sub(r"\[[^\]]*\]", "", name) for block in stage.blocks for name in _used_by(block)}
    named = {".".join(name.split(".")[:2]) for name in named}
    for block in stage.of_kind("variable"):
        if block.address not in named:
            yield f"{block.file}: {block.address} is not used"
        if not {"type", "description"} <= {*block.arguments}:
            yield f"{block.file}: {block.address} needs a type and a description"
    yield from (f"local.{name} is not used" for name in stage.locals if f"local.{name}" not in named)


def _used_by(block: Block) -> Iterator[str]:
    """A variable's own validation is no use of it."""
    for name in references(block.arguments):
        if name.split(".")[:2] != block.address.split("."):
            yield name


# --- templates and policies


def template_calls(value: Any) -> Iterator[tuple[str, Arguments]]:
    """Each templatefile() in a value: the file's name, and what it is given."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from template_calls(one)
    elif isinstance(value, str):
        for name, given in re.findall(r'templatefile\("\$\{local\.policies\}/([\w.-]+)", (\{.*\})\)', value):
            yield name, parts(given)


def parts(expression: str) -> Any:
    """The parts of an expression of HCL."""
    return plain(parsed(f"x = {expression}\n"))["x"]


def encoded(value: str) -> Any:
    """What a jsonencode() encodes."""
    [inner] = re.findall(r"^\$\{jsonencode\((.*)\)\}$", value, re.DOTALL)
    return parts(inner)


def _templates(block: Block, stage: Stage) -> Iterator[str]:
    for name, given in template_calls(block.arguments):
        path = policy_file(stage, name)
        if not path.exists():
            yield f"there is no {path.name} in policies/"
            continue
        wanted = {*re.findall(r"\$\{(\w+)\}", path.read_text())}
        yield from (f"{name} needs {missing}, which it is not given" for missing in sorted(wanted - {*given}))
        yield from (f"{name} is given {more}, which it does not need" for more in sorted({*given} - wanted))


def policy_file(stage: Stage, name: str) -> Path:
    return stage.folder.parents[1] / "policies" / name


def rendered(path: Path, values: Mapping[str, str]) -> Any:
    """A policy of deploy/policies/ with these values; what has none is its own name."""
    return json.loads(re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[1]), path.read_text()))


def policies(block: Block, stage: Stage) -> Iterator[Any]:
    """The policies that a block gives: from a file, from a policy document, from jsonencode()."""
    for name, _ in template_calls(block.arguments):
        if policy_file(stage, name).exists():
            yield rendered(policy_file(stage, name), {})
    if block.type == "data.aws_iam_policy_document":
        arguments = block.arguments
        written = [
            *arguments.get("statement", ()),
            *(one["statement"]["content"][0] for one in arguments.get("dynamic", ())),
        ]
        yield {"Statement": [_statement(one) for one in written]}
    for name in ("policy", "assume_role_policy"):
        if isinstance(text := block.arguments.get(name), str) and text.startswith("${jsonencode("):
            yield encoded(text)


def _statement(written: Arguments) -> dict[str, Any]:
    """A statement of a policy document, as JSON has it."""
    found = {
        "Effect": unquoted(written.get("effect", '"Allow"')),
        "Action": [unquoted(one) for one in written["actions"]],
        "Resource": [unquoted(one) for one in written.get("resources", ())],
    }
    for one in written.get("condition", ()):
        values = [unquoted(value) for value in one["values"]] if isinstance(one["values"], list) else one["values"]
        found["Condition"] = {unquoted(one["test"]): {unquoted(one["variable"]): values}}
    return found


def wildcards(policy: Any) -> Iterator[str]:
    """What a policy allows without naming it."""
    for one in policy.get("Statement", ()):
        if one.get("Effect") == "Allow":
            actions, resources = as_list(one["Action"]), as_list(one.get("Resource", ()))
            yield from (f"the action {action} is a wildcard" for action in actions if "*" in action)
            if "*" in resources and "Condition" not in one and not {*actions} <= OF_NO_RESOURCE:
                yield f"{', '.join(actions)}: on every resource"


def as_list(value: Any) -> list[Any]:
    return [*value] if isinstance(value, list | tuple) else [value]
