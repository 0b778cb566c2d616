"""The way to SQS: one Protocol (`queue`), one class that fulfils it (`sqs_queue`), two clients to call by.

`clients` chooses the client: `wire`, our own, or `boto`, the SDK. `requests` makes what is sent, `answers` reads what
comes back. It may import `errors`, `foreign` and `hub`; it could be a library of its own.
"""
