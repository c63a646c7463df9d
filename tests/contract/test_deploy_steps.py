"""Each step of the step table has what it needs in a cluster, and all parts agree on names, ports, times and memory."""

import json
import os
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.gateway import gauges
from services.gateway.routes import OPERATIONS
from shared.broker.topology import CONSUMER_TIMEOUT_MARGIN_S
from shared.contracts.rpc import RPCS
from shared.contracts.steps import STEPS
from shared.settings import KNOWN, GatewaySettings, PreviewSettings, ProcessSettings, WorkerSettings
from shared.worker.runtime import GRACE_S
from tests.support.deploy import DOCKER, environment
from tests.support.kubernetes import (
    BROKER_POD,
    OVERLAYS,
    STORE_POD,
    Document,
    Network,
    environment_of,
    of_kind,
    overlay,
    pods,
    rendered,
    selects,
)

UNITS = {"Mi": 2**20, "Gi": 2**30}
SECRETS = {"mongodb-gateway-url/password": "0123abcd"} | {
    f"{user}-user-credentials/{key}": f"{user}-{key}"
    for user in {"gateway", *(step.service for step in STEPS.values()), *(rpc.service for rpc in RPCS.values())}
    for key in ("username", "password")
}


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def container_of(pod: Document) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def process_of(pod: Document) -> str:
    started = container_of(pod).get("args") or ["python", "-m", f"services.{image_of(pod)}"]
    return str(started[-1].removeprefix("services."))


def image_of(pod: Document) -> str:
    return str(container_of(pod)["image"].rpartition("-")[2].partition(":")[0])


