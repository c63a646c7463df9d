"""What integration tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stdweb.sky import Observation, simulate
from tests.support.photometry import Bench
from tests.support.photometry_field import SIZE
from tests.support.rabbit import TestBroker, running_broker


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBroker]:
    """Run one node for all; each test takes a virtual host of its own by `new_url`."""
    with running_broker(tmp_path_factory.mktemp("rabbit")) as broker:
        yield broker


@pytest.fixture(scope="session")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Observation:
    """Simulate a small field and inspect it once for all."""
    folder = tmp_path_factory.mktemp("sky")
    made = simulate(folder, size=SIZE, seed=5, mirror_dir=folder / "mirror", stars_per_deg2=15_000)
    (folder / "image.fits").symlink_to(made.image)
    Bench(folder, made.mirror_dir).inspect()
    return made


@pytest.fixture
def bench(sky: Observation, tmp_path: Path) -> Bench:
    """Give a task of the small field, after `inspect`."""
    (tmp_path / "image.fits").symlink_to(sky.image)
    (tmp_path / "mask.fits").symlink_to(sky.image.parent / "mask.fits")
    return Bench(tmp_path, sky.mirror_dir)
