# Where the tasks are in the network: nobody can call them, and they call out by the ports that they need.

data "aws_subnets" "all" {
  count = local.on_fargate

  filter {
    name   = "vpc-id"
    values = [var.vpc_id]
  }
}

locals {
  subnet_ids = length(var.subnet_ids) > 0 ? var.subnet_ids : flatten(data.aws_subnets.all[*].ids)
}

# The VPC's own DNS needs no rule.
resource "aws_security_group" "worker" {
  count       = local.on_fargate
  name        = "${var.name}-worker"
  description = "A worker is called by nobody"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "worker" {
  for_each          = local.on_fargate == 1 ? var.egress : {}
  security_group_id = aws_security_group.worker[0].id
  description       = each.key
  ip_protocol       = each.value.protocol
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = each.value.cidr
}
