"""The way to SQS: one Protocol (`queue`), two clients of it (`wire`, `boto`), and all that they need.

It may import `errors`, `foreign` and `hub`; it could be a library of its own.
"""
