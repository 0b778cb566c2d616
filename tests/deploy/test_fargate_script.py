"""deploy/fargate.sh, with stand-ins for aws, docker and terraform that write down how they were called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.terraform_files import ROOT

SCRIPT = ROOT / "deploy/fargate.sh"
REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
USAGE = "usage: deploy/fargate.sh build | apply | e2e | destroy"
SET = {"AWS_ACCOUNT_ID": "123456789012", "AWS_REGION": "eu-west-1", "TF_VPC_ID": "vpc-1"}
STAND_INS = {
    "aws": """
        all=$*
        case $all in
          "sts "*) cat "$WORLD/account" ;;
          *" describe-images "*)
            tag=${all##*imageTag=}
            tag=${tag%% *}
            grep -qx "$tag" "$WORLD/images" && echo "sha256:of-$tag" ;;
          *get-login-password) echo the-password ;;
          *get-queue-attributes*) echo 7 ;;
        esac""",
    "docker": """
        case $1 in
          login) cat > "$WORLD/password" ;;
          push) echo "${2##*:}" >> "$WORLD/images" ;;
        esac""",
    "terraform": """
        stage=${1##*/} command=$2
        [ ! -e "$WORLD/fails-$stage-$command" ] || { echo "the stand-in fails" >&2; exit 1; }
        case "$stage $command" in
          *" output") grep -qx "$stage" "$WORLD/applied" || { printf 'Warning:\nNo outputs\n'; exit 0; }
            case $4 in
              repository_url) printf %s "$REPOSITORY" ;;
              cluster_arn) cat "$WORLD/cluster" ;;
              *) printf %s "the-$4" ;;
            esac ;;
          *" apply") echo "$stage" >> "$WORLD/applied" ;;
          *" state") cat "$WORLD/state" ;;
        esac""",
    "python": "",
}


class World:
    """A repository with a commit, and programs that only write down their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "app"
        for name, text in {"requirements.txt": "one\n", "handlers/work.py": "a = 1\n", "deploy/e2e.py": ""}.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)
        (self.root / "deploy/fargate.sh").write_text(SCRIPT.read_text())
        (folder / "bin").mkdir()
        for name, text in STAND_INS.items():
            program = folder / "bin" / name
            program.write_text(f'#!/bin/bash\necho "{name} $*" >> "$WORLD/calls"\n{text}\n')
            program.chmod(0o755)
        for name in ("calls", "images", "applied", "state", "cluster"):
            (folder / name).write_text("")
        self.write("account", "123456789012\n")
        self.git("init", "-q")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "first")
        self.commit = self.git("rev-parse", "--short=12", "HEAD").strip()

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.root, capture_output=True, text=True, check=True
        ).stdout

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        self.write("calls", "")
        values = {**SET, "REPOSITORY": f"{REGISTRY}/millpond", "WORLD": str(self.folder), **environ}
        values = {name: value for name, value in values.items() if value} | {
            "PATH": f"{self.folder / 'bin'}:{environ.get('PATH', os.environ['PATH'])}",
            "HOME": str(self.folder),
            "PYTHON": str(self.folder / "bin/python"),
        }
        command = ["bash", str(self.root / "deploy/fargate.sh"), *arguments]
        return subprocess.run(command, env=values, capture_output=True, text=True, check=False, timeout=60)

    def calls(self, *of: str) -> list[str]:
        """What these programs were called with, without the folders."""
        lines = (self.folder / "calls").read_text().replace(f"{self.root}/", "").splitlines()
        return [line for line in lines if not of or line.startswith(of)]

    def changes(self) -> list[str]:
        """What was done that changes anything, or costs."""
        return [call for call in self.calls() if any(f" {word} " in call for word in ("apply", "destroy", "push"))]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_shellcheck_finds_nothing():
    done = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", SCRIPT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


# --- what is missing


