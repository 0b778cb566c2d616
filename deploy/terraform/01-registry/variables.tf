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

variable "name" {
  type        = string
  description = "The name of the repository, and of all that stage 2 makes."
  default     = "millpond"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 32 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "images_kept" {
  type        = number
  description = "How many images stay: as far back a roll-back can go."
  default     = 30
}

variable "force_delete" {
  type        = bool
  description = "Whether destroying the repository deletes its images too."
  default     = true
}

variable "kms_key_arn" {
  type        = string
  description = "A KMS key for the images; empty: encrypted by ECR's own key (AES256)."
  default     = ""
}
