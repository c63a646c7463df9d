"""Fixtures around the local archives; name this module in `pytest_plugins`."""

from collections.abc import Iterator
from pathlib import Path

import certifi
import numpy as np
import pytest

from shared.science.archives import apply_ca_bundle
from shared.worker.step import Resources
from stdweb.sky import make_sky
from stdweb.sky.mirror import gaia_stars, ps1_stars

from .server import ArchiveServer

RA_DEG, DEC_DEG = 150.0, 20.0


@pytest.fixture(scope="session")
def archive_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchiveServer]:
    """Run the archives for the whole session, over a small sky of radius 3 degrees around RA 150, Dec +20."""
    sky = make_sky(RA_DEG, DEC_DEG, 3.0, seed=7, stars_per_deg2=400, galaxies_per_deg2=20)
    rng = np.random.default_rng(7)
    tables = {"II/349/ps1": ps1_stars(sky, rng), "I/360/syntphot": gaia_stars(sky, rng)}
    server = ArchiveServer(
        folder=tmp_path_factory.mktemp("archives"),
        tables=tables,
        names={"m31": (10.684708, 41.26875), "v* kr aur": (93.8955, 28.5875)},
        transients={"at 2026abc": (150.1, 20.1)},
    )
    with server:
        yield server


@pytest.fixture
def archives(archive_server: ArchiveServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ArchiveServer]:
    """Put the archives in front of this process, as a site does with its proxy and CA bundle."""
    archive_server.reset()
    for name, value in archive_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    # remembered here, so that what apply_ca_bundle changes is put back
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setattr(certifi, "where", certifi.where)
    monkeypatch.setattr(certifi.core, "where", certifi.core.where)
    apply_ca_bundle(archive_server.authority.bundle)
    yield archive_server
    archive_server.reset()


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    """Give an empty cache and no mirror."""
    return Resources(cache_dir=tmp_path / "cache")
