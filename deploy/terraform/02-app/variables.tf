# Where

variable "aws_account_id" {
  type        = string
  description = "The account, twelve digits: deploy/fargate.sh takes it from AWS_ACCOUNT_ID."

  validation {
    condition     = can(regex("^[0-9]{12}$", var.aws_account_id))
    error_message = "aws_account_id must be twelve digits."
  }
}

variable "aws_region" {
  type        = string
  description = "The region: deploy/fargate.sh takes it from AWS_REGION."
}

variable "vpc_id" {
  type        = string
  description = "The network of the tasks: deploy/fargate.sh takes it from TF_VPC_ID. Lambda needs none."
  default     = ""

  validation {
    condition     = var.runs_on == "lambda" || startswith(var.vpc_id, "vpc-")
    error_message = "vpc_id must be a VPC, vpc-...: set TF_VPC_ID."
  }
}

variable "subnet_ids" {
  type        = list(string)
  description = "The subnets of the tasks; empty: all of the VPC."
  default     = []
}

variable "assign_public_ip" {
  type        = bool
  description = "true where the subnets are public, as a default VPC's are; false behind a NAT gateway or VPC endpoints."
  default     = true
}

variable "egress" {
  type        = map(object({ port = number, protocol = string, cidr = string }))
  description = "Where the tasks may connect to, by name. Nobody can connect to them."
  default = {
    aws  = { port = 443, protocol = "tcp", cidr = "0.0.0.0/0" }
    mail = { port = 587, protocol = "tcp", cidr = "0.0.0.0/0" }
  }
}

variable "name" {
  type        = string
  description = "The name of the queue, the service and all that belongs to them."
  default     = "millpond"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 32 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "runs_on" {
  type        = string
  description = "fargate: a service that polls the queue. lambda: a function behind an event source mapping."
  default     = "fargate"

  validation {
    condition     = contains(["fargate", "lambda"], var.runs_on)
    error_message = "runs_on must be fargate or lambda."
  }
}

# The queue

variable "fifo" {
  type        = bool
  description = "Whether the queues are FIFO queues. It cannot be changed later: they would be made anew."
  default     = false
}

variable "visibility_seconds" {
  type        = number
  description = "After a worker died others get its messages within this time. Live workers extend it. Lambda: at least six times lambda_timeout_seconds is taken."
  default     = 60

  validation {
    condition     = var.visibility_seconds >= 1 && var.visibility_seconds <= 43200
    error_message = "visibility_seconds must be 1 to 43200 s."
  }
}

variable "retention_seconds" {
  type        = number
  description = "How long the queue keeps a message that nobody handles: 60 to 1209600 s. Its dead letters stay 14 days."
  default     = 345600

  validation {
    condition     = var.retention_seconds >= 60 && var.retention_seconds <= 1209600
    error_message = "retention_seconds must be 60 to 1209600 s."
  }
}

variable "max_receive_count" {
  type        = number
  description = "After this number of receives SQS moves a message itself. Above max_attempts of config.toml, with room for give-backs."
  default     = 17

  validation {
    condition     = var.max_receive_count >= 1 && var.max_receive_count <= 1000
    error_message = "max_receive_count must be 1 to 1000."
  }
}

variable "senders" {
  type        = map(list(string))
  description = "Services of AWS that may send, each with the ARNs in whose name: { \"sns.amazonaws.com\" = [\"arn:aws:sns:...\"] }. Roles of this account need the policy producer.json instead."
  default     = {}
}

variable "kms_key_arn" {
  type        = string
  description = "A KMS key for the queues and the table; empty: keys of SQS and DynamoDB, which cost nothing."
  default     = ""
}

# The alarms and the log

variable "alarm_topic_arn" {
  type        = string
  description = "The SNS topic that the alarms go to; empty: one is made."
  default     = ""
}

variable "alarm_email" {
  type        = string
  description = "An address that gets the alarms, once it has confirmed; empty: none, until one subscribes to the topic."
  default     = ""
}

variable "alarm_age_seconds" {
  type        = number
  description = "How old the oldest message may be, for five minutes, before the alarm."
  default     = 900
}

variable "log_retention_days" {
  type        = number
  description = "How long log lines are kept."
  default     = 30
}

variable "log_kms_key_arn" {
  type        = string
  description = "A KMS key for the log, whose policy lets CloudWatch Logs use it; empty: CloudWatch's own encryption."
  default     = ""
}

# The worker

variable "image" {
  type        = string
  description = "The image, by its digest: <account>.dkr.ecr.<region>.amazonaws.com/<name>@sha256:... Lambda needs none."
  default     = ""

  validation {
    condition     = var.runs_on == "lambda" || can(regex("^[^/]+/[^:@]+[:@].+$", var.image))
    error_message = "image must be a registry, a repository and a tag or digest: deploy/fargate.sh build makes one."
  }
}

variable "environment" {
  type        = map(string)
  description = "Further variables of config.toml: { SMTP_HOST = \"...\", MAIL_FROM = \"...\" }. No secrets: these can be read in the console."
  default     = {}
}

variable "secrets" {
  type        = map(string)
  description = "Variables whose values ECS reads as a task starts: { SMTP_PASSWORD = \"<ARN of a secret or of a parameter>\" }."
  default     = {}
}

variable "config_secret_arns" {
  type        = list(string)
  description = "ARNs of what config.toml names by secretsmanager: and ssm:, which the worker reads itself at its boot."
  default     = []
}

variable "secret_key_arns" {
  type        = list(string)
  description = "KMS keys of yours by which these secrets are encrypted; the AWS managed ones need no right."
  default     = []
}

variable "large_body_buckets" {
  type        = list(string)
  description = "The buckets of [large_bodies] in config.toml: bodies too large for SQS."
  default     = []
}

variable "delete_large_bodies" {
  type        = bool
  description = "Whether the worker may delete them: [large_bodies] delete_after_success of config.toml."
  default     = false
}

variable "dead_letters_by_page" {
  type        = bool
  description = "Whether the worker may move dead letters, for its live page: [http] token of config.toml."
  default     = false
}

variable "idempotency_table" {
  type        = bool
  description = "Whether to make the table that handlers with idempotent=True need: $1.25 for a million of their messages."
  default     = false
}

variable "protect_table" {
  type        = bool
  description = "Whether the table refuses to be destroyed. Without it every event could run again: destroy asks for false."
  default     = true
}

variable "cpu" {
  type        = number
  description = "CPU units of a task: 256 is a quarter of a core, which carries about 2,000 e-mails or 5,000 short messages a second."
  default     = 256
}

variable "memory" {
  type        = number
  description = "MiB of a task, or of the function. [worker] max_bytes_in_flight of config.toml is made for 512."
  default     = 512
}

variable "architecture" {
  type        = string
  description = "X86_64 or ARM64, as the image is built. ARM64 costs a fifth less."
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.architecture)
    error_message = "architecture must be X86_64 or ARM64."
  }
}

