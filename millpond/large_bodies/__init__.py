"""The wing of large bodies: the way to what is too large for SQS, and stands in S3 instead.

It knows no queue. It may import `errors`, `foreign`, `hub`, `sqs`.
"""
