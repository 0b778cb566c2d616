"""deploy/kubernetes: valid, strictly, and its parts fit each other and the image; a planted mistake is found."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from millpond.app.config import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from cloudcoil.models.keda import v1alpha1 as keda

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy/kubernetes"
TEXTS = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.yaml"))}
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
#: Of Kubernetes: the newest that is known here, and one that is as old as a cloud still runs it.
VERSIONS = ("1.37", "1.31")
KEDA_KINDS = {"ScaledObject": keda.ScaledObject, "TriggerAuthentication": keda.TriggerAuthentication}
#: What an aws-sqs-queue trigger of KEDA 2.21 reads, and what a value of it looks like (keda.sh/docs, scalers/aws-sqs).
TRIGGER = {
    "queueURL": r"https://\S+",
    "queueURLFromEnv": r"[A-Z_]+",
    "queueLength": r"[1-9]\d*",
    "activationQueueLength": r"\d+",
    "awsRegion": r"[a-z]+(-[a-z]+)+-\d",
    "awsEndpoint": r"https?://\S+",
    "scaleOnInFlight": r"true|false",
    "scaleOnDelayed": r"true|false",
}

Texts = dict[str, str]


def documents(texts: Texts) -> dict[str, dict[str, Any]]:
    """All but the kustomization, by kind."""
    found = [one for name, text in texts.items() if name != "kustomization.yaml" for one in yaml.safe_load_all(text)]
    assert len({one["kind"] for one in found}) == len(found)
    return {one["kind"]: one for one in found}


# --- valid, as Kubernetes and KEDA define it


def invalid(texts: Texts) -> Iterator[str]:
    for kind, document in documents(texts).items():
        if kind in KEDA_KINDS:
            yield from unknown_to_keda(kind, document)
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{kind} {version}: {error.message}"


def unknown_to_keda(kind: str, document: dict[str, Any]) -> Iterator[str]:
    """What KEDA's own definition drops, or refuses."""
    try:
        read = KEDA_KINDS[kind].model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as error:
        yield f"{kind}: {error}"
    else:
        if read != document:
            yield f"{kind}: KEDA reads {read}"


INVALID = {
    "an unknown key of a pod": ("deployment.yaml", "runAsNonRoot: true", "runAsNoRoot: true"),
    "a number as a text": ("deployment.yaml", "containerPort: 8080", 'containerPort: "8080"'),
    "an unknown key of a budget": ("pod-disruption-budget.yaml", "maxUnavailable", "maxUnavailble"),
    "an unknown key of KEDA": ("scaled-object.yaml", "cooldownPeriod", "coolDownPeriod"),
    "a nested unknown key of KEDA": ("scaled-object.yaml", "stabilizationWindowSeconds", "stabilizationSeconds"),
    "a text where KEDA wants a number": ("scaled-object.yaml", "maxReplicaCount: 10", "maxReplicaCount: many"),
    "an unknown provider of KEDA": ("scaled-object.yaml", "provider: aws", "provider: amazon"),
}


def test_every_document_is_valid():
    assert list(invalid(TEXTS)) == []


@pytest.mark.parametrize("mistake", INVALID)
def test_an_invalid_document_is_found(mistake):
    assert len(list(invalid(planted(*INVALID[mistake])))) >= 1


def planted(name: str, old: str, new: str) -> Texts:
    assert old in TEXTS[name]
    return TEXTS | {name: TEXTS[name].replace(old, new, 1)}


# --- it fits together


def misfits(texts: Texts) -> Iterator[str]:
    """What no definition can know, in words."""
    kinds, kustomization = documents(texts), yaml.safe_load(texts["kustomization.yaml"])
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    yield from _misfits_of_kustomization(texts, kustomization, kinds)
    yield from _misfits_of_pod(pod, kustomization, kinds)
    yield from _misfits_of_probes(pod["containers"][0])
    yield from _misfits_of_scaling(kinds, settings_of(kustomization))


