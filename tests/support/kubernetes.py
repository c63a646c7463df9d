"""Rendering what `deploy/k8s` holds, and asking it questions."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from .deploy import program, run

OVERLAYS = ("dev", "prod")
Document = dict[str, Any]


@functools.cache
def rendered(folder: str) -> tuple[Document, ...]:
    """Render a folder of deploy/k8s with kubectl's kustomize."""
    done = run(program("kubectl"), "kustomize", f"deploy/k8s/{folder}")
    assert done.returncode == 0, done.stderr
    return tuple(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def overlay(name: str) -> tuple[Document, ...]:
    """Render an overlay."""
    return rendered(f"overlays/{name}")


def of_kind(documents: tuple[Document, ...], *kinds: str) -> dict[str, Document]:
    """Give the documents of some kinds by their names."""
    return {document["metadata"]["name"]: document for document in documents if document["kind"] in kinds}


def pods(documents: tuple[Document, ...]) -> Iterator[tuple[str, Document]]:
    """Give the pod templates that we write ourselves, with the name of what makes the pods."""
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if document["kind"] in {"Deployment", "Job", "CronJob"}:
            yield document["metadata"]["name"], spec["template"]


def environment_of(pod: Document, documents: tuple[Document, ...], secrets: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of a pod's container; a variable may use those before it, as in Kubernetes.

    Parameters
    ----------
    secrets
        Values of secrets by `name/key`.
    """
    found: dict[str, str] = {}
    (container,) = pod["spec"]["containers"]
    for source in container.get("envFrom", ()):
        found |= of_kind(documents, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for variable in container.get("env", ()):
        if "value" in variable:
            value = variable["value"]
            for name, known in found.items():
                value = value.replace(f"$({name})", known)
            assert "$(" not in value, f"{variable['name']} uses what comes after it"
        else:
            reference = variable["valueFrom"]["secretKeyRef"]
            value = secrets[f"{reference['name']}/{reference['key']}"]
        found[variable["name"]] = value
    return found


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a selector takes something with these labels."""
    operators = {
        "In": lambda rule: labels.get(rule["key"]) in rule["values"],
        "Exists": lambda rule: rule["key"] in labels,
    }
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(operators[rule["operator"]](rule) for rule in selector.get("matchExpressions", ()))


BROKER_POD = {"app.kubernetes.io/component": "rabbitmq", "app.kubernetes.io/name": "rabbitmq"}
STORE_POD = {"app": "mongodb-svc"}
"""Labels that the operators give to their pods."""


class Network:
    """Judges connections by the network policies of a namespace."""

    def __init__(self, documents: tuple[Document, ...]) -> None:
        self._policies = [policy["spec"] for policy in of_kind(documents, "NetworkPolicy").values()]

    def may(self, source: Mapping[str, str] | str, target: Mapping[str, str] | str, port: int) -> bool:
        """Tell whether a connection is let through.

        Parameters
        ----------
        source, target
            Labels of a pod of ours, or the name of another namespace, or `internet`.
        """
        out = isinstance(source, str) or self._lets(source, "egress", "to", target, port)
        return out and (isinstance(target, str) or self._lets(target, "ingress", "from", source, port))

    def _lets(self, pod: Mapping[str, str], way: str, side: str, peer: Mapping[str, str] | str, port: int) -> bool:
        policies = [
            policy
            for policy in self._policies
            if selects(policy["podSelector"], pod) and way.capitalize() in policy["policyTypes"]
        ]
        return not policies or any(
            _meets(rule.get(side), peer) and _has_port(rule, port)
            for policy in policies
            for rule in policy.get(way, ())
        )


def _meets(peers: list[Document] | None, peer: Mapping[str, str] | str) -> bool:
    if peers is None:
        return True
    for one in peers:
        if isinstance(peer, str):
            names = one.get("namespaceSelector", {}).get("matchLabels", {}).values()
            if peer in names or (peer == "internet" and "ipBlock" in one):
                return True
        elif "podSelector" in one and "namespaceSelector" not in one and selects(one["podSelector"], peer):
            return True
    return False


def _has_port(rule: Document, port: int) -> bool:
    return "ports" not in rule or any(one["port"] <= port <= one.get("endPort", one["port"]) for one in rule["ports"])
