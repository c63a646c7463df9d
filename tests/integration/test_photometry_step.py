"""The photometry step on a small simulated field: files, options, and bad input."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from PIL import Image

from shared.contracts.results import TARGETS_FILE, Measurements
from shared.contracts.steps import PHOTOMETRY_PLOTS
from shared.errors import DataError, TransientError, UsageError
from shared.science import detection
from shared.science.zeropoint import ZeroPoint
from stdweb.sky import Observation
from stdweb.sky.observe import GAIN
from tests.support.photometry import Bench
from tests.support.photometry_field import CONFIG, SIZE, truth_zero_point
from tests.support.photometry_truth import read_solution

FILES = {
    "objects.parquet",
    "objects.vot",
    "cat.parquet",
    "segmentation.fits",
    "filtered.fits",
    "photometry.json",
    "image.wcs",
    *PHOTOMETRY_PLOTS,
}


def test_everything_that_is_promised_is_there_and_true(bench: Bench, sky: Observation) -> None:
    computed = bench.run(CONFIG)
    assert {path.name for path in bench.work.iterdir()} == FILES
    for name in PHOTOMETRY_PLOTS:
        with Image.open(bench.work / name) as plot:
            assert min(plot.size) > 300
            assert len(set(plot.convert("L").resize((64, 64)).tobytes())) > 5
    assert json.loads(json.dumps(computed, allow_nan=False)) == computed
    assert computed["zp"] == pytest.approx(truth_zero_point(sky, computed), abs=0.02)
    assert computed["fwhm"] == pytest.approx(1.27 * sky.fwhm_pix, rel=0.03)
    assert computed["pixscale"] == pytest.approx(1 / 3600, rel=1e-3)
    assert computed["color_term"] == pytest.approx(-sky.color_term, abs=0.015)
    assert computed["field_sr"] == pytest.approx(SIZE / 3600 / np.sqrt(2), rel=0.01)
    assert 0 < computed["zp_err"] < 0.01
    assert 0 < computed["astrom_rms"] < 0.2
    assert (computed["cat_col_mag"], computed["cat_col_mag_err"]) == ("rmag", "e_rmag")
    assert (computed["cat_col_color_mag1"], computed["cat_col_color_mag2"]) == ("gmag", "rmag")
    centre = sky.wcs.all_pix2world((SIZE - 1) / 2, (SIZE - 1) / 2, 0)
    assert (computed["field_ra"], computed["field_dec"]) == (
        pytest.approx(centre[0], abs=1e-5),
        pytest.approx(centre[1], abs=1e-5),
    )


def test_tables_have_units_ucds_and_stdpipes_names(bench: Bench) -> None:
    computed = bench.run(CONFIG)
    objects = Table.read(bench.work / "objects.vot")
    parquet = Table.read(bench.work / "objects.parquet")
    assert objects.colnames == parquet.colnames
    assert len(objects) == len(parquet)
    names = "x y ra dec flux fluxerr mag magerr flags fwhm bg mag_calib mag_calib_err"
    assert {*names.split(), "mag_color_name", "mag_filter_name", "mag_color_term"} <= set(objects.colnames)
    assert str(objects["mag_calib"].unit) == "mag"
    assert objects["ra"].meta["ucd"] == "pos.eq.ra;meta.main"
    model = ZeroPoint.from_json(json.loads((bench.work / "photometry.json").read_text()))
    np.testing.assert_allclose(
        objects["mag_calib"], objects["mag"] + model.evaluate(objects["x"], objects["y"], objects["mag"]), atol=1e-6
    )
    assert model.evaluate((SIZE - 1) / 2, (SIZE - 1) / 2)[0] == pytest.approx(computed["zp"])
    wcs = read_solution(bench.work / "image.wcs")
    ra, _ = wcs.all_pix2world(objects["x"], objects["y"], 0)
    np.testing.assert_allclose(ra, objects["ra"], atol=1e-9)
    segmentation = fits.getdata(bench.work / "segmentation.fits")
    assert segmentation.shape == (SIZE, SIZE)
    assert set(objects["NUMBER"]) <= set(np.unique(segmentation))


def test_limit_is_where_objects_have_that_signal_to_noise(bench: Bench) -> None:
    computed = bench.run({**CONFIG, "sn": 7})
    objects = Table.read(bench.work / "objects.parquet")
    ratio = objects["flux"] / objects["fluxerr"]
    near = (ratio > 6.5) & (ratio < 8) & (objects["flags"] == 0)
    assert (ratio > 7).all()
    assert near.sum() > 3
    assert computed["mag_limit"] == pytest.approx(np.median(objects["mag_calib"][near]), abs=0.15)
    assert "S/N 10:" in bench.log
    assert "S/N 7:" in bench.log


def test_targets_are_measured_and_cut_out(bench: Bench, sky: Observation) -> None:
    inside = (sky.truth["x"] > 50) & (sky.truth["x"] < 460) & (sky.truth["y"] > 50) & (sky.truth["y"] < 460)
    star = sky.truth[inside & (abs(sky.truth["m_nat"] - 16) < 0.5) & (sky.truth["re"] == 0)][0]
    lines = f"{star['ra']} {star['dec']}\nx=200.5 y=300.5\n10.0 -60.0"
    bench.run({**CONFIG, "target": lines, "cutout_size": 20, "time": "2026-11-02T21:35:40"})
    table = Table.read(bench.work / "target.vot")
    assert len(table) == 3
    assert table["mag_calib"][0] == pytest.approx(star["m_nat"], abs=0.03)
    assert (table["x"][0], table["y"][0]) == (pytest.approx(star["x"], abs=0.05), pytest.approx(star["y"], abs=0.05))
    assert (table["x"][1], table["y"][1]) == (200.5, 300.5)
    assert np.isfinite(table["mag_limit"][1])
    assert np.ma.is_masked(table["flux"][2])
    summary = Measurements.model_validate_json((bench.work / TARGETS_FILE).read_bytes())
    assert (summary.filter, summary.mag_system, summary.time) == ("r", "AB", "2026-11-02T21:35:40Z")
    assert [target.name for target in summary.targets] == lines.splitlines()
    assert summary.targets[0].mag_calib == pytest.approx(table["mag_calib"][0])
    assert (summary.targets[0].detected, summary.targets[2].detected) == (True, False)
    assert (summary.targets[1].x, summary.targets[2].flux) == (200.5, None)
    assert "outside of the image" in bench.log
    assert sorted(path.name for path in (bench.work / "targets").iterdir()) == [
        "target_0000.cutout",
        "target_0001.cutout",
    ]
    with fits.open(bench.work / "targets/target_0000.cutout") as hdus:
        planes = {hdu.name: hdu.data for hdu in hdus[1:]}
    assert {"IMAGE", "MASK"} <= set(planes)
    assert planes["IMAGE"].shape == (41, 41)
    assert np.argmax(planes["IMAGE"][15:26, 15:26]) == 5 * 11 + 5


def test_recentring_targets(bench: Bench, sky: Observation) -> None:
    inside = (sky.truth["x"] > 50) & (sky.truth["x"] < 460) & (sky.truth["y"] > 50) & (sky.truth["y"] < 460)
    star = sky.truth[inside & (abs(sky.truth["m_nat"] - 16) < 0.5) & (sky.truth["re"] == 0)][0]
    bench.run({**CONFIG, "target": f"x={star['x'] + 1.0:.2f} y={star['y'] - 0.8:.2f}", "centroid_targets": True})
    table = Table.read(bench.work / "target.vot")
    assert (table["x"][0], table["y"][0]) == (pytest.approx(star["x"], abs=0.1), pytest.approx(star["y"], abs=0.1))


@pytest.mark.parametrize(
    "options",
    [
        {"optimal_extraction": True},
        {"bg_order": 0, "nonlin": True},
        {"prefilter_detections": False, "filter_blends": False, "spatial_order": 0, "bg_size": 64},
        {"rel_aper": 1.5, "rel_bg1": 6, "rel_bg2": 9, "initial_r0": 1.0, "minarea": 3, "initial_aper": 4},
        {"cat_mag_lower": 15, "cat_mag_upper": 18, "refine_order": 1, "sr_override": 3},
    ],
    ids=",".join,
)
def test_options_leave_the_zero_point_right(bench: Bench, sky: Observation, options: dict[str, object]) -> None:
    computed = bench.run({**CONFIG, **options})
    if "optimal_extraction" in options:  # another definition of flux: compare stars instead
        objects, truth = Table.read(bench.work / "objects.parquet"), sky.truth
        clean = objects[(objects["flags"] == 0) & (objects["magerr"] < 0.01)]
        nearest = [np.argmin((truth["x"] - row["x"]) ** 2 + (truth["y"] - row["y"]) ** 2) for row in clean]
        assert np.median(clean["mag_calib"] - truth["m_nat"][nearest]) == pytest.approx(0, abs=0.02)
    else:
        expected = truth_zero_point(sky, computed, float(options.get("rel_aper", 1.0)))
        assert computed["zp"] == pytest.approx(expected, abs=0.05 if {"bg_order", "nonlin"} & set(options) else 0.03)


def test_options_that_set_things(bench: Bench) -> None:
    computed = bench.run({**CONFIG, "fwhm_override": 4.5, "force_color_term": 0.25, "inspect_bg": True})
    assert computed["fwhm"] == 4.5
    assert computed["color_term"] == 0.25
    assert np.median(fits.getdata(bench.work / "image_bg.fits")) == pytest.approx(700, rel=0.2)
    assert fits.getdata(bench.work / "image_rms.fits").shape == (SIZE, SIZE)
    assert bench.run({**CONFIG, "use_color": False})["color_term"] == 0


def test_color_diagnosis_finds_the_filter(bench: Bench) -> None:
    bench.run({**CONFIG, "diagnose_color": True})
    assert (bench.work / "color_diagnosis.png").stat().st_size > 1000
    terms = {
        line.split(",")[1].split(":")[0].strip(): abs(float(line.split("term ")[1].split(",")[0]))
        for line in bench.lines
        if line.startswith("Colour diagnosis")
    }
    assert set(terms) == set("BVRIgrizy")
    assert terms["r"] < min(terms["g"], terms["i"], terms["z"])


def test_refinement_can_be_switched_off(bench: Bench, sky: Observation) -> None:
    bench.run({**CONFIG, "refine_wcs": False, "sr_override": 8})
    wcs, header = read_solution(bench.work / "image.wcs"), WCS(fits.getheader(sky.image))
    np.testing.assert_allclose(wcs.all_pix2world(3, 4, 0), header.all_pix2world(3, 4, 0), atol=1e-7)


def test_without_inspection_a_simple_mask_is_made(bench: Bench, sky: Observation) -> None:
    (bench.folder / "mask.fits").unlink()
    computed = bench.run({"filter": "r"})
    assert "No mask" in bench.log
    assert computed["zp"] == pytest.approx(truth_zero_point(sky, computed), abs=0.02)
    assert computed["cat_name"] == "ps1"


def test_sep_finds_the_same_bright_stars(bench: Bench) -> None:
    image = fits.getdata(bench.folder / "image.fits").astype(np.float32)
    mask = fits.getdata(bench.folder / "mask.fits") > 0
    options = detection.Options(gain=GAIN)
    program = detection.sextractor()
    first = detection.detect(image, mask, options, bench.folder, bench.lines.append, program=program).objects
    other = detection.detect(image, mask, options, bench.folder, bench.lines.append, program=None).objects
    assert set(first.colnames) == set(other.colnames)
    bright = first[(first["flags"] == 0) & (first["flux"] > 40 * first["fluxerr"])]
    near = [np.hypot(other["x"] - row["x"], other["y"] - row["y"]).argmin() for row in bright]
    assert np.median(np.hypot(other["x"][near] - bright["x"], other["y"][near] - bright["y"])) < 0.1
    assert np.median(other["flux"][near] / bright["flux"]) == pytest.approx(1, abs=0.02)
    assert np.median(other["FLUX_RADIUS"][near] / bright["FLUX_RADIUS"]) == pytest.approx(1, abs=0.05)
    assert "SEP" in bench.log


def test_a_suggested_catalogue_is_replaced_and_an_asked_one_is_not(bench: Bench, sky: Observation) -> None:
    (bench.folder / "mirror").mkdir()
    (bench.folder / "mirror/ps1").symlink_to(sky.mirror_dir / "ps1")
    bench.mirror_dir = bench.folder / "mirror"
    config = {"filter": "R", "cat_name": "gaiadr3syn", "gain": GAIN, "cat_limit": 20}
    with pytest.raises(TransientError):
        bench.run(config)
    computed = bench.run({**config, "cat_suggested": True})
    assert computed["cat_name"] == "ps1"
    assert "instead of the suggested gaiadr3syn" in bench.log


def test_catalogue_without_the_band_or_without_stars(bench: Bench) -> None:
    with pytest.raises(UsageError, match="no band"):
        bench.run({**CONFIG, "cat_name": "2mass"})
    with pytest.raises(DataError, match="no stars with r magnitudes"):
        bench.run({**CONFIG, "cat_limit": 5})
