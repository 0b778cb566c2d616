# The Lambda variant, with all that is optional, for `make terraform`.
runs_on             = "lambda"
lambda_package      = "function.zip"
idempotency_table   = true
kms_key_arn         = "arn:aws:kms:eu-west-1:123456789012:key/one"
config_secret_arns  = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:smtp-AbCdEf"]
large_body_buckets  = ["large-bodies"]
delete_large_bodies = true
