"""The step table, the services' folders, the queues and the documentation say the same."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from shared.broker.topology import STEPS_EXCHANGE, Route, topology
from shared.contracts.rpc import RPCS, Rpc
from shared.contracts.steps import STEPS, Step
from stdweb.settings import StackState
from stdweb.stack.components import ANSWERING, SERVICES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("step", STEPS.values(), ids=lambda step: step.name)
def test_exactly_one_service_does_each_step(step: Step) -> None:
    done_by = [
        service
        for service in SERVICES
        for spec in importlib.import_module(f"services.{service}.spec").SPECS
        if spec.step is step
    ]
    assert done_by == [step.service]


def test_every_service_folder_can_be_started_and_has_a_row() -> None:
    folders = {path.parent.name for path in (ROOT / "services").glob("*/spec.py")}
    assert folders == set(SERVICES)
    for service in folders:
        assert (ROOT / "services" / service / "__main__.py").exists()


@pytest.mark.parametrize("rpc", RPCS.values(), ids=lambda rpc: rpc.name)
def test_every_request_has_its_queue_and_a_service_that_runs(rpc: Rpc) -> None:
    assert rpc.queue in {queue.name for queue in topology().queues}
    assert rpc.service in (*SERVICES, *ANSWERING)
    assert (ROOT / "services" / rpc.service / "__main__.py").exists()


def test_every_service_of_the_local_stack_has_a_port(tmp_path: Path) -> None:
    state = StackState.open(tmp_path)
    state.choose_ports()
    assert {*SERVICES, *ANSWERING} < state.ports.keys()


@pytest.mark.parametrize("step", STEPS.values(), ids=lambda step: step.name)
def test_every_step_has_its_queue(step: Step) -> None:
    queues = {queue.name: queue for queue in topology().queues}
    assert Route(STEPS_EXCHANGE, step.name) in queues[step.queue].bindings


def test_ranks_states_and_files_are_each_of_one_step() -> None:
    steps = list(STEPS.values())
    assert len({step.rank for step in steps}) == len(steps)
    assert len({step.state for step in steps}) == len(steps)
    files = [name for step in steps for name in step.files if name != "image.fits"]  # two may give the task another one
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("step", STEPS.values(), ids=lambda step: step.name)
def test_architecture_lists_the_step(step: Step) -> None:
    rows = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    cells = [step.name, step.service, step.queue, str(step.time_limit_s)]
    assert f"| {' | '.join(f'`{cell}`' if cell != cells[-1] else cell for cell in cells)} |" in rows


@pytest.mark.parametrize("step", STEPS.values(), ids=lambda step: step.name)
def test_every_option_is_described(step: Step) -> None:
    for name, field in step.params.model_fields.items():
        assert field.description, f"{step.name}: option {name} has no description"


def test_contracts_import_only_pydantic() -> None:
    allowed = set(sys.stdlib_module_names) | {"pydantic"}
    for path in (ROOT / "shared" / "contracts").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
