"""One process, from the boot to the exit code.

It may import everything but `commands` and `mail`.
"""
