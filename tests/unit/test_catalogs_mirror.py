"""Local mirrors: written as HATS, added to, read by cones."""

from dataclasses import replace

import hats
import numpy as np
import pytest
from astropy.table import Table
from hats.io.validation import is_valid_catalog
from typer.testing import CliRunner

from shared.contracts.bands import CATALOGS
from shared.errors import TransientError, UsageError
from shared.science.archives import BREAKER_FAILURES
from shared.science.catalogs import catalog_columns, fetch_catalog
from shared.science.catalogs.build import add_to_mirror, import_catalog
from shared.science.catalogs.mirror import read_mirror
from shared.science.catalogs.sky import cells_of, cone_cells, distance_deg, enclosing_cone
from shared.worker.step import Resources
from stdweb.catalog_cli import app
from stdweb.sky import make_sky
from stdweb.sky.mirror import ps1_stars

RA_DEG, DEC_DEG = 359.9, 62.0  # the cone crosses RA 0


def say_nothing(*_):
    pass


@pytest.fixture(scope="module")
def stars():
    sky = make_sky(RA_DEG, DEC_DEG, 1.5, seed=3, stars_per_deg2=3000, galaxies_per_deg2=50)
    return ps1_stars(sky, np.random.default_rng(3))


@pytest.fixture
def mirror_dir(stars, tmp_path):
    cells, _ = cone_cells(RA_DEG, DEC_DEG, 0.8, 8)
    inside = stars[np.isin(cells_of(stars["RAJ2000"], stars["DEJ2000"], 8), cells)]
    add_to_mirror(inside, tmp_path / "mirror", "ps1", cells=cells, order=8, limit_mag=22.0)
    return tmp_path / "mirror"


@pytest.fixture
def site(mirror_dir, tmp_path):
    # VizieR counts as dead, so that whatever the mirror does not answer fails at once and nothing leaves the machine
    health = tmp_path / "cache" / "archives" / "vizier.json"
    health.parent.mkdir(parents=True)
    health.write_text(f'{{"failures": {BREAKER_FAILURES}, "until": 4e9}}')
    return Resources(cache_dir=tmp_path / "cache", mirror_dir=mirror_dir)


def read(site, ra_deg=RA_DEG, dec_deg=DEC_DEG, radius_deg=0.7, *, limit_mag=20.0, log=say_nothing):
    return read_mirror("ps1", ra_deg, dec_deg, radius_deg, limit_mag=limit_mag, resources=site, log=log)


def in_cone(stars, ra_deg=RA_DEG, dec_deg=DEC_DEG, radius_deg=0.7, limit_mag=20.0):
    near = distance_deg(ra_deg, dec_deg, np.asarray(stars["RAJ2000"]), np.asarray(stars["DEJ2000"])) <= radius_deg
    return stars[near & (np.asarray(stars["rmag"]) < limit_mag)]


def test_mirror_is_a_valid_hats_catalogue(mirror_dir):
    catalogue = hats.read_hats(mirror_dir / "ps1")
    assert catalogue.catalog_info.ra_column == "RAJ2000"
    assert catalogue.catalog_info.total_rows > 1000
    assert is_valid_catalog(mirror_dir / "ps1", strict=True)


def test_a_cone_gives_just_its_stars(site, stars):
    found, truth = read(site), in_cone(stars)
    assert found.complete
    assert len(truth) > 1000
    assert sorted(found.stars["objID"]) == sorted(truth["objID"])
    order, expected = np.argsort(found.stars["objID"]), np.argsort(truth["objID"])
    np.testing.assert_allclose(found.stars["gmag"][order], truth["gmag"][expected])


def test_fetch_adds_bands_and_says_where_from(site):
    lines = []
    table = fetch_catalog("ps1", RA_DEG, DEC_DEG, 0.5, band="R", limit_mag=19.0, resources=site, log=lines.append)
    columns = catalog_columns("ps1", "R")
    assert np.isfinite(table[columns.mag]).mean() > 0.8
    assert np.nanmedian(table[columns.color_mag1] - table[columns.color_mag2]) == pytest.approx(0.9, abs=0.2)
    assert "local mirror" in lines[-1]


def test_beyond_its_coverage_vizier_is_asked(site):
    assert read(site, ra_deg=20.0) is None
    assert not read(site, radius_deg=1.2).complete
    with pytest.raises(TransientError):
        fetch_catalog("ps1", 20.0, DEC_DEG, 0.5, band="R", limit_mag=19.0, resources=site, log=say_nothing)


def test_an_absent_mirror_is_none(site):
    assert read_mirror("sdss", 0.0, 0.0, 1.0, limit_mag=None, resources=site, log=say_nothing) is None
    assert read(replace(site, mirror_dir=None)) is None


def test_a_shallow_mirror_says_so(site):
    lines = []
    read(site, limit_mag=23.0, log=lines.append)
    assert "ends at 22 mag" in lines[0]


