"""The side of the application: its settings, its handlers, and the envelopes of its messages.

It may import `errors`, `foreign`, `message`, `hub`, `observe` and `sqs`.
"""
