# Where handlers with idempotent=True keep what they have done: docs/delivery.md.

resource "aws_dynamodb_table" "claims" {
  #checkov:skip=CKV_AWS_119:DynamoDB encrypts by a key of its own; kms_key_arn sets yours
  #checkov:skip=CKV_AWS_28:claims live for days, and yesterday's would say of today's events that they are not done
  count                       = local.has_claims
  name                        = "${var.name}-claims"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "id"
  deletion_protection_enabled = var.protect_table

  attribute {
    name = "id"
    type = "S"
  }

  ttl {
    enabled        = true
    attribute_name = "expires"
  }

  server_side_encryption { # off is DynamoDB's own key, which encrypts too
    enabled     = var.kms_key_arn != ""
    kms_key_arn = var.kms_key_arn == "" ? null : var.kms_key_arn
  }
}
