"""One host in containers: the file is valid, says what processes need, and `make` uses it when an engine answers."""

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from shared.broker.definitions import GATEWAY, definitions
from shared.broker.topology import CONSUMER_TIMEOUT_MARGIN_S, topology
from shared.contracts.rpc import RPCS
from shared.contracts.steps import STEPS
from shared.settings import KNOWN, GatewaySettings, PreviewSettings, WorkerSettings
from shared.worker.runtime import GRACE_S
from tests.support.deploy import ROOT, environment, stages

COMPOSE = ROOT / "deploy" / "compose"
STEP_SERVICES = {step.service for step in STEPS.values()}
OURS = STEP_SERVICES | {rpc.service for rpc in RPCS.values()} | {"gateway"}
SETTINGS = {"gateway": GatewaySettings, "preview": PreviewSettings}
UNITS = {"m": 2**20, "g": 2**30}


def read(secrets: dict[str, str]) -> dict[str, Any]:
    """Read the file as Compose does: merged, then with secrets from .env and defaults for the rest put in."""

    def put_in(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put_in(one) for key, one in value.items()}
        if isinstance(value, list):
            return [put_in(one) for one in value]
        if not isinstance(value, str):
            return value
        text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: secrets[found[1]], value)
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        assert "${" not in text
        return text.replace("$$", "$")

    whole: dict[str, Any] = put_in(yaml.safe_load((COMPOSE / "compose.yaml").read_text()))
    return whole


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what `make up` needs on a host with nothing else."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("make_secrets.py", "compose.sh"):
        (folder / "scripts").mkdir(exist_ok=True)
        shutil.copy(ROOT / "scripts" / name, folder / "scripts")
    ignore = shutil.ignore_patterns(".env", "secrets")  # of a stack that somebody runs here
    shutil.copytree(COMPOSE, folder / "deploy" / "compose", ignore=ignore)
    make(folder, "secrets")
    return folder


def make(folder: Path, *arguments: str, path: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    env["PATH"] = f"{path}:{env['PATH']}"
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=env, check=check, capture_output=True, text=True, timeout=60
    )


