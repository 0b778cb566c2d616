"""One process, from the boot to the exit code.

It may import `errors`, `foreign`, `observe`, `message`, `hub`, `sqs`, `app`, `engine`, `local` and `http`.
"""
