"""Plant: one small bug at one place of one file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

Span = tuple[tuple[int, int], tuple[int, int]]

#: Of cosmic-ray's, those that are mistakes people make: the next limit, the other branch, a wrong sign, one more.
CORE = (
    "AddNot",
    "ExceptionReplacer",
    "NumberReplacer",
    "ReplaceAndWithOr",
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBreakWithContinue",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Not",
    "ZeroIterationForLoop",
)


class DropStatement(Operator):  # type: ignore[misc]
    """Leave out a call, a write to an attribute or an item, a deletion."""

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        if node.type == "simple_stmt" and _does_something(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[0] = parso.parse(f"{node.children[0].get_first_leaf().prefix}pass")
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class ReturnNothing(Operator):  # type: ignore[misc]
    """Return None instead; of False nobody who asks for the truth of it could tell."""

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        if node.type == "return_stmt" and node.children[1].get_code().strip() not in ("None", "False"):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = parso.parse(" None")
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class SwapWord(Operator):  # type: ignore[misc]
    """min for max, and the other way round."""

    words = {"min": "max", "max": "min"}  # noqa: RUF012

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        if node.type == "name" and node.value in self.words:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.value = self.words[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def _does_something(statement: Any) -> bool:
    if statement.type == "expr_stmt":  # to a local name: its first use would raise, which any test finds
        return statement.children[0].type in ("atom_expr", "power")
    return statement.type in ("atom_expr", "power", "del_stmt")


OPERATORS: dict[str, Callable[[], Operator]] = {name: get_operator(f"core/{name}") for name in CORE}
OPERATORS |= {operator.__name__: operator for operator in (DropStatement, ReturnNothing, SwapWord)}


class Plant(NamedTuple):
    """`occurrence`: which of the places in the file where the operator can be used. `line`: counted from 1."""

    file: str
    operator: str
    occurrence: int
    line: int


def plants(root: Path, file: str) -> list[Plant]:
    """Every bug that can be planted in the functions of a file; not where nothing is done: `_idle`."""
    source = (root / file).read_text()
    tree, inside = get_ast(source), _Functions(source)
    found = []
    for name, make in OPERATORS.items():
        operator = make()
        spans = [span for node in ast_nodes(tree) for span in operator.mutation_positions(node)]
        found += [Plant(file, name, i, span[0][0]) for i, span in enumerate(spans) if inside.has(span[0])]
    return found


def planted(root: Path, plant: Plant) -> str:
    """The file's source with the bug in it."""
    changed = mutate_code((root / plant.file).read_text(), OPERATORS[plant.operator](), plant.occurrence)
    assert changed is not None
    return str(changed)


class _Functions:
    """Which places of a source are in the body of a function, and run."""

    def __init__(self, source: str) -> None:
        tree = ast.parse(source)
        protocols = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _is_protocol(node)]
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        self._bodies = [(node.body[0].lineno, node.end_lineno or 0) for node in functions]
        self._nowhere = [(node.lineno, node.end_lineno or 0) for node in protocols]
        self._idle = [(node.lineno, node.col_offset, node.end_lineno, node.end_col_offset) for node in _idle(tree)]

    def has(self, place: tuple[int, int]) -> bool:
        line, column = place
        if any(first <= line <= last for first, last in self._nowhere):
            return False
        if any((a, b) <= (line, column) < (c, d) for a, b, c, d in self._idle):
            return False
        return any(first <= line <= last for first, last in self._bodies)


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


def _idle(tree: ast.AST) -> Iterator[Any]:
    """Annotations, and zip's `strict`, which asserts what is so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.returns
        elif isinstance(node, ast.keyword) and node.arg == "strict":
            yield node.value
