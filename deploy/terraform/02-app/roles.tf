# Two roles: by `execution` ECS starts a task (image, log, secrets of its environment), by `worker` the code runs.

data "aws_iam_policy_document" "of_tasks" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = [local.on_lambda == 1 ? "lambda.amazonaws.com" : "ecs-tasks.amazonaws.com"]
    }

    # A service of AWS can be made to use the roles of others: only the tasks of this account may take these.
    dynamic "condition" {
      for_each = local.on_fargate == 1 ? [var.aws_account_id] : []

      content {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [condition.value]
      }
    }
  }
}

locals {
  bucket_arns = [for bucket in var.large_body_buckets : "${local.arn_prefix}:s3:::${bucket}"]
}

resource "aws_iam_role" "worker" {
  name               = "${var.name}-worker"
  assume_role_policy = data.aws_iam_policy_document.of_tasks.json
}

resource "aws_iam_role_policy" "worker" {
  name = "queue"
  role = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/worker.json", {
    queue_arn       = aws_sqs_queue.main.arn
    dead_letter_arn = aws_sqs_queue.dead_letters.arn
  })
}

resource "aws_iam_role_policy" "worker_idempotency" {
  count = local.has_claims
  name  = "idempotency"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/worker-idempotency.json", {
    table_arn = aws_dynamodb_table.claims[0].arn
  })
}

resource "aws_iam_role_policy" "worker_task_protection" {
  count = var.task_protection ? local.on_fargate : 0
  name  = "task-protection"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/worker-task-protection.json", {
    tasks_arn = "${local.arn_prefix}:ecs:${local.of_account}:task/${aws_ecs_cluster.main[0].name}/*"
  })
}

resource "aws_iam_role_policy" "worker_secrets" {
  count = length(var.config_secret_arns) > 0 ? 1 : 0
  name  = "secrets"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/worker-secrets.json", {
    secret_arns = join("\", \"", var.config_secret_arns)
  })
}

resource "aws_iam_role_policy" "worker_secret_keys" {
  count = length(var.config_secret_arns) > 0 && length(var.secret_key_arns) > 0 ? 1 : 0
  name  = "secret-keys"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/secret-keys.json", {
    key_arns = join("\", \"", var.secret_key_arns)
  })
}

resource "aws_iam_role_policy" "worker_large_bodies" {
  count = length(var.large_body_buckets) > 0 ? 1 : 0
  name  = "large-bodies"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/worker-large-bodies.json", {
    buckets = join("\", \"", local.bucket_arns)
    objects = join("\", \"", [for arn in local.bucket_arns : "${arn}/*"])
  })
}

resource "aws_iam_role_policy" "worker_large_bodies_delete" {
  count = length(var.large_body_buckets) > 0 && var.delete_large_bodies ? 1 : 0
  name  = "large-bodies-delete"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/worker-large-bodies-delete.json", {
    objects = join("\", \"", [for arn in local.bucket_arns : "${arn}/*"])
  })
}

resource "aws_iam_role_policy" "worker_dead_letters" {
  count = var.dead_letters_by_page ? local.on_fargate : 0
  name  = "dead-letters"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/worker-dead-letters.json", {
    dead_letter_arn = aws_sqs_queue.dead_letters.arn
  })
}

resource "aws_iam_role_policy" "worker_key" {
  count = local.has_key
  name  = "key"
  role  = aws_iam_role.worker.id

  policy = templatefile("${local.policies}/worker-key.json", {
    key_arn = var.kms_key_arn
  })
}

resource "aws_iam_role" "execution" {
  count              = local.on_fargate
  name               = "${var.name}-execution"
  assume_role_policy = data.aws_iam_policy_document.of_tasks.json
}

resource "aws_iam_role_policy" "execution" {
  count = local.on_fargate
  name  = "start"
  role  = aws_iam_role.execution[0].id

  policy = templatefile("${local.policies}/execution.json", {
    repository_arn = "${local.arn_prefix}:ecr:${local.of_account}:repository/${split("@", split(":", split("/", var.image)[1])[0])[0]}"
    log_group_arn  = aws_cloudwatch_log_group.worker.arn
  })
}

resource "aws_iam_role_policy" "execution_secrets" {
  count = length(var.secrets) > 0 ? local.on_fargate : 0
  name  = "secrets"
  role  = aws_iam_role.execution[0].id

  policy = templatefile("${local.policies}/execution-secrets.json", {
    # What stands behind the name, ":key::", picks a field of a secret: it is no part of its ARN.
    secret_arns = join("\", \"", [for arn in values(var.secrets) : join(":", slice(split(":", arn), 0, min(7, length(split(":", arn)))))])
  })
}

resource "aws_iam_role_policy" "execution_secret_keys" {
  count = length(var.secrets) > 0 && length(var.secret_key_arns) > 0 ? local.on_fargate : 0
  name  = "secret-keys"
  role  = aws_iam_role.execution[0].id

  policy = templatefile("${local.policies}/secret-keys.json", {
    key_arns = join("\", \"", var.secret_key_arns)
  })
}
