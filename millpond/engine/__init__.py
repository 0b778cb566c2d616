"""One queue, from the poll to the delete: what is held, what runs, how it ended, and what SQS is asked then.

It may import everything but `process`, `commands`, `local` and `mail`.
"""
