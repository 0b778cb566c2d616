"""The proof by fault injection: real worker processes, a proxy that injects faults, and an audit that must pass."""