@pytest.mark.parametrize("step", ["build", "apply", "e2e", "destroy"])
def test_each_variable_that_is_missing_is_named_at_once(world, step):
    done = world.run(step, AWS_ACCOUNT_ID="", AWS_REGION="", TF_VPC_ID="")
    assert done.returncode == 3
    needed = ["AWS_ACCOUNT_ID", "AWS_REGION", *(["TF_VPC_ID"] if step in ("apply", "destroy") else [])]
    assert done.stderr == f"fargate.sh: not set: {' '.join(needed)}. deploy/fargate.sh --help says how to find each\n"
    assert world.calls() == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"AWS_ACCOUNT_ID": "1234"}, "AWS_ACCOUNT_ID is no account, which has twelve digits: 1234"),
        ({"ARCHITECTURE": "arm"}, "ARCHITECTURE is arm: X86_64 or ARM64 is allowed"),
        ({"DOCKER": "podmann"}, "the program podmann is not here: install it, or put it on PATH"),
    ],
)
def test_a_wrong_variable_is_named_before_anything_is_done(world, environ, said):
    done = world.run("build", **environ)
    assert (done.returncode, done.stderr) == (3, f"fargate.sh: {said}\n")
    assert world.changes() == []


@pytest.mark.parametrize("step", ["build", "apply", "destroy"])
def test_keys_of_another_account_change_nothing(world, step):
    world.write("account", "999999999999\n")
    done = world.run(step)
    assert done.returncode == 3
    assert "your keys are of the account 999999999999, and AWS_ACCOUNT_ID is 123456789012" in done.stderr
    assert world.changes() == []


@pytest.mark.parametrize("arguments", [[], ["deploy"], ["build", "--no-cleanup"]])
def test_what_is_no_step_or_no_option_is_refused(world, arguments):
    done = world.run(*arguments)
    assert done.returncode == 3
    assert world.calls() == []


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["e2e", "--type", "x", "-h"]])
def test_help_is_shown_wherever_it_is_asked_for(world, arguments):
    done = world.run(*arguments, AWS_ACCOUNT_ID="")
    assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (0, USAGE, "")
    assert world.calls() == []


# --- build


def test_build_makes_the_registry_and_pushes_the_image_of_the_commit(world):
    done = world.run("build", "--yes")
    assert done.returncode == 0, done.stderr
    image = f"{REGISTRY}/millpond:{world.commit}"
    assert world.changes() == [
        "terraform -chdir=deploy/terraform/01-registry apply -input=false -auto-approve",
        f"docker push {image}",
    ]
    [built] = world.calls("docker build")
    assert "--platform linux/amd64 --file deploy/docker/Dockerfile" in built
    assert built.partition(" --tag ")[2].split()[0] == image
    assert "costs $0.10 a month" in done.stdout


def test_the_password_of_the_registry_is_seen_by_nobody(world):
    done = world.run("build")
    assert (world.folder / "password").read_text() == "the-password\n"
    assert "the-password" not in done.stdout + done.stderr + "".join(world.calls())


def test_what_is_built_already_is_not_built_again(world):
    world.run("build")
    done = world.run("build")
    assert done.returncode == 0
    assert world.calls("docker") == []
    assert f"{world.commit} is there already" in done.stdout


@pytest.mark.parametrize("file", ["handlers/work.py", "handlers/fresh.py", "requirements.txt"])
def test_changed_files_are_another_image(world, file):
    world.run("build")
    (world.root / file).write_text("b = 2\n")
    assert world.run("build").returncode == 0
    assert world.run("build").returncode == 0
    tags = (world.folder / "images").read_text().split()
    assert len(tags) == 2
    assert tags[1].startswith(f"{tags[0]}-")


def test_a_change_of_other_files_is_no_other_image(world):
    world.run("build")
    (world.root / "notes.txt").write_text("of no image\n")
    (world.root / "deploy/e2e.py").write_text("# nor this\n")
    world.run("build")
    assert world.calls("docker") == []


def test_arm_images_are_built_for_arm(world):
    assert world.run("build", ARCHITECTURE="ARM64").returncode == 0
    assert "--platform linux/arm64" in world.calls("docker build")[0]


def test_a_registry_that_cannot_be_made_ends_the_build(world):
    world.write("fails-01-registry-apply", "")
    done = world.run("build")
    assert done.returncode == 1
    assert "terraform apply failed in" in done.stderr
    assert world.calls("docker") == []


# --- apply


