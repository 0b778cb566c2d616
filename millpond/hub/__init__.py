"""Time and greenlets, and what else a process is made of: threads, child processes, signals. Nothing here knows SQS.

It may import `errors`, `foreign` and `observe`.
"""
