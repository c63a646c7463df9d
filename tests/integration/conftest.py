"""What integration tests share."""

from collections.abc import Iterator

import pytest

from tests.support.rabbit import TestBroker, running_broker


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBroker]:
    """Run one node for all; each test takes a virtual host of its own by `new_url`."""
    with running_broker(tmp_path_factory.mktemp("rabbit")) as broker:
        yield broker