@pytest.fixture(params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> tuple[Document, ...]:
    return overlay(request.param)


@pytest.fixture
def settings(documents: tuple[Document, ...], monkeypatch: pytest.MonkeyPatch) -> dict[str, ProcessSettings]:
    """The settings of every deployment, read as its process reads them."""
    for name in [name for name in os.environ if name.startswith("STDWEB_")]:
        monkeypatch.delenv(name)
    found: dict[str, ProcessSettings] = {}
    deployments = of_kind(documents, "Deployment")
    for name, pod in pods(documents):
        if name not in deployments:
            continue
        env = environment(image_of(pod)) | environment_of(pod, documents, SECRETS)
        assert {key.removeprefix("STDWEB_").lower() for key in env if key.startswith("STDWEB_")} <= KNOWN
        classes = {"gateway": GatewaySettings, "preview": PreviewSettings}
        with monkeypatch.context() as patch:
            for key, value in env.items():
                patch.setenv(key, value)
            found[name] = classes.get(process_of(pod), WorkerSettings)()
    return found


def workers(settings: dict[str, ProcessSettings]) -> dict[str, WorkerSettings]:
    return {name: one for name, one in settings.items() if isinstance(one, WorkerSettings)}


def test_each_step_and_request_has_one_deployment_of_its_service(
    documents: tuple[Document, ...], settings: dict[str, ProcessSettings]
) -> None:
    done_by = {part: name for name, one in workers(settings).items() for part in one.only}
    assert sum(len(one.only) for one in workers(settings).values()) == len(done_by)
    answered = {rpc.name for rpc in RPCS.values() if rpc.service != "preview"}
    assert done_by.keys() == STEPS.keys() | answered
    for name, part in [
        (done_by[part.name], part) for part in (*STEPS.values(), *RPCS.values()) if part.name in done_by
    ]:
        assert process_of(of_kind(documents, "Deployment")[name]["spec"]["template"]) == part.service
    assert of_kind(documents, "Deployment").keys() == {"gateway", "preview", *done_by.values()}


def test_each_step_is_scaled_on_what_the_gateway_tells_of_it(
    documents: tuple[Document, ...], settings: dict[str, ProcessSettings]
) -> None:
    (namespace,) = of_kind(documents, "Namespace")
    (port,) = of_kind(documents, "Service")["gateway"]["spec"]["ports"]
    metric = next(iter(gauges.DEMAND.collect())).name
    assert "/metrics" in {operation.path for operation in OPERATIONS}
    scaled = of_kind(documents, "ScaledObject")
    assert scaled.keys() == of_kind(documents, "Deployment").keys() - {"gateway"}
    for name, one in workers(settings).items():
        spec = scaled[name]["spec"]
        trigger = spec["triggers"][0]["metadata"]
        assert spec["scaleTargetRef"]["name"] == name
        assert urlsplit(trigger["url"]).hostname == f"gateway.{namespace}.svc"
        assert urlsplit(trigger["url"]).port == port["port"]
        (step,) = set(one.only) & STEPS.keys()
        assert trigger["valueLocation"] == f'{metric}{{step="{step}"}}'
        assert trigger["targetValue"] == str(one.slots)
        # with none KEDA ends what runs when it cannot read the metric
        assert spec["fallback"]["replicas"] > 0
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        answers = bool(set(one.only) - STEPS.keys())
        assert (spec["minReplicaCount"] > 0) == answers
        assert "replicas" not in of_kind(documents, "Deployment")[name]["spec"]
    assert scaled["preview"]["spec"]["minReplicaCount"] > 0


def test_a_pod_has_time_to_end_its_step(documents: tuple[Document, ...], settings: dict[str, ProcessSettings]) -> None:
    limits = {name: step.time_limit_s for name, step in STEPS.items()} | {
        name: rpc.time_limit_s for name, rpc in RPCS.items()
    }
    deployments = of_kind(documents, "Deployment")
    for name, one in workers(settings).items():
        grace_s = deployments[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        longest_s = max(limits[part] for part in one.only)
        assert one.drain_s >= longest_s
        assert grace_s >= one.drain_s + 2 * GRACE_S
    gateway = deployments["gateway"]["spec"]["template"]["spec"]
    wait_s = container_of({"spec": gateway})["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert gateway["terminationGracePeriodSeconds"] >= wait_s + 30
    config = of_kind(documents, "RabbitmqCluster")["rabbitmq"]["spec"]["rabbitmq"]["additionalConfig"]
    timeout = re.search(r"^consumer_timeout = (\d+)$", config, re.MULTILINE)
    assert timeout is not None
    assert int(timeout[1]) >= (max(step.time_limit_s for step in STEPS.values()) + CONSUMER_TIMEOUT_MARGIN_S) * 1000


def test_a_pod_may_take_what_its_steps_may_take(
    documents: tuple[Document, ...], settings: dict[str, ProcessSettings]
) -> None:
    for name, pod in pods(documents):
        bounds = container_of(pod)["resources"]
        one = settings.get(name)
        if isinstance(one, WorkerSettings):
            requests = len(set(one.only) - STEPS.keys())
            needed = (one.slots + requests) * one.step_memory_bytes + bytes_of("512Mi")
            assert bytes_of(bounds["limits"]["memory"]) >= needed, name
            assert int(bounds["limits"]["cpu"]) >= one.slots
        if isinstance(one, PreviewSettings):
            assert one.slots is not None
            assert bytes_of(bounds["limits"]["memory"]) > (one.slots + 1) * one.preview_memory_bytes


def test_broker_users_are_the_services_own(
    settings: dict[str, ProcessSettings], documents: tuple[Document, ...]
) -> None:
    for name, pod in pods(documents):
        if name not in settings:
            continue
        url = urlsplit(settings[name].amqp_url.get_secret_value())
        user = process_of(pod)
        assert (url.username, url.password) == (f"{user}-username", f"{user}-password")
        assert (url.hostname, url.path) == (next(iter(of_kind(documents, "RabbitmqCluster"))), "/stdweb")
        assert settings[name].broker_declares == (name == "gateway")


def test_the_address_of_the_store_is_that_of_the_resource(documents: tuple[Document, ...]) -> None:
    (store,) = of_kind(documents, "MongoDBCommunity").values()
    (user,) = store["spec"]["users"]
    name = store["metadata"]["name"]
    address = f"mongodb://{user['name']}:0123abcd@{STORE_POD['app']}:27017/{user['db']}?replicaSet={name}"
    users = {
        workload: found
        for workload, pod in [*pods(documents), *pods(rendered("jobs"))]
        if (found := environment_of(pod, documents, SECRETS).get("STDWEB_MONGO_URL"))
    }
    assert users == dict.fromkeys(("gateway", "expire", "store", "admin"), address)


def test_the_first_process_of_a_container_collects_orphans(documents: tuple[Document, ...]) -> None:
    """The image's own does; a `command` would take its place, `args` do not."""
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"]' in (DOCKER / "Dockerfile").read_text()
    for name, pod in [*pods(documents), *pods(rendered("jobs"))]:
        assert "command" not in container_of(pod), name


def test_probes_and_ports_are_those_of_the_processes(documents: tuple[Document, ...]) -> None:
    deployments = of_kind(documents, "Deployment")
    for name, pod in pods(documents):
        if name not in deployments:
            continue
        container = container_of(pod)
        env = environment(image_of(pod))
        listening = int(env.get("STDWEB_HEALTH_PORT") or env["STDWEB_PORT"])
        assert container["ports"] == [{"name": "http", "containerPort": listening}]
        paths = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness")]
        assert paths == ["/healthz", "/readyz"]
        for kind in ("startup", "liveness", "readiness"):
            assert container[f"{kind}Probe"]["httpGet"]["port"] == "http"
    service = of_kind(documents, "Service")["gateway"]["spec"]
    assert selects({"matchLabels": service["selector"]}, dict(pods(documents))["gateway"]["metadata"]["labels"])
    assert service["ports"][0]["targetPort"] == "http"


def test_every_deployment_has_a_budget_of_its_own(documents: tuple[Document, ...]) -> None:
    deployments = of_kind(documents, "Deployment")
    budgets = of_kind(documents, "PodDisruptionBudget")
    for name, pod in pods(documents):
        if name in deployments:
            labels = pod["metadata"]["labels"]
            assert selects(deployments[name]["spec"]["selector"], labels)
            assert [key for key, one in budgets.items() if selects(one["spec"]["selector"], labels)] == [name]


def test_the_ingress_lets_uploads_in_and_metrics_not_out(
    documents: tuple[Document, ...], settings: dict[str, ProcessSettings]
) -> None:
    ingress = of_kind(documents, "Ingress")["gateway"]
    gateway = settings["gateway"]
    assert isinstance(gateway, GatewaySettings)
    size = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert size == "4g"
    assert gateway.max_upload_bytes == 4 * UNITS["Gi"]
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/api", "Prefix")
    inside = {operation.path for operation in OPERATIONS if not operation.path.startswith("/api")}
    assert inside == {"/healthz", "/readyz", "/metrics"}
    assert gateway.site_url == f"https://{rule['host']}"
    assert ingress["spec"]["tls"] == [{"hosts": [rule["host"]], "secretName": "stdweb-tls"}]
    assert gateway.trusted_proxies


def test_only_what_is_needed_may_be_reached(documents: tuple[Document, ...]) -> None:
    network = Network(documents)
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(documents)}
    stranger = {"app": "stranger"}
    for name, pod in labels.items():
        component = pod["app.kubernetes.io/component"]
        job = component == "job"
        serves = component in {"gateway", "preview", "step-service"}
        port = 8000 if name == "gateway" else 9100
        assert network.may(pod, BROKER_POD, 5672) == serves, name
        assert network.may(pod, STORE_POD, 27017) == (job or name == "gateway"), name
        assert network.may(pod, "internet", 443) == (component in {"gateway", "step-service", "catalog"}), name
        assert network.may(pod, "kube-system", 53), name
        assert network.may("monitoring", pod, port) == serves, name
        assert network.may("ingress-nginx", pod, port) == (name == "gateway"), name
        assert network.may("keda", pod, port) == (name == "gateway"), name
        assert not network.may(stranger, pod, port)
        assert not network.may(pod, stranger, 80)
        assert not network.may(pod, BROKER_POD, 15672)
    assert not network.may(stranger, BROKER_POD, 5672)
    assert not network.may(stranger, STORE_POD, 27017)
    assert network.may(STORE_POD, STORE_POD, 27017)
    for port in (4369, 25672, 35672, 35680):
        assert network.may(BROKER_POD, BROKER_POD, port)
    assert network.may("rabbitmq-system", BROKER_POD, 15672)
    assert network.may("monitoring", BROKER_POD, 15692)


def test_the_monitoring_finds_the_pods() -> None:
    documents = overlay("prod")
    monitors = [monitor["spec"]["selector"] for monitor in of_kind(documents, "PodMonitor").values()]
    deployments = of_kind(documents, "Deployment")
    for name, pod in pods(documents):
        if name in deployments:
            assert sum(selects(one, pod["metadata"]["labels"]) for one in monitors) == 1, name
    assert sum(selects(one, BROKER_POD) for one in monitors) == 1
    assert json.loads(next(iter(of_kind(documents, "ConfigMap")["stdweb-dashboard"]["data"].values())))
