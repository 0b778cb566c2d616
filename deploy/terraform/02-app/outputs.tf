output "queue_url" {
  description = "SQS_QUEUE_URL of whoever sends."
  value       = aws_sqs_queue.main.id
}

output "dead_letter_url" {
  description = "The dead-letter queue."
  value       = aws_sqs_queue.dead_letters.id
}

output "log_group" {
  description = "Where the worker's log is."
  value       = aws_cloudwatch_log_group.worker.name
}

output "cluster_arn" {
  description = "The cluster; empty on Lambda."
  value       = local.on_fargate == 1 ? aws_ecs_cluster.main[0].arn : ""
}

output "service_name" {
  description = "The service; empty on Lambda."
  value       = local.on_fargate == 1 ? aws_ecs_service.worker[0].name : ""
}

output "image" {
  description = "What runs: deploy/fargate.sh apply goes back to an older one by IMAGE."
  value       = var.image
}

output "alarm_topic_arn" {
  description = "Where the alarms go: subscribe whoever is on call."
  value       = local.alarm_topic_arn
}

output "producer_policy" {
  description = "The policy for applications that send: attach it to their roles."
  value       = templatefile("${local.policies}/producer.json", { queue_arn = aws_sqs_queue.main.arn })
}
