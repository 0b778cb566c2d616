"""The tables of transitions are the code's: each method that they name enters its state, and no other code does."""

import ast
import re
from pathlib import Path

import pytest

import millpond.engine
from millpond.engine.breaker import BreakerState
from millpond.engine.delivery_state import DeliveryState
from millpond.engine.intake import IntakeState
from millpond.engine.lease_state import LeaseState

ENGINE = Path(millpond.engine.__file__).parent
HOMES = {
    BreakerState: "millpond.engine.breaker",
    DeliveryState: "millpond.engine.delivery_state",
    IntakeState: "millpond.engine.intake",
    LeaseState: "millpond.engine.lease_state",
}


def table(states):
    """The rows: from which states, by what, to which."""
    for line in states.__doc__.splitlines():
        if match := re.fullmatch(r"\s*\|([^|`]*)\|\s*(\w+)\s*\| `([\w.]+)`:[^|]*\|", line):
            before, after, method = match.groups()
            yield [name for name in re.split(r"\W+", before) if name], method, after


def entered(states):
    """What assigns a state of these: the function, with its class, and the state."""
    for path in ENGINE.glob("*.py"):
        tree = ast.parse(path.read_text())
        home = f"millpond.engine.{path.stem}" == HOMES[states]
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == HOMES[states]]
        known = {alias.name for node in imports for alias in node.names}
        for function, name in functions(tree):
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and enters(node) and (home or node.value.id in known):
                    yield name, node.value.id


def enters(node):
    """Whether it assigns a `state` by its name."""
    attributes = [target.attr for target in node.targets if isinstance(target, ast.Attribute)]
    return attributes == ["state"] and isinstance(node.value, ast.Name)


def functions(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node, node.name
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield method, f"{node.name}.{method.name}"


@pytest.mark.parametrize("states", HOMES)
def test_each_transition_of_the_table_happens_in_its_method_and_nowhere_else(states):
    rows = list(table(states))
    assert {after for _, _, after in rows} == {state.name for state in states}
    assert set(entered(states)) == {(method, after) for before, method, after in rows if before}


@pytest.mark.parametrize("states", HOMES)
def test_a_table_names_states_that_there_are(states):
    names = {state.name for state in states} | {"any"}
    assert {name for before, _, _ in table(states) for name in before} <= names