def test_apply_says_what_it_costs_and_takes_the_image_by_its_digest(world):
    world.run("build")
    done = world.run("apply")
    assert done.returncode == 0, done.stderr
    assert world.changes() == [
        "terraform -chdir=deploy/terraform/02-app apply -input=false"
        f" -var image={REGISTRY}/millpond@sha256:of-{world.commit}"
    ]
    assert done.stdout.index("US dollars") < done.stdout.index("It runs the image")


def test_apply_without_an_image_says_what_to_do(world):
    done = world.run("apply")
    assert done.returncode == 1
    assert f"there is no image {world.commit} in the registry millpond: run deploy/fargate.sh build" in done.stderr
    assert world.changes() == []


def test_an_older_image_is_the_way_back(world):
    world.write("images", "before\n")
    assert world.run("apply", IMAGE_TAG="before").returncode == 0
    assert world.changes()[0].endswith(f"{REGISTRY}/millpond@sha256:of-before")


def test_an_apply_that_fails_is_a_failure(world):
    world.run("build")
    world.write("fails-02-app-apply", "")
    done = world.run("apply")
    assert done.returncode == 1
    assert "It runs" not in done.stdout


# --- e2e


def test_e2e_gets_what_was_made_and_what_the_user_says(world):
    world.write("applied", "02-app\n")
    world.write("cluster", "arn:cluster")
    done = world.run("e2e", "--type", "invoice.created", "--payload", '{"a": 1}', "--no-cleanup")
    assert done.returncode == 0, done.stderr
    assert world.calls("aws") == []  # what e2e.py calls is boto3's
    assert world.calls("python") == [
        "python deploy/e2e.py --queue-url the-queue_url --dead-letter-url the-dead_letter_url --log-group the-log_group"
        " --region eu-west-1 --cluster-arn arn:cluster --service-name the-service_name"
        ' --type invoice.created --payload {"a": 1} --no-cleanup'
    ]


def test_e2e_of_a_function_names_no_service(world):
    world.write("applied", "02-app\n")
    assert world.run("e2e", "--type", "x").returncode == 0
    assert "--cluster-arn" not in world.calls("python")[0]


def test_e2e_before_apply_says_so(world):
    done = world.run("e2e", "--type", "x")
    assert done.returncode == 1
    assert "stage app has no output queue_url: run the steps before this one" in done.stderr
    assert world.calls("python") == []


# --- destroy


def test_destroy_says_what_is_lost_and_takes_the_registry_last(world):
    world.write("applied", "02-app\n")
    world.write("state", "aws_sqs_queue.main\naws_dynamodb_table.claims[0]\n")
    done = world.run("destroy", "--yes")
    assert done.returncode == 0, done.stderr
    none = f"-var image={REGISTRY}/millpond:none"
    assert world.changes() == [
        f"terraform -chdir=deploy/terraform/02-app apply -input=false -auto-approve {none}"
        " -var protect_table=false -target aws_dynamodb_table.claims[0]",
        f"terraform -chdir=deploy/terraform/02-app destroy -input=false -auto-approve {none}",
        "terraform -chdir=deploy/terraform/01-registry destroy -input=false -auto-approve",
    ]
    assert "the-queue_url holds about 7 messages: they go with it." in done.stdout
    assert "the-dead_letter_url holds about 7 messages: they go with it." in done.stdout


def test_destroy_of_what_was_never_made_is_no_error(world):
    assert world.run("destroy", "--yes").returncode == 0
    assert [call.split()[2] for call in world.changes()] == ["destroy", "destroy"]


def test_the_registry_stays_where_the_app_could_not_be_destroyed(world):
    world.write("fails-02-app-destroy", "")
    assert world.run("destroy", "--yes").returncode == 1
    assert not any("01-registry" in call for call in world.changes())


# --- it is documented


def test_help_names_each_variable_that_the_script_reads():
    text = SCRIPT.read_text()
    usage = text.partition("<<'TEXT'")[2].partition("TEXT\n}")[0]
    for name in ("AWS_ACCOUNT_ID", "AWS_REGION", "TF_VPC_ID", "APP_NAME", "IMAGE_TAG", "ARCHITECTURE", "DOCKER"):
        assert name in usage