def settings_of(kustomization: dict[str, Any]) -> dict[str, str]:
    (generator,) = kustomization["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


def _misfits_of_kustomization(texts: Texts, kustomization: dict[str, Any], kinds: dict[str, Any]) -> Iterator[str]:
    if set(kustomization["resources"]) != texts.keys() - {"kustomization.yaml"}:
        yield "the kustomization leaves a file out, or names one that is not there"
    if kustomization["namespace"] != kinds["Namespace"]["metadata"]["name"]:
        yield "the namespace is another one"
    (image,) = kustomization["images"]
    if not image.get("newTag") or image["newTag"] == "latest":
        yield "the image has no version"
    if image["name"] != kinds["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]:
        yield "the kustomization names an image that the Deployment does not have"


def _misfits_of_pod(pod: dict[str, Any], kustomization: dict[str, Any], kinds: dict[str, Any]) -> Iterator[str]:
    (container,) = pod["containers"]
    user, group = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    if (str(pod["securityContext"]["runAsUser"]), str(pod["securityContext"]["runAsGroup"])) != (user, group):
        yield "its user is not the image's"
    security = container["securityContext"]
    if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
        yield "the container keeps rights, which the namespace refuses"
    if not pod["securityContext"].get("runAsNonRoot") or not security.get("readOnlyRootFilesystem"):
        yield "the container may be root, or write to its image"
    if pod["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "the container has no seccomp profile, without which the namespace refuses it"
    if pod["serviceAccountName"] != kinds["ServiceAccount"]["metadata"]["name"]:
        yield "the pod has another service account than the one with the role"
    if pod["terminationGracePeriodSeconds"] < load(ROOT / "config.toml", {}).worker.drain_seconds + 5:
        yield "the grace period leaves the drain no 5 s before the kill"
    if {one["name"] for one in container["volumeMounts"]} != {one["name"] for one in pod["volumes"]}:
        yield "a volume is not mounted, or a mount has no volume"
    if pod.get("enableServiceLinks") is not False:
        yield "a Service named statsd would set STATSD_PORT"
    if "replicas" in kinds["Deployment"]["spec"]:
        yield "each apply would undo what KEDA has counted"
    if container["resources"].keys() != {"requests", "limits"} or "cpu" in container["resources"]["limits"]:
        yield "it asks for no resources, or its CPU is limited, which stops its beats"
    yield from _misfits_of_environment(container, kustomization)


def _misfits_of_environment(container: dict[str, Any], kustomization: dict[str, Any]) -> Iterator[str]:
    maps = [one["configMapRef"]["name"] for one in container["envFrom"] if "configMapRef" in one]
    if maps != [one["name"] for one in kustomization["configMapGenerator"]]:
        yield "the container takes its settings from elsewhere"
    given = settings_of(kustomization).keys() | {one["name"] for one in container["env"]}
    read = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    for name in given - read:
        yield f"{name} is read by nothing"


def _misfits_of_probes(container: dict[str, Any]) -> Iterator[str]:
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    (listen,) = (one["value"] for one in container["env"] if one["name"] == "HTTP_LISTEN")
    if listen != f"0.0.0.0:{ports['http']}":
        yield "the worker listens where no probe asks"
    wanted = {"startupProbe": "/readyz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for name, path in wanted.items():
        if container[name]["httpGet"] != {"path": path, "port": "http"}:
            yield f"{name} does not ask {path}"
    live = container["livenessProbe"]
    # The first probe can come as the handler begins, so the last one comes a period sooner.
    killed_after = live["periodSeconds"] * (live["failureThreshold"] - 1) + live["timeoutSeconds"]
    if killed_after <= load(ROOT / "config.toml", {}).worker.max_block_seconds:
        yield "a handler that computes is killed sooner than max_block_seconds allows"


def _misfits_of_scaling(kinds: dict[str, Any], settings: dict[str, str]) -> Iterator[str]:
    scaled, deployment = kinds["ScaledObject"]["spec"], kinds["Deployment"]
    if scaled["scaleTargetRef"] != {"name": deployment["metadata"]["name"]}:
        yield "KEDA scales another Deployment"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    budget, policy = kinds["PodDisruptionBudget"]["spec"], kinds["NetworkPolicy"]["spec"]
    for selector in (deployment["spec"]["selector"], budget["selector"], policy["podSelector"]):
        if not selector["matchLabels"].items() <= labels.items():
            yield "a selector does not find the pods"
    (trigger,) = scaled["triggers"]
    if policy.get("policyTypes") != ["Ingress"] or "ingress" in policy:
        yield "others than its node may connect to a worker, or it may not go out"
    if trigger["type"] != "aws-sqs-queue":
        yield "KEDA does not look at an SQS queue"
    if trigger["authenticationRef"] != {"name": kinds["TriggerAuthentication"]["metadata"]["name"]}:
        yield "KEDA has no such authentication"
    metadata = trigger["metadata"]
    for key, value in metadata.items():
        if key not in TRIGGER or not isinstance(value, str) or not re.fullmatch(TRIGGER[key], value):
            yield f"KEDA does not understand {key}: {value!r}"
    url = settings.get(metadata.get("queueURLFromEnv", ""), "")
    if not url.startswith(f"https://sqs.{metadata.get('awsRegion')}."):
        yield "KEDA looks at another queue than the worker, or in another region"


MISFITS = {
    "a file that is left out": ("kustomization.yaml", "  - pod-disruption-budget.yaml\n", ""),
    "another namespace": ("namespace.yaml", "name: millpond", "name: mills"),
    "no version of the image": ("kustomization.yaml", 'newTag: "1"', "newTag: latest"),
    "another image": ("deployment.yaml", "image: millpond ", "image: worker "),
    "another user": ("deployment.yaml", "runAsUser: 65532", "runAsUser: 1000"),
    "a right that is kept": ("deployment.yaml", "drop: [ALL]", "drop: [NET_RAW]"),
    "root": ("deployment.yaml", "runAsNonRoot: true", "runAsNonRoot: false"),
    "a root that can be written": ("deployment.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
    "no seccomp profile": ("deployment.yaml", "type: RuntimeDefault", "type: Unconfined"),
    "another service account": ("deployment.yaml", "serviceAccountName: millpond", "serviceAccountName: default"),
    "too short a grace period": (
        "deployment.yaml",
        "terminationGracePeriodSeconds: 30",
        "terminationGracePeriodSeconds: 25",
    ),
    "a mount without a volume": (
        "deployment.yaml",
        "- name: tmp\n              mountPath",
        "- name: temp\n              mountPath",
    ),
    "links to Services": ("deployment.yaml", "enableServiceLinks: false", "enableServiceLinks: true"),
    "replicas": ("deployment.yaml", "  revisionHistoryLimit", "  replicas: 2\n  revisionHistoryLimit"),
    "a limit of CPU": ("deployment.yaml", "limits: {memory", "limits: {cpu: 250m, memory"),
    "settings from elsewhere": (
        "deployment.yaml",
        "configMapRef:\n                name: millpond",
        "configMapRef:\n                name: other",
    ),
    "a variable that nothing reads": ("kustomization.yaml", "SMTP_HOST=", "SMTP_SERVER="),
    "another port": ("deployment.yaml", "containerPort: 8080", "containerPort: 8081"),
    "a listener for itself": ("deployment.yaml", "0.0.0.0:8080", "127.0.0.1:8080"),
    "a liveness probe that waits for the queue": ("deployment.yaml", "path: /healthz", "path: /readyz"),
    "an impatient liveness probe": ("deployment.yaml", "failureThreshold: 5", "failureThreshold: 4"),
    "another Deployment": (
        "scaled-object.yaml",
        "scaleTargetRef:\n    name: millpond",
        "scaleTargetRef:\n    name: worker",
    ),
    "a budget for nobody": ("pod-disruption-budget.yaml", "app.kubernetes.io/name: millpond", "app: millpond"),
    "a policy for nobody": ("network-policy.yaml", "app.kubernetes.io/name: millpond", "app: millpond"),
    "a way in": ("network-policy.yaml", "policyTypes: [Ingress]", "policyTypes: [Ingress]\n  ingress: [{}]"),
    "no way out": ("network-policy.yaml", "policyTypes: [Ingress]", "policyTypes: [Ingress, Egress]"),
    "another authentication": (
        "scaled-object.yaml",
        "authenticationRef:\n        name: millpond",
        "authenticationRef:\n        name: aws",
    ),
    "an unknown key of the trigger": ("scaled-object.yaml", "queueLength:", "queuelength:"),
    "a key of old": ("scaled-object.yaml", "scaleOnInFlight:", "identityOwner:"),
    "a value that is no text": ("scaled-object.yaml", 'scaleOnInFlight: "true"', "scaleOnInFlight: true"),
    "a value of another kind": ("scaled-object.yaml", 'queueLength: "1000"', 'queueLength: "many"'),
    "another region": ("scaled-object.yaml", "awsRegion: eu-west-1", "awsRegion: us-east-1"),
    "a variable that the worker does not have": (
        "scaled-object.yaml",
        "queueURLFromEnv: SQS_QUEUE_URL",
        "queueURLFromEnv: QUEUE_URL",
    ),
}


def test_the_parts_fit_each_other_and_the_image():
    assert list(misfits(TEXTS)) == []


@pytest.mark.parametrize("mistake", MISFITS)
def test_a_misfit_is_found(mistake):
    assert len(list(misfits(planted(*MISFITS[mistake])))) == 1


def test_a_worker_starts_with_these_settings():
    settings = load(ROOT / "config.toml", settings_of(yaml.safe_load(TEXTS["kustomization.yaml"])))
    assert settings.queues["emails"].url.startswith("https://sqs.")


def test_each_command_on_the_page_names_what_is_there():
    page, kinds = (ROOT / "docs/deploy/kubernetes.md").read_text(), documents(TEXTS)
    assert set(re.findall(r"kubectl -n (\S+)", page)) == {kinds["Namespace"]["metadata"]["name"]}
    assert set(re.findall(r"deployment/(\w+)", page)) == {kinds["Deployment"]["metadata"]["name"]}
    (trust,) = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (condition,) = json.loads(trust)["Statement"][0]["Condition"].values()
    names = [kinds[kind]["metadata"]["name"] for kind in ("Namespace", "ServiceAccount")]
    assert f"system:serviceaccount:{':'.join(names)}" in condition.values()
    assert {name for name in TEXTS if f"| `{name}` |" in page} == TEXTS.keys()
