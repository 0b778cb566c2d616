"""Claims: the right to run one event once, kept in a store that all workers share.

`claim` says what a store promises, and decides what a record means; `memory` and `dynamodb` are the stores. Nothing
here knows a queue or a handler. It may import `errors`, `foreign`, `observe`, `message`, `hub` and `sqs`.
"""