def test_a_damaged_mirror_is_left_aside(site):
    for path in (site.mirror_dir / "ps1").rglob("Npix=*.parquet"):
        path.write_bytes(path.read_bytes()[:1000])
    lines = []
    assert read(site, log=lines.append) is None
    assert "damaged" in lines[0]


def test_adding_keeps_what_was_there_and_replaces_the_same_stars(mirror_dir, site, stars):
    wider, _ = cone_cells(RA_DEG, DEC_DEG, 1.2, 8)
    add_to_mirror(stars, mirror_dir, "ps1", cells=wider, order=8, limit_mag=22.0)
    found = read(site, radius_deg=1.1)
    assert found.complete
    assert sorted(found.stars["objID"]) == sorted(in_cone(stars, radius_deg=1.1)["objID"])
    assert is_valid_catalog(mirror_dir / "ps1", strict=True)


def test_another_sky_in_the_same_cells_takes_the_place_of_the_old(mirror_dir, site, stars):
    cells, _ = cone_cells(RA_DEG, DEC_DEG, 0.8, 8)
    moved = stars[np.isin(cells_of(stars["RAJ2000"], stars["DEJ2000"], 8), cells)]
    moved["DEJ2000"] = moved["DEJ2000"] + 1e-5
    moved = moved[np.isin(cells_of(moved["RAJ2000"], moved["DEJ2000"], 8), cells)]
    add_to_mirror(moved, mirror_dir, "ps1", cells=cells, order=8)
    assert sorted(read(site).stars["objID"]) == sorted(in_cone(moved)["objID"])


def test_a_mirror_of_others_is_read_by_its_partitions(site, stars):
    folder = site.mirror_dir / "ps1"
    (folder / "coverage.fits").unlink()
    (folder / "partition_info.csv").unlink()
    found = read(site)
    assert found.complete  # whole partitions count as covered when nobody says more
    assert sorted(found.stars["objID"]) == sorted(in_cone(stars)["objID"])


@pytest.mark.parametrize("name", ["stars.parquet", "stars.csv", "stars.vot", "stars.fits"])
def test_import_reads_the_usual_formats(name, stars, tmp_path):
    # numbers as text would be written by code that corrupts memory (astropy issue 20419)
    formats = {".csv": {"format": "ascii.csv"}, ".vot": {"format": "votable", "tabledata_format": "binary"}}
    source = tmp_path / name
    sample = Table(in_cone(stars, radius_deg=1.0), masked=False)
    sample.write(source, **formats.get(source.suffix, {"format": source.suffix[1:]}))
    result = CliRunner().invoke(app, ["import", "ps1", str(source), "--mirror-dir", str(tmp_path / "mirror")])
    assert result.exit_code == 0, result.output
    assert f"{len(sample)} stars" in result.output
    site = Resources(cache_dir=tmp_path / "cache", mirror_dir=tmp_path / "mirror")
    found = read(site, radius_deg=0.6)
    assert found.complete
    assert len(found.stars) == len(in_cone(stars, radius_deg=0.6))


@pytest.mark.parametrize(
    ("content", "says"), [("a,b\n1,2\n", "lacks DEJ2000, RAJ2000, rmag"), ("RAJ2000,DEJ2000,rmag\n", "no rows")]
)
def test_import_says_what_is_wrong(tmp_path, content, says):
    source = tmp_path / "bad.csv"
    source.write_text(content)
    result = CliRunner().invoke(app, ["import", "ps1", str(source), "--mirror-dir", str(tmp_path / "mirror")])
    assert result.exit_code == 1
    assert says in result.output


def test_import_refuses_unknown_endings_and_catalogues(tmp_path):
    source = tmp_path / "stars.txt"
    source.write_text("")
    with pytest.raises(UsageError, match="ending"):
        import_catalog(source, tmp_path, "ps1")
    with pytest.raises(UsageError, match="Unknown catalogue"):
        add_to_mirror(Table(), tmp_path, "usno", cells=np.empty(0, np.uint64), order=8)


def test_every_band_of_every_catalogue_has_columns_and_a_color():
    for code, catalogue in CATALOGS.items():
        for band in catalogue.filters:
            columns = catalog_columns(code, band)
            assert columns.mag == f"{band}mag"
            assert {columns.color_mag1[:-3], columns.color_mag2[:-3]} <= set(catalogue.filters)
    assert catalog_columns("ps1", "R").color_mag1 == "Bmag"
    with pytest.raises(UsageError, match="gaiadr3syn, sdss"):
        catalog_columns("ps1", "u")


@pytest.mark.parametrize(("ra_deg", "dec_deg", "radius_deg"), [(0.1, 0.0, 0.5), (200.0, 89.7, 0.6), (45.0, -89.9, 0.3)])
def test_an_enclosing_cone_holds_all_of_its_cells(ra_deg, dec_deg, radius_deg):
    cells, _ = cone_cells(ra_deg, dec_deg, radius_deg, 8)
    cone = enclosing_cone(cells, 8)
    finer, inside = cone_cells(*cone, 8)
    assert set(cells) <= set(finer[inside])
    assert cone[2] < radius_deg + 0.6
