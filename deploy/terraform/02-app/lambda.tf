# Instead of the service: the same handlers behind an event source mapping. docs/deploy/lambda.md says what differs.

resource "aws_lambda_function" "worker" {
  #checkov:skip=CKV_AWS_115:the event source mapping bounds the invocations side by side
  #checkov:skip=CKV_AWS_116:that is for asynchronous invocations; what fails here stays in the queue, which has its dead-letter queue
  #checkov:skip=CKV_AWS_117:a function needs a VPC only where its handlers call into one
  #checkov:skip=CKV_AWS_272:the package is made and applied by the same hands; a signing profile is the account's own
  count            = local.on_lambda
  function_name    = var.name
  role             = aws_iam_role.worker.arn
  filename         = var.lambda_package
  source_code_hash = filebase64sha256(var.lambda_package)
  runtime          = "python3.13"
  architectures    = [var.architecture == "ARM64" ? "arm64" : "x86_64"]
  handler          = "main.handler"
  timeout          = var.lambda_timeout_seconds
  memory_size      = var.memory
  kms_key_arn      = var.kms_key_arn == "" ? null : var.kms_key_arn # of its environment

  environment {
    variables = local.environment
  }

  tracing_config {
    mode = "PassThrough"
  }

  # What the boot is refused, a batch pays for with one of its receives.
  depends_on = [
    aws_cloudwatch_log_group.worker,
    aws_iam_role_policy.lambda_log,
    aws_iam_role_policy.worker,
    aws_iam_role_policy.worker_dead_letters,
    aws_iam_role_policy.worker_idempotency,
    aws_iam_role_policy.worker_key,
    aws_iam_role_policy.worker_large_bodies,
    aws_iam_role_policy.worker_large_bodies_delete,
    aws_iam_role_policy.worker_secret_keys,
    aws_iam_role_policy.worker_secrets,
  ]
}

resource "aws_iam_role_policy" "lambda_log" {
  count = local.on_lambda
  name  = "log"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/lambda-log.json", {
    log_group_arn = aws_cloudwatch_log_group.worker.arn
  })
}

resource "aws_lambda_event_source_mapping" "queue" {
  count                              = local.on_lambda
  event_source_arn                   = aws_sqs_queue.main.arn
  function_name                      = aws_lambda_function.worker[0].arn
  batch_size                         = var.lambda_batch_size
  maximum_batching_window_in_seconds = var.fifo ? null : var.lambda_batching_window_seconds
  function_response_types            = ["ReportBatchItemFailures"] # a failure is one record's, not the batch's

  # AWS takes one of the two: invocations side by side are bounded by either.
  dynamic "scaling_config" {
    for_each = var.lambda_provisioned_pollers == null ? [var.lambda_max_concurrency] : []

    content {
      maximum_concurrency = scaling_config.value
    }
  }

  dynamic "provisioned_poller_config" {
    for_each = var.lambda_provisioned_pollers == null ? [] : [var.lambda_provisioned_pollers]

    content {
      minimum_pollers = provisioned_poller_config.value.minimum
      maximum_pollers = provisioned_poller_config.value.maximum
    }
  }
}
