"""The proof by fault injection: real worker processes, a proxy that injects faults, and an account that must close."""
