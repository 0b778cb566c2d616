# Stage 2: a queue, its dead-letter queue, and what works on it: a Fargate service, or a Lambda function.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.28, < 7.0"
    }
  }
}

provider "aws" {
  region              = var.aws_region
  allowed_account_ids = [var.aws_account_id] # keys of another account end the run before it changes anything

  default_tags {
    tags = { application = var.name, managed-by = "terraform" }
  }
}

data "aws_partition" "current" {} # aws, aws-cn or aws-us-gov: the beginning of every ARN

locals {
  on_fargate = var.runs_on == "fargate" ? 1 : 0
  on_lambda  = var.runs_on == "lambda" ? 1 : 0
  has_claims = var.idempotency_table ? 1 : 0
  has_key    = var.kms_key_arn == "" ? 0 : 1
  policies   = "${path.module}/../../policies" # the JSON of docs/security.md
  arn_prefix = "arn:${data.aws_partition.current.partition}"
  of_account = "${var.aws_region}:${var.aws_account_id}"
}