variable "task_protection" {
  type        = bool
  description = "Whether ECS leaves a task alone while it has messages in hand: for handlers that take longer than drain_seconds. A task that is never idle then holds up each deploy."
  default     = false
}

variable "drain_seconds" {
  type        = number
  description = "From SIGTERM to the exit. ECS kills after 120 s, so it must be below that."
  default     = 110

  validation {
    condition     = var.drain_seconds >= 1 && var.drain_seconds <= 115
    error_message = "drain_seconds must be 1 to 115 s: ECS kills 120 s after SIGTERM."
  }
}

variable "min_tasks" {
  type        = number
  description = "Tasks that always run. At least one: from none nothing scales up, as nobody would receive."
  default     = 1

  validation {
    condition     = var.min_tasks >= 1
    error_message = "min_tasks must be 1 or more."
  }
}

variable "max_tasks" {
  type        = number
  description = "Tasks that run at most. As many as min_tasks: no scaling, and no Container Insights."
  default     = 4

  validation {
    condition     = var.max_tasks >= var.min_tasks
    error_message = "max_tasks must not be below min_tasks."
  }
}

variable "backlog_per_task" {
  type        = number
  description = "How many messages may wait for each task before there is one more: the messages a second of one task, times the seconds that a message may wait."
  default     = 1000

  validation {
    condition     = var.backlog_per_task > 0
    error_message = "backlog_per_task must be above 0."
  }
}

# Lambda

variable "lambda_package" {
  type        = string
  description = "The .zip of the function: docs/deploy/lambda.md says how it is packed."
  default     = ""

  validation {
    condition     = var.runs_on == "fargate" || var.lambda_package != ""
    error_message = "lambda_package must be the path of a .zip: docs/deploy/lambda.md says how it is packed."
  }
}

variable "lambda_timeout_seconds" {
  type        = number
  description = "The time limit of one invocation, so of all messages of a batch."
  default     = 60

  validation {
    condition     = var.lambda_timeout_seconds >= 1 && var.lambda_timeout_seconds <= 900
    error_message = "lambda_timeout_seconds must be 1 to 900 s."
  }
}

variable "lambda_batch_size" {
  type        = number
  description = "Messages of one invocation, at most. Above 10: a batching window of 1 s or more is needed, and no FIFO queue."
  default     = 10

  validation {
    condition     = var.lambda_batch_size >= 1 && var.lambda_batch_size <= (var.fifo || var.lambda_batching_window_seconds == 0 ? 10 : 10000)
    error_message = "lambda_batch_size must be 1 to 10; to 10000 with lambda_batching_window_seconds on a queue that is not FIFO."
  }
}

variable "lambda_batching_window_seconds" {
  type        = number
  description = "How long messages are gathered for a batch: 0 to 300 s. FIFO queues have none."
  default     = 0

  validation {
    condition     = var.lambda_batching_window_seconds >= 0 && var.lambda_batching_window_seconds <= 300
    error_message = "lambda_batching_window_seconds must be 0 to 300 s."
  }
}

variable "lambda_max_concurrency" {
  type        = number
  description = "Invocations side by side, 2 to 1000. Not with lambda_provisioned_pollers."
  default     = 10

  validation {
    condition     = var.lambda_max_concurrency >= 2 && var.lambda_max_concurrency <= 1000
    error_message = "lambda_max_concurrency must be 2 to 1000."
  }
}

variable "lambda_provisioned_pollers" {
  type        = object({ minimum = number, maximum = number })
  description = "Provisioned mode: pollers that are kept (2 to 200) and their most (to 10000). null: AWS decides, at no price."
  default     = null

  validation {
    condition = var.lambda_provisioned_pollers == null ? true : (
      var.lambda_provisioned_pollers.minimum >= 2 && var.lambda_provisioned_pollers.minimum <= 200 &&
      var.lambda_provisioned_pollers.maximum >= var.lambda_provisioned_pollers.minimum && var.lambda_provisioned_pollers.maximum <= 10000
    )
    error_message = "lambda_provisioned_pollers must be minimum 2 to 200, maximum not below it, to 10000."
  }
}