def secrets_of(folder: Path) -> dict[str, str]:
    lines = (folder / "deploy/compose/.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@pytest.fixture(scope="module")
def services(made: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(secrets_of(made))["services"]
    return found


def test_the_file_follows_the_specification(made: Path) -> None:
    whole = yaml.safe_dump(read(secrets_of(made)))
    assert set(PyCompose.from_yaml(whole).service_names()) > OURS
    wrong = whole.replace("read_only:", "readonly:")
    with pytest.raises(ValueError, match="readonly"):
        PyCompose.from_yaml(wrong)


def test_every_service_runs_with_settings_that_it_knows(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("STDWEB_")]:
        monkeypatch.delenv(name)
    assert set(services) >= OURS
    for name in OURS:
        service = services[name]
        image = service["build"]["target"]
        assert service["image"] == f"stdweb-{image}:dev"
        command = service.get("command") or json.loads(dict(stages()[image])["CMD"])
        assert command == ["python", "-m", f"services.{name}"]
        env = environment(image) | service["environment"]
        assert {key.removeprefix("STDWEB_").lower() for key in env if key.startswith("STDWEB_")} <= KNOWN
        with monkeypatch.context() as patch:
            for key, value in env.items():
                patch.setenv(key, str(value))
            settings = SETTINGS.get(name, WorkerSettings)()
        url = settings.amqp_url.get_secret_value()
        assert re.fullmatch(rf"amqp://{name}:[0-9a-f]{{64}}@rabbitmq:5672/stdweb", url)
        assert settings.broker_declares == (name == "gateway")
        if isinstance(settings, WorkerSettings):
            memory = bytes_of(service["deploy"]["resources"]["limits"]["memory"])
            assert settings.slots * settings.step_memory_bytes + UNITS["g"] < memory
            assert settings.drain_s + GRACE_S < seconds(service["stop_grace_period"])
        if isinstance(settings, PreviewSettings):
            memory = bytes_of(service["deploy"]["resources"]["limits"]["memory"])
            assert (settings.slots + 1) * settings.preview_memory_bytes < memory


def test_what_is_no_setting_is_not_called_like_one() -> None:
    """A process that finds an unknown STDWEB_ name in its environment does not start."""
    said = (COMPOSE / "compose.yaml").read_text() + (ROOT / "docs" / "containers.md").read_text()
    assert {name.lower() for name in re.findall(r"STDWEB_(\w+)", said)} <= KNOWN


def bytes_of(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_every_container_is_confined_and_watched(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert "healthcheck" in service or "build" in service or name == "mongo-setup", name
        assert service.get("user", "10001") not in {"root", "0", "0:0"}
        if "build" not in service:
            assert not re.search(":latest$|^[^:]*$", service["image"]), name
            assert "user" in service, name


def test_only_the_gateway_reaches_the_store_and_only_loopback_reaches_the_rest(
    services: dict[str, dict[str, Any]],
) -> None:
    text = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    assert {name for name, network in text["networks"].items() if network.get("internal")} == {
        "broker",
        "store",
        "metrics",
    }
    assert {name for name, one in services.items() if "store" in one["networks"]} == {"gateway", "mongo", "mongo-setup"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_who_needs_the_broker_waits_for_it(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        assert services[name]["depends_on"]["rabbitmq"] == {"condition": "service_healthy"}
    assert services["gateway"]["depends_on"]["mongo-setup"] == {"condition": "service_completed_successfully"}


def test_prometheus_asks_the_ports_that_the_processes_listen_on(services: dict[str, dict[str, Any]]) -> None:
    config = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text())
    asked = {
        (host, names["port"])
        for job in config["scrape_configs"]
        for names in job["dns_sd_configs"]
        for host in names["names"]
    }
    listening = set()
    for name in OURS:
        env = environment(services[name]["build"]["target"])
        listening.add((name, int(env.get("STDWEB_HEALTH_PORT") or env["STDWEB_PORT"])))
    assert asked == listening | {("rabbitmq", 15692)}
    for host, _ in asked:
        assert "metrics" in services[host]["networks"]


def test_the_files_that_are_mounted_exist(services: dict[str, dict[str, Any]], made: Path) -> None:
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("../"):
                assert (COMPOSE / source).exists(), source
            elif source.startswith("./"):
                assert (made / "deploy/compose" / source).exists(), source


def test_the_broker_s_definitions_are_those_of_the_code() -> None:
    kept = json.loads((COMPOSE / "rabbitmq" / "definitions.json").read_text())
    assert kept == definitions(), "renew them: make definitions"
    assert {queue["name"] for queue in kept["queues"]} >= {queue.name for queue in topology().queues}
    assert {permission["user"] for permission in kept["permissions"]} == OURS | {GATEWAY}


def test_the_broker_waits_for_the_longest_step() -> None:
    found = re.search(r"^consumer_timeout = (\d+)$", (COMPOSE / "rabbitmq/stdweb.conf").read_text(), re.MULTILINE)
    assert found is not None
    longest_s = max(step.time_limit_s for step in STEPS.values())
    assert int(found[1]) >= (longest_s + CONSUMER_TIMEOUT_MARGIN_S) * 1000


# ---- secrets


def test_secrets_are_strong_private_and_kept(made: Path) -> None:
    env = made / "deploy/compose/.env"
    before = env.read_text()
    values = secrets_of(made)
    assert len(set(values.values())) == len(values) > len(OURS)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in values.values())
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert stat.S_IMODE((made / "deploy/compose/secrets").stat().st_mode) == 0o700

    gone = "BROKER_PREVIEW_PASSWORD"
    env.write_text(
        "".join(line for line in before.splitlines(keepends=True) if not line.startswith(gone)) + "STDWEB_PORT=80"
    )
    make(made, "secrets")
    after = secrets_of(made)
    assert after.pop("STDWEB_PORT") == "80"
    assert after.pop(gone) != values.pop(gone)
    assert after == values
    assert stat.S_IMODE(env.stat().st_mode) == 0o600

    rendered = json.loads((made / "deploy/compose/secrets/definitions.json").read_text())
    assert {user["name"]: user["tags"] for user in rendered["users"]} == {
        **{name: [] for name in OURS},
        "admin": ["administrator"],
    }
    assert not any(value in json.dumps(rendered) for value in after.values())


def test_secrets_stay_out_of_git_and_of_images() -> None:
    for name in ("deploy/compose/.env", "deploy/compose/secrets/definitions.json"):
        ignored = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
        assert ignored.returncode == 0, name
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_every_secret_of_the_file_is_made(made: Path) -> None:
    needed = set(re.findall(r"\$\{(\w+):\?", (COMPOSE / "compose.yaml").read_text()))
    assert needed <= secrets_of(made).keys()
    used_elsewhere = {"BROKER_ADMIN_PASSWORD"}  # of people, for the broker's pages
    assert secrets_of(made).keys() - needed <= used_elsewhere | {"STDWEB_PORT"}


# ---- make up


def engine(folder: Path, *, answers: bool) -> Path:
    """Put a `docker` into `folder` that writes down how it was called."""
    folder.mkdir()
    program = folder / "docker"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {folder}/calls
case "$*" in
    info) exit {0 if answers else 1} ;;
    *"port gateway 8000") echo 127.0.0.1:8000 ;;
    *"ps --quiet") echo 0123456789ab ;;
esac
"""
    )
    program.chmod(0o755)
    return program


COMPOSE_FILE = "compose --file deploy/compose/compose.yaml"


def test_where_an_engine_answers_make_up_uses_containers(made: Path, tmp_path: Path) -> None:
    path = engine(tmp_path / "bin", answers=True).parent
    said = make(made, "up", path=str(path)).stdout
    assert "http://127.0.0.1:8000/api" in said
    calls = (path / "calls").read_text().splitlines()
    assert calls[:2] == ["info", "compose version"]
    assert f"{COMPOSE_FILE} up --detach --build --wait" in calls
    make(made, "status", path=str(path))
    make(made, "down", path=str(path))
    assert (path / "calls").read_text().splitlines()[-1] == f"{COMPOSE_FILE} down"
    assert f"{COMPOSE_FILE} ps" in (path / "calls").read_text().splitlines()


@pytest.mark.parametrize("arguments", [(), ("STACK=local",)])
def test_else_it_starts_local_processes(made: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = engine(tmp_path / "bin", answers=bool(arguments)).parent
    refused = make(made, "up", *arguments, path=str(path), check=False)
    assert "run 'make setup' first" in refused.stderr  # there is no .venv in this copy
    assert not re.search(r"up --detach", (path / "calls").read_text() if (path / "calls").exists() else "")
