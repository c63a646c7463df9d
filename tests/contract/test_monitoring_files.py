"""What is in deploy/monitoring: valid, tested, derived from one another, and told of in the docs."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard, stat, timeseries

from deploy.monitoring import generate
from shared.metrics import REGISTRY
from stdweb.settings import StackState
from stdweb.stack import monitoring
from tests.support.prometheus import DASHBOARD, FOLDER, dashboard_expressions, names_in, rules
from tests.support.stack import ROOT

ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_and_rules_are_valid() -> None:
    promtool("check", "config", str(FOLDER / "prometheus.yml"))
    promtool("check", "rules", "--lint-fatal", *(str(path) for path in sorted((FOLDER / "rules").glob("*.yml"))))


def test_the_configuration_of_the_local_stack_is_valid_and_has_the_jobs_of_the_other_one(tmp_path: Path) -> None:
    state = StackState(folder=tmp_path, base_url="http://localhost:8000/api")
    state.choose_ports()
    state.amqp_url = monitoring.broker_node(state).url
    local = monitoring.configuration(state)
    monitoring.command(local, tmp_path / "prometheus", 9090)
    promtool("check", "config", str(tmp_path / "prometheus" / "prometheus.yml"))
    compose = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    facts = [
        [(job["job_name"], job.get("metrics_path"), job.get("params")) for job in config["scrape_configs"]]
        for config in (local, compose)
    ]
    assert facts[0] == facts[1]
    state.amqp_url = "amqp://somebody:else@broker/stdweb"
    jobs = [job["job_name"] for job in monitoring.configuration(state)["scrape_configs"]]
    assert jobs == ["stdweb-gateway", "stdweb-services"]


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", str(FOLDER / "tests" / "alerts.yml"))


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_tested_and_has_its_chapter(name: str) -> None:
    tests = yaml.safe_load((FOLDER / "tests" / "alerts.yml").read_text())["tests"]
    mine = [case for test in tests if name in test["name"] for case in test["promql_expr_test"]]
    fires = [case for case in mine if any(f'"{name}"' in sample["labels"] for sample in case["exp_samples"])]
    assert fires
    assert len(fires) < len(mine)
    chapter = re.search(rf"^### {name}$(.*?)(?=^##|\Z)", OPERATIONS, re.DOTALL | re.MULTILINE)
    assert chapter, f"docs/operations.md has no chapter on {name}"
    assert all(word in chapter[1] for word in ("**Means.**", "**Look.**", "**Do.**"))
    notes = ALERTS[name]["annotations"]
    assert notes["runbook"] == f"docs/operations.md#{name.lower()}"
    assert ALERTS[name]["labels"]["severity"] in {"critical", "warning"}


def test_chapters_are_of_alerts_that_there_are() -> None:
    assert set(re.findall(r"^### (Stdweb\w+)$", OPERATIONS, re.MULTILINE)) == set(ALERTS)


def test_the_docs_list_every_metric_of_ours() -> None:
    import services.gateway.app
    import services.preview.service
    import shared.worker.requests

    assert all((services.gateway.app, services.preview.service, shared.worker.requests))
    ours = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in REGISTRY.collect()
        if metric.name.startswith("stdweb_")
    }
    told = set(re.findall(r"`(stdweb_[a-z_]+)`", OPERATIONS))
    assert ours <= told
    assert told <= ours


def test_derived_files_are_up_to_date() -> None:
    hint = "run: python deploy/monitoring/generate.py"
    assert json.loads(DASHBOARD.read_text()) == generate.dashboard(), hint
    assert generate.OPERATOR_RULES.read_text() == generate.operator_rules(), hint


def test_recorded_names_are_recorded() -> None:
    asked = {
        name for text in [*dashboard_expressions(), *(rule["expr"] for rule in rules())] for name in names_in(text)
    }
    assert {name for name in asked if ":" in name} <= {rule["record"] for rule in rules() if "record" in rule}


def lost(given: Any, kept: Any, where: str = "") -> list[str]:
    """List what a reader that knows the schema has not kept."""
    if isinstance(given, dict):
        return [
            line
            for key, value in given.items()
            for line in ([f"{where}.{key}"] if key not in (kept or {}) else lost(value, kept[key], f"{where}.{key}"))
        ]
    if isinstance(given, list):
        pairs = zip(given, kept, strict=True)
        return [line for index, (one, other) in enumerate(pairs) for line in lost(one, other, f"{where}[{index}]")]
    return [] if given == kept else [f"{where}: {given!r} became {kept!r}"]


def read_again(model: Any, given: Any) -> Any:
    return json.loads(JSONEncoder(sort_keys=True).encode(model.from_json(given)))


def test_the_dashboard_is_one_by_the_schema_of_grafana() -> None:
    given = json.loads(DASHBOARD.read_text())
    assert lost(given, read_again(dashboard.Dashboard, given)) == []
    for panel in given["panels"]:
        if panel["type"] != "row":
            kind = {"stat": stat.Options, "timeseries": timeseries.Options}[panel["type"]]
            assert lost(panel["options"], read_again(kind, panel["options"])) == []


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
