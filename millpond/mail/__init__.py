"""Building a mail and speaking SMTP: a library that knows no queue.

It may import the public names of `millpond`, and `errors`.
"""
