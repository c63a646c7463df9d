"""Every document is valid, and everything that it names is there; every pod is confined."""

import re
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator

from shared.broker.definitions import rights
from shared.broker.resources import text
from tests.support.custom_resources import SPECS
from tests.support.deploy import ROOT
from tests.support.kubernetes import OVERLAYS, Document, of_kind, overlay, pods, rendered

VERSIONS = ("1.30", kubernetes_validate.latest_version())
OURS = {"v1", "apps/v1", "batch/v1", "networking.k8s.io/v1", "policy/v1", "scheduling.k8s.io/v1"}
FOLDERS = ("overlays/dev", "overlays/prod", "jobs")
BROKER_CONTAINERS = {"rabbitmq", "setup-container"}
STORE_CONTAINERS = {"mongod", "mongodb-agent", "mongod-posthook", "mongodb-agent-readinessprobe"}
STORE_IDENTITY = {"runAsUser": 2000, "fsGroup": 2000}
"""Of the pods that the operators make, as their sources say."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_document_is_valid(folder: str) -> None:
    assert rendered(folder)
    for document in rendered(folder):
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["apiVersion"] in OURS:
            for version in VERSIONS if folder == "overlays/prod" else VERSIONS[:1]:
                kubernetes_validate.validate(document, version, strict=True)
        else:
            assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}, name
            errors = Draft202012Validator(SPECS[document["apiVersion"], document["kind"]]).iter_errors(document["spec"])
            assert not [f"{name}: {error.json_path}: {error.message}" for error in errors]


def test_a_misspelt_field_is_found() -> None:
    deployment = of_kind(overlay("dev"), "Deployment")["photometry"]
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)
    scaled: dict[str, Any] = {**of_kind(overlay("dev"), "ScaledObject")["photometry"]["spec"], "maxReplicas": 2}
    assert not Draft202012Validator(SPECS["keda.sh/v1alpha1", "ScaledObject"]).is_valid(scaled)


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_name_is_there(name: str) -> None:
    documents = overlay(name)
    keys = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(set(keys)) == len(keys)
    namespace = next(iter(of_kind(documents, "Namespace")))
    for document in documents:
        cluster_wide = document["kind"] in {"Namespace", "PriorityClass"}
        assert document["metadata"].get("namespace") == (None if cluster_wide else namespace)
    made = {f"{user}-user-credentials" for user in of_kind(documents, "User")} | {"mongodb-gateway-url"}
    yours = {"admin-password", "mongodb-gateway-password"}
    for _, pod in [*pods(documents), *pods(rendered("jobs"))]:
        check_names(pod["spec"], documents, made | yours)
    store = of_kind(documents, "MongoDBCommunity")["mongodb"]["spec"]["users"][0]
    assert store["connectionStringSecretName"] in made
    assert store["passwordSecretRef"]["name"] in yours
    said = (ROOT / "docs" / "kubernetes.md").read_text()
    assert all(secret in said for secret in yours | {"stdweb-tls"})


def check_names(spec: Document, documents: tuple[Document, ...], secrets: set[str]) -> None:
    assert spec["serviceAccountName"] in of_kind(documents, "ServiceAccount")
    if "priorityClassName" in spec:
        assert spec["priorityClassName"] in of_kind(documents, "PriorityClass")
    for volume in spec["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] in of_kind(documents, "PersistentVolumeClaim")
        if secret := volume.get("secret"):
            assert secret["secretName"] in secrets
    for container in spec["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        for source in container.get("envFrom", ()):
            assert source["configMapRef"]["name"] in of_kind(documents, "ConfigMap")
        for variable in container["env"]:
            if "valueFrom" in variable:
                assert variable["valueFrom"]["secretKeyRef"]["name"] in secrets


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_is_confined(folder: str) -> None:
    """As Pod Security "restricted" asks, and further: nothing to write but volumes, no token, bounds for everything."""
    found = dict(pods(rendered(folder)))
    assert found
    for name, pod in found.items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False, name
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            for bound in ("requests", "limits"):
                assert container["resources"][bound].keys() >= {"cpu", "memory"}, name
            assert re.fullmatch(r"registry\.example\.org/stdweb-(gateway|worker|preview):[\w.]+", container["image"])
    for account in of_kind(rendered(folder), "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False
    for namespace in of_kind(rendered(folder), "Namespace").values():
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_of_the_operators_are_confined(name: str) -> None:
    broker = of_kind(overlay(name), "RabbitmqCluster")["rabbitmq"]["spec"]["override"]["statefulSet"]["spec"]
    store = of_kind(overlay(name), "MongoDBCommunity")["mongodb"]["spec"]["statefulSet"]["spec"]
    for pod, names in ((broker["template"]["spec"], BROKER_CONTAINERS), (store["template"]["spec"], STORE_CONTAINERS)):
        # the operators merge by these names: one left out keeps what "restricted" refuses, another one has no image
        assert {one["name"] for one in (*pod["containers"], *pod["initContainers"])} == names
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod["initContainers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
    # RabbitMQ's operator merges the pod's part into its own, MongoDB's puts ours in its place
    assert {key: store["template"]["spec"]["securityContext"].get(key) for key in STORE_IDENTITY} == STORE_IDENTITY
    assert not broker["template"]["spec"]["securityContext"].keys() & STORE_IDENTITY.keys()


def test_the_broker_s_users_are_those_of_the_code() -> None:
    assert (ROOT / "deploy/k8s/base/broker/users.yaml").read_text() == text(), "renew them: make definitions"
    permissions = of_kind(overlay("prod"), "Permission")
    assert permissions.keys() == rights().keys() == of_kind(overlay("prod"), "User").keys()
    for user, may in rights().items():
        assert permissions[user]["spec"]["permissions"] == {
            "configure": may.configure,
            "write": may.write,
            "read": may.read,
        }


def test_production_stands_the_loss_of_a_node() -> None:
    documents = overlay("prod")
    broker = of_kind(documents, "RabbitmqCluster")["rabbitmq"]["spec"]
    assert broker["replicas"] == 3
    # queues that are declared while the first node is alone have one member, and would keep it
    grow = "quorum_queue.continuous_membership_reconciliation"
    config = dict(line.split(" = ") for line in broker["rabbitmq"]["additionalConfig"].splitlines() if " = " in line)
    assert (config[f"{grow}.enabled"], config[f"{grow}.target_group_size"]) == ("true", "3")
    assert of_kind(documents, "MongoDBCommunity")["mongodb"]["spec"]["members"] == 3
    assert of_kind(documents, "Deployment")["gateway"]["spec"]["replicas"] >= 2
    for deployment in of_kind(documents, "Deployment").values():
        spec = deployment["spec"]["template"]["spec"]
        assert spec["topologySpreadConstraints"]
        heavy = spec["priorityClassName"] == "stdweb-heavy"
        assert (spec.get("nodeSelector") == {"stdweb/heavy": "true"}) == heavy
        assert bool(spec.get("tolerations")) == heavy
    for claim in of_kind(documents, "PersistentVolumeClaim").values():
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
