"""The command line, a file a command.

It may import everything but `testing` and `mail`.
"""
