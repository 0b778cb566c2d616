"""The wing of a Lambda function: from the event of an SQS event source mapping to the answer, by the same engine.

It knows the engine and the boot of a process. It may import `errors`, `foreign`, `observe`, `message`, `hub`, `sqs`,
`claims`, `app`, `engine`, `process`.
"""
