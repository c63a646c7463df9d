"""Prometheus beside the local stack: what it scrapes, and where the rules are."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..settings import StackError, StackState
from .components import ANSWERING, SERVICES, broker_node

RULES: Final = Path(__file__).parents[2] / "deploy" / "monitoring" / "rules"
QUEUES_PATH: Final = "/metrics/detailed"
QUEUES_FAMILIES: Final = ("queue_coarse_metrics", "queue_consumer_count")


def configuration(state: StackState, rules: Path = RULES, every: str = "5s") -> dict[str, Any]:
    """Say what to scrape, under the names of jobs that the rules know.

    Parameters
    ----------
    rules
        Folder of the rules.
    every
        Period of scraping and of the rules, as Prometheus writes it.
    """
    services = [
        {"targets": [f"127.0.0.1:{state.ports[name]}"], "labels": {"service": name}} for name in (*SERVICES, *ANSWERING)
    ]
    jobs: list[dict[str, Any]] = [
        {"job_name": "stdweb-gateway", "static_configs": [{"targets": [urlsplit(state.base_url).netloc]}]},
        {"job_name": "stdweb-services", "static_configs": services},
    ]
    node = broker_node(state)
    if state.amqp_url == node.url and node.metrics_port:  # where somebody else's broker has its metrics is not known
        broker = [{"targets": [f"127.0.0.1:{node.metrics_port}"]}]
        families = {"family": list(QUEUES_FAMILIES)}
        jobs += [
            {"job_name": "rabbitmq", "static_configs": broker},
            {"job_name": "rabbitmq-queues", "static_configs": broker, "metrics_path": QUEUES_PATH, "params": families},
        ]
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(rules / "*.yml")],
        "scrape_configs": jobs,
    }


def command(config: dict[str, Any], folder: Path, port: int) -> list[str]:
    """Write a configuration into a folder, and give the command that runs Prometheus on it, on a loopback port.

    Raises
    ------
    StackError
        When Prometheus is not installed.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise StackError("Prometheus is not installed. On Debian: apt-get install --no-install-recommends prometheus")
    folder.mkdir(exist_ok=True)
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(config, indent=2))  # all JSON is YAML
    return [
        program,
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]


def become(state: StackState, port: int) -> None:
    """Run Prometheus in place of this process."""
    argv = command(configuration(state), state.folder / "prometheus", port)
    os.execv(argv[0], argv)  # noqa: S606 - no shell on purpose
