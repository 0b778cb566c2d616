"""One queue, from the poll to the delete: what is held, what runs, how it ended, and what SQS is told of it.

It may import everything but `process`, `commands`, `local` and `mail`.
"""
