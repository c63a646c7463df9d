"""What several folders of tests share: one stack for all of them."""

import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.stack import Stack, running_stack

if TYPE_CHECKING:
    from stdweb.sky import Observation

_WITH_THE_STACK = ("tests/e2e/", "tests/conformance/")
_CAMPAIGN = "tests/chaos/"
_SLOW_TO_START = {"stack", "site"}


class _Shared(LoadScopeScheduling):
    """Gives the tests of one file to one worker, and all that share the stack to one worker as well.

    Where there are many tests is begun first: the campaign of faults, one test of minutes that mostly waits, goes with
    the others of its folder, or it would be the last of all, with nothing beside it.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_CAMPAIGN):
            return _CAMPAIGN
        return "stack" if nodeid.startswith(_WITH_THE_STACK) else nodeid.partition("::")[0]


def pytest_configure() -> None:
    """Forget the size of a terminal that there is not: readline leaves it to the workers of pytest-xdist."""
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Say who runs which tests."""
    return _Shared(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow for a first start, which compiles."""
    for item in items:
        if _SLOW_TO_START & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(600))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let what a module left open be found in that module, and not where garbage happens to be collected next."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(
        tmp_path_factory.mktemp("stack"), CALLBACK_ALLOW="127.0.0.0/8", CALLBACK_RETRY_S="0.5"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def observation(stack: Stack) -> "Observation":
    """An observation in R, away from the demonstration's field."""
    from stdweb.sky import simulate  # most tests need neither stack nor sky

    return simulate(
        stack.root / "field",
        size=1536,
        seed=7,
        ra_deg=150.0,
        dec_deg=20.0,
        filter="R",
        mirror_dir=stack.state.mirror_dir,
    )
