#!/usr/bin/env bash
# Millpond on ECS Fargate, from an empty account to a service that was tested and back. docs/deploy/fargate.md explains it.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/fargate.sh build | apply | e2e | destroy

  build     makes the registry, builds the image of this commit, and pushes it; nothing where it is there already
  apply     makes or changes the queue, its alarms and the service, with the image of this commit or of IMAGE_TAG
  e2e       sends jobs through it until each is done; its arguments are those of deploy/e2e.py: --type, --payload, --jobs
  destroy   removes all that build and apply have made, messages and images too

options, after the step:
  --yes          no question before a change
  --no-cleanup   of e2e: leaves the jobs that were not done in the queues

variables:
  AWS_ACCOUNT_ID   the account, twelve digits      aws sts get-caller-identity --query Account --output text
  AWS_REGION       the region                      aws configure get region
  TF_VPC_ID        the network (apply, destroy)    aws ec2 describe-vpcs --query 'Vpcs[].[VpcId,IsDefault]' --output text
  APP_NAME         the name of all that is made (millpond)
  IMAGE_TAG        another image than this commit's: the way back
  ARCHITECTURE     X86_64 or ARM64 (X86_64), for build and apply
  DOCKER           the program that builds and pushes (docker)

All else is a variable of deploy/terraform/02-app/variables.tf: write terraform.tfvars beside it.
exit codes: 0 done, 1 it failed, 3 something is missing before it could begin
TEXT
}

main() {
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  step=${1:-}
  shift || true
  approve=()
  rest=()
  for argument in "$@"; do
    case $argument in
      --yes) approve=(-auto-approve) ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) rest+=("$argument") ;;
    esac
  done
  case $step in
    build | apply | destroy)
      [ ${#rest[@]} -eq 0 ] || refuse "$step has no argument ${rest[0]}: --yes is its only one"
      ;;
    e2e) ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      exit 3
      ;;
  esac
  check_environment
  "step_$step"
}

# --- the steps

step_build() {
  need_programs aws "$docker" git
  say "The registry costs \$0.10 a month for each GB of images; the newest 30 are kept."
  stage registry apply ${approve[@]+"${approve[@]}"}
  local repository tag
  repository=$(output registry repository_url)
  tag=$(image_tag)
  if [ -n "$(digest_of "$tag")" ]; then
    say "The image $repository:$tag is there already."
    return
  fi
  "$docker" build --platform "$platform" --file "$root/deploy/docker/Dockerfile" --tag "$repository:$tag" "$root"
  aws ecr get-login-password | "$docker" login --username AWS --password-stdin "${repository%%/*}"
  "$docker" push "$repository:$tag"
  say "Pushed $repository:$tag. Next: deploy/fargate.sh apply"
}

step_apply() {
  need_programs aws git
  local tag digest
  tag=$(image_tag)
  digest=$(digest_of "$tag")
  [ -n "$digest" ] || fail "there is no image $tag in the registry $TF_VAR_name: run deploy/fargate.sh build, or set IMAGE_TAG"
  say "monthly_cost, among the outputs of the plan, is in US dollars, for what runs without a message. On top come $(prices)"
  stage app apply ${approve[@]+"${approve[@]}"} -var "image=$registry/$TF_VAR_name@$digest"
  say "It runs the image $tag. Send to $(output app queue_url), or test it: deploy/fargate.sh e2e --type TYPE"
}

step_e2e() {
  local python=${PYTHON:-$root/.venv/bin/python}
  [ -x "$python" ] || python=python3
  need_programs "$python"
  local queue dead_letters log_group cluster service
  queue=$(output app queue_url)
  dead_letters=$(output app dead_letter_url)
  log_group=$(output app log_group)
  cluster=$(output app cluster_arn)
  service=$(output app service_name)
  local arguments=(--queue-url "$queue" --dead-letter-url "$dead_letters" --log-group "$log_group" --region "$AWS_REGION")
  if [ -n "$cluster" ]; then # on Lambda there is none
    arguments+=(--cluster-arn "$cluster" --service-name "$service")
  fi
  "$python" "$root/deploy/e2e.py" "${arguments[@]}" ${rest[@]+"${rest[@]}"}
}

step_destroy() {
  need_programs aws
  if stage_has app aws_sqs_queue.main; then
    say_what_is_lost
  fi
  if stage_has app 'aws_dynamodb_table.claims[0]'; then
    stage app apply ${approve[@]+"${approve[@]}"} "${no_image[@]}" -var protect_table=false -target 'aws_dynamodb_table.claims[0]'
  fi
  stage app destroy ${approve[@]+"${approve[@]}"} "${no_image[@]}"
  stage registry destroy ${approve[@]+"${approve[@]}"}
  say "Nothing is left of $TF_VAR_name in $AWS_REGION but the state files in deploy/terraform/."
}

# --- what they need

