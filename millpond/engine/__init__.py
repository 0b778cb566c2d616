"""One queue, from the poll to the delete: what is held, what runs, how it ended, and what SQS is asked then.

It may import `errors`, `foreign`, `observe`, `message`, `hub`, `sqs` and `app`.
"""
