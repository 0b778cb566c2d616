"""One process, from the boot to the exit code.

It may import `errors`, `foreign`, `observe`, `message`, `hub`, `sqs`, `app`, `dead_letters`,
`engine`, `local` and `http`.
"""