check_environment() {
  docker=${DOCKER:-docker}
  local missing=()
  [ -n "${AWS_ACCOUNT_ID:-}" ] || missing+=("AWS_ACCOUNT_ID")
  [ -n "${AWS_REGION:-}" ] || missing+=("AWS_REGION")
  case $step in apply | destroy) [ -n "${TF_VPC_ID:-}" ] || missing+=("TF_VPC_ID") ;; esac
  [ ${#missing[@]} -eq 0 ] || refuse "not set: ${missing[*]}. deploy/fargate.sh --help says how to find each"
  [[ $AWS_ACCOUNT_ID =~ ^[0-9]{12}$ ]] || refuse "AWS_ACCOUNT_ID is no account, which has twelve digits: $AWS_ACCOUNT_ID"
  case ${ARCHITECTURE:=X86_64} in
    X86_64) platform=linux/amd64 ;;
    ARM64) platform=linux/arm64 ;;
    *) refuse "ARCHITECTURE is $ARCHITECTURE: X86_64 or ARM64 is allowed" ;;
  esac
  need_programs terraform
  export AWS_REGION AWS_DEFAULT_REGION=$AWS_REGION AWS_PAGER="" TF_IN_AUTOMATION=1
  export TF_VAR_aws_account_id=$AWS_ACCOUNT_ID TF_VAR_aws_region=$AWS_REGION TF_VAR_vpc_id=${TF_VPC_ID:-}
  export TF_VAR_name=${APP_NAME:-millpond} TF_VAR_architecture=$ARCHITECTURE
  registry=$AWS_ACCOUNT_ID.dkr.ecr.$AWS_REGION.$(domain)
  no_image=(-var "image=$registry/$TF_VAR_name:none") # what is destroyed runs none
  if [ "$step" != e2e ]; then check_account; fi
}

# The keys of another account would end Terraform too, but late, and in its own words.
check_account() {
  need_programs aws
  local account
  account=$(aws sts get-caller-identity --query Account --output text) || fail "AWS does not know your keys: aws sts get-caller-identity"
  [ "$account" = "$AWS_ACCOUNT_ID" ] || refuse "your keys are of the account $account, and AWS_ACCOUNT_ID is $AWS_ACCOUNT_ID"
}

domain() {
  case $AWS_REGION in cn-*) echo amazonaws.com.cn ;; *) echo amazonaws.com ;; esac
}

need_programs() {
  local name
  for name in "$@"; do
    command -v "$name" >/dev/null || refuse "the program $name is not here: install it, or put it on PATH"
  done
}

# The commit, and where files were changed since, what they are now: one tag is one image.
image_tag() {
  if [ -n "${IMAGE_TAG:-}" ]; then
    echo "$IMAGE_TAG"
    return
  fi
  local commit changes
  commit=$(git -C "$root" rev-parse --short=12 HEAD) || fail "$root has no commit to name the image by: set IMAGE_TAG"
  changes=$(
    cd "$root"
    git diff HEAD -- requirements.txt worker.py config.toml handlers millpond deploy/docker
    git ls-files --others --exclude-standard -z -- handlers millpond deploy/docker | xargs -0 -r cat
  )
  if [ -z "$changes" ]; then echo "$commit"; else echo "$commit-$(printf %s "$changes" | git hash-object --stdin | cut -c1-8)"; fi
}

# The digest of an image in the registry; nothing where there is none.
digest_of() {
  aws ecr describe-images --registry-id "$AWS_ACCOUNT_ID" --repository-name "$TF_VAR_name" --image-ids "imageTag=$1" \
    --query 'imageDetails[0].imageDigest' --output text 2>/dev/null || true
}

say_what_is_lost() {
  local name url number
  for name in queue_url dead_letter_url; do
    url=$(output app "$name")
    number=$(aws sqs get-queue-attributes --queue-url "$url" --attribute-names ApproximateNumberOfMessages \
      --query Attributes.ApproximateNumberOfMessages --output text) || number="an unknown number of"
    say "$url holds about $number messages: they go with it."
  done
}

prices() {
  echo "\$0.40 for a million requests to SQS (about 0.2 a message, and the senders' own), and \$0.50 for a GB of log."
}

# --- Terraform

folder_of() {
  case $1 in registry) echo "$root/deploy/terraform/01-registry" ;; app) echo "$root/deploy/terraform/02-app" ;; esac
}

# `stage app apply -var ...`: init and the command, in the folder of the stage.
stage() {
  local folder command=$2
  folder=$(folder_of "$1")
  shift 2
  terraform -chdir="$folder" init -input=false >/dev/null || fail "terraform init failed in $folder"
  terraform -chdir="$folder" "$command" -input=false "$@" || fail "terraform $command failed in $folder: nothing after it was begun"
}

# Without any output terraform prints a warning of several lines, and exits with 0.
output() {
  local value
  value=$(terraform -chdir="$(folder_of "$1")" output -raw "$2") && [[ $value != *$'\n'* ]] ||
    fail "stage $1 has no output $2: run the steps before this one"
  echo "$value"
}

stage_has() {
  local state
  state=$(terraform -chdir="$(folder_of "$1")" state list 2>/dev/null) || return 1
  grep -qFx "$2" <<<"$state"
}

# --- words

say() { printf '\n== %s\n' "$*"; }

fail() {
  printf 'fargate.sh: %s\n' "$*" >&2
  exit 1
}

refuse() {
  printf 'fargate.sh: %s\n' "$*" >&2
  exit 3
}

main "$@"
