"""What integration tests share."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stdweb.sky import Observation, simulate
from tests.support.gateway import Client, Gateway, gateway
from tests.support.photometry import Bench
from tests.support.photometry_field import CONFIG, SIZE
from tests.support.rabbit import TestBroker, running_broker
from tests.support.store import embedded_store, mongo_url
from tests.support.transients import Search, inject

__all__ = ["embedded_store", "mongo_url"]  # one store for all modules


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBroker]:
    """Run one node for all; each test takes a virtual host of its own by `new_url`."""
    with running_broker(tmp_path_factory.mktemp("rabbit")) as broker:
        yield broker


@pytest.fixture
async def site(request: pytest.FixtureRequest, mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Run a gateway, with the settings in SITE of the module."""
    async with gateway(mongo_url, tmp_path, **getattr(request.module, "SITE", {})) as running:
        yield running


@pytest.fixture
async def ann(request: pytest.FixtureRequest, site: Gateway) -> AsyncIterator[Client]:
    """Call the gateway as the user ann, with what ANN of the module says of her."""
    async with site.client("ann", **getattr(request.module, "ANN", {})) as client:
        yield client


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


@pytest.fixture(scope="session")
def searched(sky: Observation, tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Put stars that no catalogue has into the small field, and do photometry once for all."""
    folder = tmp_path_factory.mktemp("searched")
    injected = inject(sky, folder / "image.fits", np.linspace(15.5, 19.5, 16))
    made = Bench(folder, sky.mirror_dir)
    config = made.inspect({**CONFIG, "time": "2026-11-02T21:35:40"})
    config |= made.run(config)
    for path in made.work.iterdir():
        path.rename(folder / path.name)
    return Search(folder, folder / "never", config, injected, sky.mirror_dir)


@pytest.fixture
def search(searched: Search, tmp_path: Path) -> Search:
    """Give a task of that field, after `photometry`."""
    return replace(searched, work=tmp_path / "work", lines=[], others={}, missing=set())
