# What runs without a message costs this: `plan` shows it before it is made. Prices of us-east-1 in US dollars, as of
# 2026; other regions are up to a third dearer. docs/deploy/fargate.md adds what each message costs.

locals {
  hours          = 730                                              # of a month
  cpu_hour       = var.architecture == "ARM64" ? 0.03238 : 0.04048  # one vCPU
  gib_hour       = var.architecture == "ARM64" ? 0.00356 : 0.004445 # one GiB of memory
  address_hour   = var.assign_public_ip ? 0.005 : 0                 # a public IPv4 address
  task_month     = local.hours * (var.cpu / 1024 * local.cpu_hour + var.memory / 1024 * local.gib_hour + local.address_hour)
  alarms_month   = 0.10 * (4 + 4 * local.scales) # a metric of an alarm; the scaling has two alarms of two metrics
  insights_month = 9 * local.scales              # Container Insights: about 30 metrics at $0.30

  fixed_month = local.alarms_month + local.insights_month
}

output "monthly_cost" {
  description = "US dollars a month before the first message, with the fewest tasks and with the most."
  value = {
    least = format("%.2f", local.fixed_month + local.on_fargate * var.min_tasks * local.task_month)
    most  = format("%.2f", local.fixed_month + local.on_fargate * var.max_tasks * local.task_month)
  }
}
