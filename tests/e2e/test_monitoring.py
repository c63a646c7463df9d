"""A real Prometheus beside the stack: what it finds there, and an alert that fires and passes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tests.support.prometheus import Prometheus, dashboard_expressions, names_in, rules, running_prometheus
from tests.support.stack import Stack

DEADLINE_S = 60.0
STEPS = ("cleanup", "inspect", "photometry", "simple_transients", "subtraction", "stack")


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with running_prometheus(stack.state, tmp_path_factory.mktemp("prometheus"), "500ms") as running:
        yield running


@pytest.fixture
def task(stack: Stack, tmp_path: Path) -> int:
    fits.writeto(tmp_path / "image.fits", np.zeros((16, 16), "f4"))
    with stack.client() as client:
        return int(client.create_task(tmp_path / "image.fits")["id"])


def test_an_alert_fires_while_a_worker_is_away_and_passes_when_it_is_back(
    stack: Stack, prometheus: Prometheus, task: int
) -> None:
    slots = 'stdweb:step_slots:sum{step="simple_transients"}'
    ready = 'stdweb:queue_ready:max{queue="step.simple_transients.v1"}'
    until(lambda: prometheus.value(slots) and prometheus.value(ready) == 0)
    assert "StdwebNoConsumers" not in prometheus.firing()
    supervisor = int((stack.folder / "supervisor.pid").read_text().split()[0])
    os.kill(supervisor, signal.SIGSTOP)  # or it would start the next worker at once
    try:
        os.kill(stack.pid("transients") or 0, signal.SIGKILL)
        with stack.client() as client:
            client.process(task, ["simple_transients"])
        (alert,) = until(lambda: prometheus.firing().get("StdwebNoConsumers"))
        assert alert["labels"]["queue"] == "step.simple_transients.v1"
        assert alert["annotations"]["summary"] == "Nobody takes messages from step.simple_transients.v1, where 1 wait"
        (alert,) = until(lambda: prometheus.firing().get("StdwebWorkerDown"))
        assert alert["labels"]["service"] == "transients"
        assert prometheus.value('stdweb:step_backlog:max{step="simple_transients"}') == 1
        assert prometheus.value('stdweb:step_demand:max{step="simple_transients"}') == 1
        assert prometheus.value('stdweb:step_oldest_wait_seconds:max{step="simple_transients"}') >= 0
        assert not prometheus.value(slots)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    until(lambda: not {"StdwebNoConsumers", "StdwebWorkerDown"} & set(prometheus.firing()))
    until(lambda: prometheus.value('stdweb:step_demand:max{step="simple_transients"}') == 0)
    assert prometheus.value(slots)


def test_all_that_rules_and_dashboard_ask_for_is_there(stack: Stack, prometheus: Prometheus, task: int) -> None:
    with stack.client() as client:
        client.process(task, ["cleanup"])
    targets = until(lambda: _all_up(prometheus))
    assert {target["labels"]["job"] for target in targets} == {
        *("stdweb-gateway", "stdweb-services", "rabbitmq", "rabbitmq-queues")
    }
    until(lambda: prometheus.value('sum(stdweb_queue_wait_seconds_count{step="cleanup"})'))
    expressions = [*(rule["expr"] for rule in rules()), *dashboard_expressions()]
    for expression in expressions:
        prometheus.get("query", query=expression)  # an error otherwise
    # what was counted has series; of what was not counted yet the type is known
    known = set(prometheus.get("label/__name__/values"))
    known |= {one["metric"] for one in prometheus.get("targets/metadata")}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = set().union(*map(names_in, expressions)) - recorded
    assert {name for name in asked if name not in known and name.rpartition("_")[0] not in known} == set()
    # and the ones that workers are scaled and people are woken up by have values, a rate after two scrapes
    for step in STEPS:
        for name in ("stdweb:step_demand:max", "stdweb:step_slots:sum", "stdweb:step_arrivals:rate5m"):
            until(lambda asked=f'{name}{{step="{step}"}}': prometheus.value(asked) is not None)
        assert prometheus.value(f'stdweb:queue_consumers:max{{queue="step.{step}.v1"}}') > 0, step
    assert prometheus.value("max(stdweb_store_up)") == 1
    assert prometheus.value("min(stdweb_broker_connected)") == 1
    assert prometheus.value("min(stdweb_volume_free_bytes)") > 0
    assert not {"StdwebNoGateway", "StdwebStoreAway", "StdwebBrokerDown", "StdwebDiskFull"} & set(prometheus.firing())


def _all_up(prometheus: Prometheus) -> list[dict[str, Any]] | None:
    targets = prometheus.get("targets")["activeTargets"]
    return targets if targets and all(target["health"] == "up" for target in targets) else None
