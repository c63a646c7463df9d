"""A Prometheus of our own, and what our files ask it for."""

import contextlib
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stdweb.settings import StackState
from stdweb.stack import monitoring
from tests.support.rabbit import free_ports
from tests.support.stack import ROOT

FOLDER = ROOT / "deploy" / "monitoring"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "stdweb.json"
_OURS = re.compile(r"\b(?:stdweb|rabbitmq|process)_[a-z0-9_]+|\bup\b|\bstdweb:[a-z0-9_:]+")
_START_S = 60.0
_TEXTS = re.compile(r'"[^"]*"')


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str

    def get(self, path: str, **query: str) -> Any:
        """Ask its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]

    def value(self, expression: str) -> float | None:
        """Evaluate an expression that gives at most one series."""
        found = self.get("query", query=expression)["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """List the alerts that fire, by name."""
        alerts: dict[str, list[dict[str, Any]]] = {}
        for alert in self.get("alerts")["alerts"]:
            if alert["state"] == "firing":
                alerts.setdefault(alert["labels"]["alertname"], []).append(alert)
        return alerts


@contextlib.contextmanager
def running_prometheus(state: StackState, folder: Path, every: str) -> Iterator[Prometheus]:
    """Run a server that scrapes a stack, with our rules, whose alerts fire at once."""
    rules = folder / "rules"
    rules.mkdir(parents=True)
    for path in (FOLDER / "rules").glob("*.yml"):
        content = yaml.safe_load(path.read_text())
        for rule in (rule for group in content["groups"] for rule in group["rules"] if "for" in rule):
            rule["for"] = "0s"
        (rules / path.name).write_text(yaml.safe_dump(content))
    (port,) = free_ports(1)
    argv = monitoring.command(monitoring.configuration(state, rules, every), folder, port)
    with (folder / "log").open("wb") as output, subprocess.Popen(argv, stdout=output, stderr=output) as process:
        try:
            _wait(f"http://127.0.0.1:{port}/-/ready", process, folder / "log")
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10):
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def rules() -> list[dict[str, Any]]:
    """Read all rules."""
    return [
        rule
        for path in sorted((FOLDER / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def dashboard_expressions() -> list[str]:
    """Read the expressions of the dashboard, with its variables as a user may set them."""
    targets = [target for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel.get("targets", ())]
    return [target["expr"].replace("$__rate_interval", "1m").replace("$step", ".+") for target in targets]


def names_in(expression: str) -> set[str]:
    """List the metrics that an expression asks for."""
    return set(_OURS.findall(_TEXTS.sub('""', expression)))
