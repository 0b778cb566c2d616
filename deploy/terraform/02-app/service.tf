# The Fargate service: what one task is, how many there are, how a deploy goes.

resource "aws_cloudwatch_log_group" "worker" {
  #checkov:skip=CKV_AWS_338:a year of log lines is a price to choose: log_retention_days
  name              = local.on_lambda == 1 ? "/aws/lambda/${var.name}" : "/ecs/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn == "" ? null : var.log_kms_key_arn
}

locals {
  scales = local.on_fargate == 1 && var.max_tasks > var.min_tasks ? 1 : 0

  # What every worker reads; what it is on this platform comes last, and counts.
  environment = merge({
    SQS_QUEUE_URL            = aws_sqs_queue.main.id
    LOG_SUCCEEDED_PER_SECOND = "1000" # deploy/e2e.py wants to see each message; the log costs $0.50 for two million lines
    SQS_VISIBILITY_TIMEOUT   = tostring(local.visibility_seconds)
    IDEMPOTENCY_TABLE        = var.idempotency_table ? aws_dynamodb_table.claims[0].name : ""
  }, var.environment)

  of_task = merge(local.environment, {
    AWS_REGION              = var.aws_region # Lambda has it by itself, and refuses it here
    HTTP_LISTEN             = "127.0.0.1:8080"
    WORKER_SHUTDOWN_TIMEOUT = tostring(var.drain_seconds)
    GRACE_SECONDS           = "120" # stopTimeout below, which a task cannot read
    TASK_PROTECTION         = var.task_protection ? "auto" : "off"
  })
}

resource "aws_ecs_cluster" "main" {
  #checkov:skip=CKV_AWS_65:Container Insights is on where the service scales, and would cost without a use elsewhere
  count = local.on_fargate
  name  = var.name

  setting { # the number of running tasks, by which the backlog is divided, comes from Container Insights alone
    name  = "containerInsights"
    value = local.scales == 1 ? "enabled" : "disabled"
  }
}

resource "aws_ecs_task_definition" "worker" {
  count                    = local.on_fargate
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = aws_iam_role.worker.arn
  execution_role_arn       = aws_iam_role.execution[0].arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  container_definitions = jsonencode([{
    name                   = "worker"
    image                  = var.image
    essential              = true
    command                = ["python", "worker.py", "-c", "config.toml"] # no shell: SIGTERM reaches the worker itself
    user                   = "65532"
    readonlyRootFilesystem = true
    stopTimeout            = 120 # from SIGTERM to SIGKILL; the most that Fargate allows, and more than drain_seconds
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    environment            = [for name, value in local.of_task : { name = name, value = value }]
    secrets                = [for name, arn in var.secrets : { name = name, valueFrom = arn }]

    # A handler that computes keeps it waiting for 5 s each time: 145 s in all, and max_block_seconds is 120.
    healthCheck = {
      command     = ["CMD", "python", "-m", "millpond.healthcheck"]
      interval    = 30
      timeout     = 10
      retries     = 5
      startPeriod = 60
    }

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.worker.name
        awslogs-region        = var.aws_region
        awslogs-stream-prefix = "worker"
        mode                  = "non-blocking" # a log that nobody takes must not hold up the work
        max-buffer-size       = "25m"
      }
    }
  }])
}

resource "aws_ecs_service" "worker" {
  #checkov:skip=CKV_AWS_333:a default VPC has public subnets alone, and nothing can connect to a task; assign_public_ip is false in private ones
  count                              = local.on_fargate
  name                               = var.name
  cluster                            = aws_ecs_cluster.main[0].id
  task_definition                    = aws_ecs_task_definition.worker[0].arn
  launch_type                        = "FARGATE"
  platform_version                   = "LATEST"
  desired_count                      = var.min_tasks
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  enable_execute_command             = false
  propagate_tags                     = "SERVICE"
  wait_for_steady_state              = true # apply ends when the new tasks run, or says that they do not

  deployment_circuit_breaker { # tasks that do not start, or are not healthy: back to what ran before
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = local.subnet_ids
    security_groups  = [aws_security_group.worker[0].id]
    assign_public_ip = var.assign_public_ip
  }

  lifecycle {
    ignore_changes = [desired_count] # from the first apply on the scaling decides
  }

  # Without its rights a task starts and is refused: they are there before it.
  depends_on = [
    aws_iam_role_policy.worker,
    aws_iam_role_policy.worker_dead_letters,
    aws_iam_role_policy.worker_idempotency,
    aws_iam_role_policy.worker_key,
    aws_iam_role_policy.worker_large_bodies,
    aws_iam_role_policy.worker_large_bodies_delete,
    aws_iam_role_policy.worker_secret_keys,
    aws_iam_role_policy.worker_secrets,
    aws_iam_role_policy.worker_task_protection,
    aws_iam_role_policy.execution,
    aws_iam_role_policy.execution_secret_keys,
    aws_iam_role_policy.execution_secrets,
  ]
}

resource "aws_appautoscaling_target" "worker" {
  count              = local.scales
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.main[0].name}/${aws_ecs_service.worker[0].name}"
  min_capacity       = var.min_tasks
  max_capacity       = var.max_tasks
}

# Not CPU: a worker that waits for a mail server uses none, however long the queue is.
resource "aws_appautoscaling_policy" "backlog_per_task" {
  count              = local.scales
  name               = "backlog-per-task"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.worker[0].service_namespace
  scalable_dimension = aws_appautoscaling_target.worker[0].scalable_dimension
  resource_id        = aws_appautoscaling_target.worker[0].resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.backlog_per_task
    scale_in_cooldown  = 300
    scale_out_cooldown = 60

    customized_metric_specification {
      metrics {
        id          = "backlog"
        expression  = "FILL(visible, 0) / IF(FILL(tasks, 1) < 1, 1, FILL(tasks, 1))"
        label       = "messages that wait, for each task"
        return_data = true
      }

      metrics {
        id          = "visible"
        return_data = false

        metric_stat {
          stat = "Maximum"

          metric {
            namespace   = "AWS/SQS"
            metric_name = "ApproximateNumberOfMessagesVisible"

            dimensions {
              name  = "QueueName"
              value = aws_sqs_queue.main.name
            }
          }
        }
      }

      metrics {
        id          = "tasks"
        return_data = false

        metric_stat {
          stat = "Average"

          metric {
            namespace   = "ECS/ContainerInsights"
            metric_name = "RunningTaskCount"

            dimensions {
              name  = "ClusterName"
              value = aws_ecs_cluster.main[0].name
            }

            dimensions {
              name  = "ServiceName"
              value = aws_ecs_service.worker[0].name
            }
          }
        }
      }
    }
  }
}
