"""Catalogues from a VizieR that works, misbehaves, or is away; the real astroquery and stdpipe throughout."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.errors import TransientError
from shared.science.catalogs import fetch_catalog
from shared.science.catalogs.build import fetch_to_mirror
from shared.worker.step import Resources
from tests.support.archives import ArchiveServer, Behaviour

pytest_plugins = ["tests.support.archives.fixtures"]

RA_DEG, DEC_DEG = 150.0, 20.0
ROOT = Path(__file__).parents[2]


def fetch(resources, ra_deg=RA_DEG, dec_deg=DEC_DEG, radius_deg=0.3, *, code="ps1", limit_mag=20.0, log=None):
    return fetch_catalog(
        code,
        ra_deg,
        dec_deg,
        radius_deg,
        band="R",
        limit_mag=limit_mag,
        resources=resources,
        log=log or (lambda *_: None),
    )


def expected(archives, ra_deg=RA_DEG, dec_deg=DEC_DEG, radius_deg=0.3, limit_mag=20.0):
    stars = archives.tables["II/349/ps1"]
    a, d, a0, d0 = (np.radians(x) for x in (stars["RAJ2000"], stars["DEJ2000"], ra_deg, dec_deg))
    cosine = np.sin(d) * np.sin(d0) + np.cos(d) * np.cos(d0) * np.cos(a - a0)
    return stars[(np.degrees(np.arccos(cosine)) <= radius_deg) & (np.asarray(stars["rmag"]) < limit_mag)]


def test_gives_the_stars_of_the_cone_with_derived_bands(archives, resources):
    stars, truth = fetch(resources), expected(archives)
    assert set(stars["objID"]) == set(truth["objID"])
    assert len(stars) > 50
    assert {"Rmag", "e_Rmag", "Bmag", "Vmag"} <= set(stars.colnames)
    red = np.asarray(stars["rmag"] - stars["Rmag"])
    assert np.nanmedian(red) == pytest.approx(0.2, abs=0.1)  # R of Vega against r of AB, mag


def test_a_repeated_field_asks_nobody(archives, resources):
    first, second = fetch(resources), fetch(resources)
    assert archives.count("vizier") == 1
    assert set(first["objID"]) == set(second["objID"])


def test_a_neighbouring_field_asks_at_most_for_the_new_part(archives, resources):
    fetch(resources)
    near = fetch(resources, ra_deg=RA_DEG + 0.02, radius_deg=0.25)
    assert archives.count("vizier") == 1
    assert set(near["objID"]) == set(expected(archives, RA_DEG + 0.02, radius_deg=0.25)["objID"])
    far = fetch(resources, ra_deg=RA_DEG + 0.4)
    assert archives.count("vizier") == 2
    assert set(far["objID"]) == set(expected(archives, RA_DEG + 0.4)["objID"])


def test_a_deep_answer_serves_a_shallow_question(archives, resources):
    fetch(resources, limit_mag=20.0)
    shallow = fetch(resources, limit_mag=18.3)
    assert archives.count("vizier") == 1
    assert set(shallow["objID"]) == set(expected(archives, limit_mag=18.3)["objID"])


def test_a_damaged_file_of_the_cache_is_fetched_again(archives, resources):
    fetch(resources)
    damaged = next((resources.cache_dir / "catalogs").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    for _ in range(2):  # every damaged cell costs one attempt of the step
        with contextlib.suppress(TransientError):
            stars = fetch(resources)
    assert set(stars["objID"]) == set(expected(archives)["objID"])


def test_a_cache_that_cannot_be_written_is_transient(archives, resources):
    resources.cache_dir.mkdir()
    (resources.cache_dir / "catalogs").mkdir()
    (resources.cache_dir / "catalogs" / "ps1").mkdir()
    (resources.cache_dir / "catalogs" / "ps1" / "m20").write_text("in the way")
    with pytest.raises(TransientError) as caught:
        fetch(resources)
    assert caught.value.code == "storage_unavailable"


def test_nothing_there_is_an_empty_table(archives, resources):
    stars = fetch(resources, ra_deg=10.0, dec_deg=-60.0)
    assert len(stars) == 0
    assert {"RAJ2000", "rmag"} <= set(stars.colnames)
    fetch(resources, ra_deg=10.0, dec_deg=-60.0)
    assert archives.count("vizier") == 1  # that there is nothing is remembered too


def test_synthetic_photometry_of_gaia(archives, resources):
    stars = fetch(resources, code="gaiadr3syn")
    assert len(stars) > 20
    assert np.all(np.isfinite(stars["Rmag"]))
    assert np.nanmedian(stars["e_Rmag"]) < 0.02  # mag


@pytest.mark.parametrize(
    "fault", [Behaviour.BROKEN, Behaviour.TRUNCATED, Behaviour.CUT, Behaviour.GARBAGE, Behaviour.DOWN]
)
def test_a_passing_fault_is_asked_again(archives, resources, fault):
    archives.behave("vizier", fault, Behaviour.OK)
    lines = []
    stars = fetch(resources, log=lines.append)
    assert set(stars["objID"]) == set(expected(archives)["objID"])
    assert archives.count("vizier") == 2
    assert any("asking again" in line for line in lines)


def test_a_lasting_fault_is_transient_soon_and_leaves_nothing(archives, resources):
    archives.behave("vizier", Behaviour.DOWN)
    started = time.monotonic()
    with pytest.raises(TransientError) as caught:
        fetch(resources)
    assert caught.value.code == "archive_unavailable"
    assert "VizieR" in caught.value.user_message
    assert time.monotonic() - started < 15  # s
    assert not list((resources.cache_dir / "catalogs").rglob("*.parquet"))
    asked = archives.count("vizier")
    with pytest.raises(TransientError):
        fetch(resources, code="gaiadr3syn")  # the next catalogue does not wait for the same dead archive again
    assert archives.count("vizier") == asked


def test_the_mirror_is_asked_first_and_vizier_beyond_it(archives, resources, tmp_path):
    mirror_dir = tmp_path / "mirror"
    fetch_to_mirror("ps1", RA_DEG, DEC_DEG, 0.5, limit_mag=21.0, mirror_dir=mirror_dir, log=lambda *_: None)
    local = replace(resources, mirror_dir=mirror_dir)
    archives.reset()
    inside = fetch(local)
    assert archives.count("vizier") == 0
    assert set(inside["objID"]) == set(expected(archives)["objID"])
    outside = fetch(local, ra_deg=RA_DEG + 1.5)
    assert archives.count("vizier") == 1
    assert set(outside["objID"]) == set(expected(archives, RA_DEG + 1.5)["objID"])


def test_a_partly_covered_field_is_used_when_vizier_is_away(archives, resources, tmp_path):
    mirror_dir = tmp_path / "mirror"
    fetch_to_mirror("ps1", RA_DEG, DEC_DEG, 0.3, limit_mag=21.0, mirror_dir=mirror_dir, log=lambda *_: None)
    archives.behave("vizier", Behaviour.DOWN)
    lines = []
    stars = fetch(replace(resources, mirror_dir=mirror_dir), ra_deg=RA_DEG + 0.25, log=lines.append)
    assert 0 < len(stars) < len(expected(archives, RA_DEG + 0.25))
    assert any("covers" in line for line in lines)


def test_fetching_a_mirror_goes_on_where_it_stopped(archives, tmp_path):
    def grow(radius_deg):
        return fetch_to_mirror(
            "ps1", RA_DEG, DEC_DEG, radius_deg, limit_mag=20.0, mirror_dir=tmp_path, log=lambda *_: None
        )

    grow(0.3)
    before = archives.count("vizier")
    assert grow(0.3) == 0
    assert archives.count("vizier") == before
    assert grow(1.0) > 0
    stars = fetch(Resources(cache_dir=tmp_path / "cache", mirror_dir=tmp_path), radius_deg=0.9)
    assert sorted(stars["objID"]) == sorted(expected(archives, radius_deg=0.9)["objID"])


CHILD = """
import json, sys
from pathlib import Path
from shared.science.archives import apply_ca_bundle
from shared.science.catalogs import fetch_catalog
from shared.worker.step import Resources
import os
apply_ca_bundle(Path(os.environ["STDWEB_CA_BUNDLE"]))
print("ready", flush=True)
sys.stdin.readline()
resources = Resources(Path(sys.argv[1]))
stars = fetch_catalog("ps1", 150.0, 20.0, 0.3, band="R", limit_mag=20.0, resources=resources, log=lambda *_: None)
print(json.dumps(sorted(int(i) for i in stars["objID"])))
"""


def test_two_processes_ask_once_for_the_same_field(archives: ArchiveServer, resources: Resources):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(resources.cache_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **archives.environment},
        )
        for _ in range(2)
    ]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        found = [json.loads(child.communicate(timeout=60)[0]) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert archives.count("vizier") == 1
    assert found[0] == found[1] == sorted(int(i) for i in expected(archives)["objID"])


PLAIN = """
import os
from pathlib import Path
from shared.science.archives import apply_ca_bundle
apply_ca_bundle(Path(os.environ["STDWEB_CA_BUNDLE"]))
from astropy.coordinates import SkyCoord
from stdpipe.catalogs import get_cat_vizier
from stdpipe.resolve import resolve
from stdpipe.templates import get_hips_image
assert len(get_cat_vizier(150.0, 20.0, 0.2, "ps1", filters={"rmag": "<20"})) > 20
assert abs(resolve("M31").ra.deg - 10.684708) < 1e-6
assert abs(SkyCoord.from_name("M31").ra.deg - 10.684708) < 1e-6
image, header = get_hips_image("CDS/P/DSS2/red", ra=150.0, dec=20.0, width=41, height=31, fov=0.01, normalize=False)
assert image.shape == (31, 41) and image.argmax() == 15 * 41 + 20
print("fine")
"""


def test_unmodified_libraries_work_through_proxy_and_bundle(archives, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PLAIN)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env={**os.environ, **archives.environment},
        check=False,
    )
    assert done.stdout.strip().endswith("fine"), done.stderr
