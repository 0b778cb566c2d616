# The Fargate variant, with all that is optional, for `make terraform`.
vpc_id               = "vpc-1"
image                = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/millpond@sha256:1"
idempotency_table    = true
config_secret_arns   = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:smtp-AbCdEf"]
large_body_buckets   = ["large-bodies"]
secrets              = { SMTP_PASSWORD = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:smtp-AbCdEf" }
delete_large_bodies  = true
task_protection      = true
dead_letters_by_page = true
