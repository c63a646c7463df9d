"""What the step makes of candidates in a difference: files, the cone, catalogues, bodies, at most a hundred."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from services.subtraction.search import search
from services.subtraction.subtracted import Subtracted
from shared.contracts.params import SubtractionParams
from shared.contracts.results import SUB_CANDIDATES_FILE, Candidates
from shared.errors import UsageError
from shared.science.catalogs.build import add_to_mirror
from shared.science.catalogs.mirror import COVERAGE_ORDER
from shared.science.catalogs.sky import cone_cells
from shared.science.difference import Difference
from shared.science.solution import Inputs
from shared.science.templates import Template
from shared.science.zeropoint import Terms, ZeroPoint
from shared.worker.step import Resources, StepContext
from tests.support.difference import Shape, render
from tests.support.reprojection import tan

SIZE = 420
NOISE = 10.0
ZERO_POINT = 25.0
FWHM = 4.0
NEW = np.array([[60.0, 70.0, 3000.0], [200.4, 210.3, 9000.0], [350.2, 300.1, 5000.0]])


def scene(new: np.ndarray) -> Subtracted:
    """Make a difference with new stars in noise, and nothing in the template."""
    shape = (SIZE, SIZE)
    light = render(SIZE, new, Shape(3.2))
    noise = np.sqrt(NOISE**2 + light / 2).astype(np.float32)
    pixels = (np.random.default_rng(4).normal(0, 1, shape) * noise + light).astype(np.float32)
    empty, nothing = np.zeros(shape, np.float32), np.zeros(shape, bool)
    found = Difference(pixels, empty, noise, pixels / noise, nothing, 1.0, 0.0, 0.0, 3.3, "template", 10)
    wcs = tan(1.0, shape)
    model = ZeroPoint(Terms(0, color=False), 210, 210, 210, -8, (ZERO_POINT,), ((1e-6,),), 0.0, 0.0, 0.0, 0.01, 50)
    names = {"cat_col_color_mag1": "gmag", "cat_col_color_mag2": "rmag", "filter": "r"}
    ra, dec = (float(value) for value in wcs.all_pix2world(0.5 * SIZE, 0.5 * SIZE, 0))
    inputs = Inputs(
        objects=Table(),
        catalog=None,
        solution={**model.to_json(), **names},
        band="r",
        image=pixels,
        header=fits.Header(),
        mask=nothing,
        wcs=wcs,
        pixscale_deg=1 / 3600,
        field=(ra, dec, 0.09),
        fwhm_pix=FWHM,
        rms_arcsec=0.02,
    )
    template = Template(empty, nothing, 10.0, None, FWHM, "custom", "r", 1.0)
    return Subtracted(inputs, pixels, nothing, empty, 2.0, template, found, "hotpants")


class Run:
    """Runs the search in a folder; `lines` has the log."""

    def __init__(self, folder: Path, mirror_dir: Path | None = None) -> None:
        self.work = folder / "work"
        self.mirror_dir = mirror_dir
        self.lines: list[str] = []

    def __call__(self, seen: Subtracted, **config: Any) -> Candidates:
        self.work.mkdir(exist_ok=True)
        params = SubtractionParams.of(config)
        search(
            StepContext(
                task_id=1,
                params=params,
                config=config,
                work=self.work,
                resources=Resources(cache_dir=self.work / "cache", mirror_dir=self.mirror_dir),
                find=lambda _name: None,
                say=self.lines.append,
                show=lambda _fraction, _phase: None,
            ),
            params,
            seen,
        )
        return Candidates.model_validate_json((self.work / SUB_CANDIDATES_FILE).read_text())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture(scope="module")
def three() -> Subtracted:
    return scene(NEW)


def test_files_of_a_search(run: Run, three: Subtracted) -> None:
    result = run(three, time="2026-10-15T22:10:00", cutout_size=12)
    table = Table.read(run.work / "candidates.vot")
    assert len(table) == result.found == len(result.candidates) == 3
    assert table["flux"].unit == "adu"
    assert table["ra"].unit == "deg"
    assert table["significance"].meta["ucd"] == "stat.snr"
    order = [1, 2, 0]  # the most significant first
    np.testing.assert_allclose(table["x"], NEW[order, 0], atol=0.5)
    expected = ZERO_POINT - 2.5 * np.log10(NEW[order, 2] * Shape(3.2).enclosed(FWHM))
    np.testing.assert_allclose(table["mag_calib"], expected, atol=0.15)
    ra, dec = three.inputs.wcs.all_pix2world(table["x"], table["y"], 0)
    np.testing.assert_allclose(table["ra"], ra, atol=1e-7)
    np.testing.assert_allclose(table["dec"], dec, atol=1e-7)
    assert str(table["time"][0]) == "2026-10-15T22:10:00"
    lines = (run.work / "candidates.reg").read_text().splitlines()
    assert len(lines) == 6
    assert result.candidates[0].name in lines[3]
    for number, candidate in enumerate(result.candidates):
        assert candidate.cutout == f"candidates/candidate_{number:04d}.cutout"
        with fits.open(run.work / candidate.cutout) as hdus:
            assert [hdu.name for hdu in hdus[1:]] == ["IMAGE", "TEMPLATE", "CONVOLVED", "DIFF", "FOOTPRINT", "MASK"]
            assert hdus["DIFF"].data.shape == (25, 25)
            assert hdus["FOOTPRINT"].data[12, 12] == 1
            assert hdus["DIFF"].data[12, 12] == three.difference.difference[round(candidate.y), round(candidate.x)]
            place = WCS(hdus["DIFF"].header).all_world2pix(candidate.ra, candidate.dec, 0)
            np.testing.assert_allclose(place, 12, atol=0.6)
    assert any("3 candidates" in line for line in run.lines)


def test_nothing_is_an_answer(run: Run) -> None:
    result = run(scene(np.zeros((0, 3))))
    assert result.candidates == ()
    assert len(Table.read(run.work / "candidates.vot")) == 0
    assert run.lines[-1] == "No candidates"


def test_the_search_is_restricted_to_a_cone(run: Run, three: Subtracted) -> None:
    result = run(three, filter_center="x=200 y=210", filter_sr0=0.01)
    assert [round(candidate.x) for candidate in result.candidates] == [200]
    assert len(run(three, filter_sr0=0.02).candidates) == 1  # around the centre of the image
    assert len(run(three).candidates) == 3
    with pytest.raises(UsageError, match="does not touch the image"):
        run(three, filter_center="10.0 -30.0", filter_sr0=0.1)
    with pytest.raises(UsageError, match="more than one position"):
        run(three, filter_center="x=1 y=2\nx=3 y=4")


def test_what_catalogues_have_is_dropped(tmp_path: Path, three: Subtracted) -> None:
    ra, dec, radius_deg = three.inputs.field
    cells, _ = cone_cells(ra, dec, radius_deg + 0.1, COVERAGE_ORDER)
    known = three.inputs.wcs.all_pix2world(NEW[:2, 0] + 0.5, NEW[:2, 1], 0)
    mirror = tmp_path / "mirror"
    gaia = Table({"RAJ2000": known[0][:1], "DEJ2000": known[1][:1], "Gmag": [22.0]})
    ps1 = Table({"RAJ2000": known[0][1:], "DEJ2000": known[1][1:], "rmag": [12.0], "imag": [12.0]})
    for code, sources in (("gaiaedr3", gaia), ("ps1", ps1)):
        add_to_mirror(sources, mirror, code, cells=cells, order=COVERAGE_ORDER)
    run = Run(tmp_path, mirror)
    result = run(three, filter_vizier=True)
    assert [round(candidate.x) for candidate in result.candidates] == [350]
    assert any("2 are not in Gaia" in line for line in run.lines)


def test_bodies_need_the_time(run: Run, three: Subtracted) -> None:
    with pytest.raises(UsageError, match="filter_skybot"):
        run(three, filter_skybot=True)


def test_the_hundred_most_significant_are_kept(run: Run) -> None:
    grid = np.array([(x, y) for x in range(20, 410, 35) for y in range(20, 410, 35)], float)
    flux = np.linspace(2000, 20000, len(grid))
    result = run(scene(np.column_stack([grid, flux])))
    assert result.found == len(grid) > 100
    assert len(result.candidates) == 100
    assert min(candidate.flux for candidate in result.candidates) > 4000
    assert f"Note: of {len(grid)} candidates the 100 most significant are kept" in run.lines
    assert len(list((run.work / "candidates").iterdir())) == 100
    assert json.loads((run.work / SUB_CANDIDATES_FILE).read_text())["filter"] == "r"


def test_a_threshold_of_the_user(run: Run, three: Subtracted) -> None:
    assert len(run(three, sn=60).candidates) == 1
    masked = replace(three, difference=replace(three.difference, mask=np.ones((SIZE, SIZE), bool)))
    assert run(masked).candidates == ()
