# Three alarms: something is a dead letter, something waits for too long, nobody receives.

resource "aws_sns_topic" "alarms" {
  #checkov:skip=CKV_AWS_26:CloudWatch may not use the AWS managed key of SNS, and an alarm holds no payload; a topic with a key of yours: alarm_topic_arn
  count = var.alarm_topic_arn == "" ? 1 : 0
  name  = "${var.name}-alarms"
}

resource "aws_sns_topic_subscription" "alarms" {
  count     = var.alarm_email == "" ? 0 : 1
  topic_arn = local.alarm_topic_arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

locals {
  alarm_topic_arn = var.alarm_topic_arn == "" ? aws_sns_topic.alarms[0].arn : var.alarm_topic_arn
}

# Not NumberOfMessagesSent: it counts the letters that a worker sends, and misses those that SQS moves itself.
resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  alarm_name          = "${var.name}-dead-letters"
  alarm_description   = "There are dead letters: read the attribute millpond of one, mend the cause, send them back."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [local.alarm_topic_arn]
  ok_actions          = [local.alarm_topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "oldest_age" {
  alarm_name          = "${var.name}-oldest-age"
  alarm_description   = "A message waits for more than ${var.alarm_age_seconds} s: look whether a breaker is open, then for more tasks."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.main.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarm_age_seconds
  treat_missing_data  = "notBreaching"
  alarm_actions       = [local.alarm_topic_arn]
  ok_actions          = [local.alarm_topic_arn]
}

# A quiet queue has empty receives, three a minute by one long poll. A queue with neither has no worker.
resource "aws_cloudwatch_metric_alarm" "no_receives" {
  alarm_name          = "${var.name}-no-receives"
  alarm_description   = "Nobody has asked the queue for messages in ten minutes: look at the service's events and its log."
  evaluation_periods  = 2
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  alarm_actions       = [local.alarm_topic_arn]
  ok_actions          = [local.alarm_topic_arn]

  metric_query {
    id          = "receives"
    expression  = "FILL(messages, 0) + FILL(empty, 0)"
    label       = "receives"
    return_data = true
  }

  metric_query {
    id = "messages"

    metric {
      namespace   = "AWS/SQS"
      metric_name = "NumberOfMessagesReceived"
      dimensions  = { QueueName = aws_sqs_queue.main.name }
      stat        = "Sum"
      period      = 300
    }
  }

  metric_query {
    id = "empty"

    metric {
      namespace   = "AWS/SQS"
      metric_name = "NumberOfEmptyReceives"
      dimensions  = { QueueName = aws_sqs_queue.main.name }
      stat        = "Sum"
      period      = 300
    }
  }
}
