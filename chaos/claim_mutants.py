"""Hunts the planted bugs of the stores of claims: their contract must find every one of them, in each store.

`python -m chaos.claim_mutants` shows which promise each one breaks. Exit code 1: one was not found.
"""

import tests.patch  # noqa: F401, I001  (before all else: the stores run patched, as in a worker)

import argparse
import os
import sys
import time
from collections.abc import Sequence

from chaos.planted import Mutant, planted
from chaos.planted.claims import CLAIM_MUTANTS
from tests.claims.contract import CONTRACT, Stores
from tests.claims.opened import DynamoStores, MemoryStores
from tests.dynamo_server import dynamo

TABLE = "claims"


def hunt(bug: Mutant, stores: Stores) -> str:
    """The first promise that a store with this bug breaks; "" where it keeps all."""
    with planted(bug):
        for promise in CONTRACT:
            try:
                promise(stores)
            except AssertionError:
                return promise.__name__
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 1 where a bug was not found."""
    parser = argparse.ArgumentParser(prog="python -m chaos.claim_mutants", description="Plants bugs; see the module.")
    parser.add_argument("names", nargs="*", help="these bugs only")
    options = parser.parse_args(arguments)
    missed, began = 0, time.monotonic()
    with dynamo() as server:
        server.create(TABLE)
        os.environ["AWS_ENDPOINT_URL_DYNAMODB"] = server.url
        stores: dict[str, Stores] = {"memory": MemoryStores(), "dynamodb": DynamoStores(TABLE)}
        print(f"{'bug':38} {'store':9} found by")
        for store, bugs in CLAIM_MUTANTS.items():
            for bug in bugs:
                if not options.names or bug.name in options.names:
                    by = hunt(bug, stores[store])
                    missed += not by
                    print(f"{bug.name:38} {store:9} {by or 'NOT FOUND'}    [{bug.rule}]", flush=True)
    print(f"{missed} not found, {time.monotonic() - began:.0f} s")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
