"""The step `subtraction` on small fields: images, targets measured against the truth, options, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from scipy import ndimage

from shared.contracts.results import SUB_TARGETS_FILE, SubtractionMeasurements
from shared.contracts.steps import STEPS
from shared.errors import DataError, StepError, UsageError
from tests.support.difference import Shape, Sky
from tests.support.subtraction import SCALE_ARCSEC, ZERO_POINT, Grid, Task, galaxies, make_task

MAPS = ("image", "template", "diff", "sdiff", "conv", "ediff")
DEEP = (50.0, 20.0, 2.0)  # level, gain and read noise of a template


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(tmp_path_factory.mktemp("task") / "field")


@pytest.fixture
def fresh(tmp_path: Path) -> Task:
    """Make a small task whose files a test may change."""
    return make_task(tmp_path / "field", size=192, stars=50, new=4)


def pulls(table: Table, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Give deviations in units of their errors, and relative ones, of unflagged targets."""
    good = np.asarray(table["flags"]) == 0
    flux, error = (np.ma.filled(np.ma.asarray(table[name], float), np.nan)[good] for name in ("flux", "fluxerr"))
    true = task.new[good, 2]
    return (flux - true) / error, flux / true - 1


def test_all_images_cover_the_frame_and_have_its_coordinates(task: Task) -> None:
    table = task.at_targets()
    made = {path.name for path in task.work.iterdir()}
    allowed = STEPS["subtraction"].files
    assert all(name in allowed or f"{name}/" in allowed for name in made)
    assert {f"sub_{name}.fits" for name in (*MAPS, "mask", "template_mask")} <= made
    assert "sub_scorr.fits" not in made
    with fits.open(task.folder / "image.fits") as hdus:
        image = np.asarray(hdus[0].data, float)
    for name in (*MAPS, "mask", "template_mask"):
        path = task.work / f"sub_{name}.fits"
        header = fits.getheader(path)
        assert fits.getdata(path).shape == (320, 320)
        assert fits.getdata(path).dtype.itemsize == (1 if "mask" in name else 4)
        # the solution of photometry, and nothing of the rough one
        np.testing.assert_allclose(
            WCS(header).all_pix2world([[0, 0], [319, 100]], 0),
            task.wcs.all_pix2world([[0, 0], [319, 100]], 0),
            atol=1e-9,
        )
        assert not {"CD1_2", "SATURATE"} & set(header)
        assert header["OBJECT"] == "FIELD"
        assert header["SUBMETH"] == "hotpants"
        assert header["TMPL"] == "custom"
        assert header.get("BUNIT") == ("adu" if name in {"image", "diff", "conv", "ediff"} else None)
    planes = {name: task.plane(name) for name in MAPS}
    assert np.isfinite(planes["diff"]).all()
    assert np.median(planes["image"]) == pytest.approx(0, abs=3)  # ADU
    good = task.plane("mask") == 0
    assert good.mean() > 0.95
    assert fits.getheader(task.work / "sub_diff.fits")["SUBSCALE"] == pytest.approx(0.25, rel=0.02)
    # what is left beside the subtracted template is a background
    rest = image - planes["conv"] - planes["diff"]
    assert np.ptp(rest[good]) < 10  # ADU; stars have thousands
    np.testing.assert_allclose((planes["diff"] / planes["ediff"])[good], planes["sdiff"][good], rtol=1e-3, atol=1e-3)
    assert len(table) == 9
    pull, relative = pulls(table, task)
    assert np.abs(relative).max() < 0.05
    assert np.abs(pull).max() < 4


def test_targets_are_told_as_table_json_cutouts_and_log(task: Task) -> None:
    table = task.at_targets(subtraction_mode="target")
    assert table["mag_calib"].unit == "mag"
    assert table["flux"].unit == "adu"
    mag = ZERO_POINT - 2.5 * np.log10(np.asarray(table["flux"]))
    np.testing.assert_allclose(np.asarray(table["mag_calib"]), mag, atol=1e-6)
    sky = task.wcs.all_pix2world(task.new[:, :2], 0)
    np.testing.assert_allclose(np.stack([np.asarray(table["ra"]), np.asarray(table["dec"])], axis=1), sky, atol=1e-6)
    summary = SubtractionMeasurements.model_validate_json((task.work / SUB_TARGETS_FILE).read_bytes())
    assert (summary.method, summary.template, summary.template_filter) == ("hotpants", "custom", "r")
    assert summary.filter == "r"
    assert summary.time == "2026-11-02T21:35:40Z"
    assert summary.color == "gmag - rmag"
    assert all(row.detected for row in summary.targets)
    assert summary.targets[0].mag_calib == pytest.approx(float(table["mag_calib"][0]))
    assert not {"candidates.vot", "candidates.reg"} & {path.name for path in task.work.iterdir()}
    names = ["sub_target.cutout", *(f"sub_targets/target_{number:04d}.cutout" for number in range(1, 9))]
    for name, (x, y, _) in zip(names, task.new, strict=True):
        with fits.open(task.work / name) as hdus:
            assert {hdu.name for hdu in hdus[1:]} == {"IMAGE", "TEMPLATE", "CONVOLVED", "DIFF", "MASK"}
            half = hdus["DIFF"].data.shape[0] // 2
            assert half == 30
            peak = np.unravel_index(np.argmax(hdus["DIFF"].data), hdus["DIFF"].data.shape)
            assert np.hypot(peak[1] - half, peak[0] - half) < 2
            place = WCS(hdus["DIFF"].header).all_world2pix(*task.wcs.all_pix2world(x, y, 0), 0)
            np.testing.assert_allclose(place, (half, half), atol=0.51)
    assert "Targets: aperture of" in task.log


@pytest.mark.parametrize(
    ("engine", "convolved"),
    [("hotpants", "template"), ("hotpants", "image"), ("sfft", "template"), ("zogy", "template")],
)
def test_faint_targets_are_unbiased_within_their_errors(engine: str, convolved: str, tmp_path: Path) -> None:
    image, template = (3.2, 2.4) if convolved == "template" else (2.4, 3.3)
    task = make_task(
        tmp_path / "field",
        image=Sky(Shape(image)),
        template=Sky(Shape(template), *DEEP),
        size=448,
        stars=200,
        new=100,
        new_flux=(500.0, 6000.0),
    )
    pull, relative = pulls(task.at_targets(subtraction_mode="target", subtraction_method=engine), task)
    assert pull.size > 70
    assert abs(pull.mean()) < (0.45 if engine == "zogy" else 0.3)  # 0.1 by chance
    assert 0.8 < pull.std() < 1.2
    bright = np.abs(relative[pull.size * 3 // 4 :])
    assert np.median(bright) < 0.06


def test_targets_on_galaxies_are_unbiased(tmp_path: Path) -> None:
    side = (np.arange(6) + 0.5) * 384 / 6
    places = np.array([(x, y) for y in side for x in side])
    rng = np.random.default_rng(4)
    task = make_task(
        tmp_path / "field",
        size=384,
        stars=150,
        new=36,
        new_flux=(800.0, 6000.0),
        extended=galaxies(places + rng.uniform(-3, 3, places.shape), rng),
    )
    pull, _ = pulls(task.at_targets(subtraction_mode="target"), task)
    assert pull.size > 30
    assert abs(pull.mean()) < 0.5
    assert 0.7 < pull.std() < 1.35


@pytest.mark.parametrize(
    "grid",
    [
        Grid(flipped=True, rotation_deg=33.0),
        Grid(scale_arcsec=0.6, size=560, flux=0.5),
        Grid(scale_arcsec=1.5, size=260),
    ],
    ids=["other parity", "finer", "coarser"],
)
def test_templates_on_other_pixels(grid: Grid, tmp_path: Path) -> None:
    shape = Shape(2.6 * SCALE_ARCSEC / grid.scale_arcsec)
    task = make_task(tmp_path / "field", grid=grid, template=Sky(shape, *DEEP))
    _, relative = pulls(task.at_targets(), task)
    assert relative.size >= 7
    assert abs(np.median(relative)) < 0.02
    found = fits.getheader(task.work / "sub_diff.fits")["SUBSCALE"]
    assert found == pytest.approx(1 / grid.flux, rel=0.03)


def test_targets_outside_of_the_image_are_told(task: Task) -> None:
    inside = [f"x={x:.2f} y={y:.2f}" for x, y, _ in task.new[:2]]
    asked = "\n".join([inside[0], "x=5000 y=20", inside[1]])
    table = Table.read(task.run(target=asked, subtraction_mode="target") / "sub_target.vot")
    assert np.isfinite(table["flux"][0])
    assert not np.isfinite(np.ma.filled(table["flux"].astype(float), np.nan)[1])
    assert "x=5000 y=20 at x=5000.0 y=20.0: outside of the image" in task.log
    rows = json.loads((task.work / SUB_TARGETS_FILE).read_text())["targets"]
    assert rows[1]["mag_limit"] is None
    # the others are numbered by the rows of the table
    assert [path.name for path in (task.work / "sub_targets").iterdir()] == ["target_0002.cutout"]


def test_an_undetected_target_has_a_limit(task: Task) -> None:
    x, y = 106.0, 106.0  # between four new stars
    table = Table.read(task.run(target=f"x={x} y={y}", subtraction_mode="target", sn=3) / "sub_target.vot")
    row = json.loads((task.work / SUB_TARGETS_FILE).read_text())["targets"][0]
    assert not row["detected"]
    noise = float(table["fluxerr"][0])
    assert abs(float(table["flux"][0])) < 4 * noise
    # a star of three times the noise, with somewhat of its own
    assert row["mag_limit"] == pytest.approx(ZERO_POINT - 2.5 * np.log10(3.05 * noise), abs=0.05)


def test_target_mode_works_on_a_part_and_leaves_images_of_the_frame(tmp_path: Path) -> None:
    task = make_task(tmp_path / "field", size=512, stars=300, new=9)
    x, y, flux = task.new[0]
    table = Table.read(
        task.run(target=f"x={x} y={y}", subtraction_mode="target", sub_size=128, sub_overlap=20) / "sub_target.vot"
    )
    assert float(table["flux"][0]) == pytest.approx(flux, rel=0.04)
    assert float(table["x"][0]) == pytest.approx(x)
    diff, mask = task.plane("diff"), task.plane("mask")
    assert diff.shape == (512, 512)
    known = np.isfinite(diff)
    assert 0.04 < known.mean() < 0.3
    assert known[round(y), round(x)]
    assert (mask[~known] == 1).all()


def test_another_aperture_than_that_of_photometry_gives_the_same_magnitudes(task: Task) -> None:
    plain = task.at_targets(subtraction_mode="target")
    assert "Photometry measured other apertures" not in task.log
    smaller = task.at_targets(subtraction_mode="target", rel_aper=0.7)
    assert "Photometry measured other apertures" in task.log
    assert np.median(np.asarray(smaller["flux"]) / np.asarray(plain["flux"])) < 0.9
    apart = np.asarray(smaller["mag_calib"]) - np.asarray(plain["mag_calib"])
    assert abs(np.median(apart)) < 0.01


def test_targets_are_resolved_when_they_were_changed(task: Task) -> None:
    known = [{"name": "old", "ra": 150.0, "dec": 35.0}]
    task.run(subtraction_mode="target", targets=known)
    assert "Target old at" in task.log
    task.run(subtraction_mode="target", targets=known, target="150.0 35.001")
    assert "Target 150.0 35.001 at" in task.log


def test_masked_targets_are_not_measured(fresh: Task) -> None:
    x, y, _ = fresh.new[0]
    with fits.open(fresh.folder / "mask.fits", mode="update") as hdus:
        hdus[0].data[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9] = 1
    fresh.run(target=f"x={x} y={y}")
    assert "on masked pixels of image or template, it cannot be measured" in fresh.log
    row = json.loads((fresh.work / SUB_TARGETS_FILE).read_text())["targets"][0]
    assert row["flux"] is None
    assert not row["detected"]


def test_zogy_leaves_its_scores(fresh: Task) -> None:
    fresh.run(subtraction_method="zogy")
    score, flux, error = (fresh.plane(name) for name in ("scorr", "fpsf", "fpsferr"))
    assert score.shape == (192, 192)
    for x, y, _ in fresh.new:
        here = round(y), round(x)
        assert score[here] > 20
        assert flux[here] > 20 * error[here]


def test_part_of_the_frame_without_template(fresh: Task) -> None:
    with fits.open(fresh.folder / "custom_template.fits", mode="update") as hdus:
        hdus[0].data[:, 110:] = np.nan
    fresh.run()
    assert "57.3 % of the image has a usable template" in fresh.log
    mask, template = fresh.plane("mask"), fresh.plane("template_mask")
    assert (template[:, 110:] == 1).all()
    assert (mask[:, 110:] == 1).all()
    assert (mask[:, :90] == 0).mean() > 0.9
    fresh.at_targets(subtraction_mode="target")
    assert "it cannot be measured" in fresh.log


def test_saturated_pixels_of_the_template_are_masked(fresh: Task) -> None:
    with fits.open(fresh.folder / "custom_template.fits") as hdus:
        bright = hdus[0].data > 20_000
    assert bright.any()
    fresh.run(custom_template_saturation=20_000)
    assert fresh.plane("template_mask")[bright].mean() > 0.99


def test_the_user_is_told_what_is_doubtful(tmp_path: Path) -> None:
    task = make_task(tmp_path / "field", size=192, stars=50, new=0, template_filter="g")
    (task.folder / "mask.fits").unlink()
    task.run(template_fwhm_override=3.0)
    assert "Warning: custom_template.fits is in g, the image in r" in task.log
    assert np.median(task.plane("mask")) == 0


def refused(task: Task, kind: type[StepError], words: str, **options: object) -> StepError:
    with pytest.raises(kind, match=words) as error:
        task.run(**options)
    assert not list(task.work.glob("sub_*"))
    return error.value


def test_photometry_must_have_been_there(fresh: Task) -> None:
    for name, words in (
        ("image.wcs", "image.wcs is missing"),
        ("photometry.json", "photometry.json is missing or damaged"),
        ("objects.parquet", "run photometry first"),
    ):
        (fresh.folder / name).unlink()
        refused(fresh, DataError, words)


@pytest.mark.parametrize("name", ["image.wcs", "photometry.json", "objects.parquet", "image.fits"])
def test_damaged_files_are_named(name: str, fresh: Task) -> None:
    (fresh.folder / name).write_bytes(b"nothing of the kind")
    refused(fresh, DataError, "photometry again" if name != "image.fits" else "FITS")


def test_a_solution_without_a_model_is_refused(fresh: Task) -> None:
    (fresh.folder / "photometry.json").write_text('{"filter": "r"}')
    refused(fresh, DataError, "does not hold a photometric solution", target="x=50 y=50")


def test_custom_templates_that_cannot_be_used(fresh: Task, tmp_path: Path) -> None:
    elsewhere = make_task(tmp_path / "other", size=96, stars=10, new=0, grid=Grid(ra_deg=40.0))
    own = (fresh.folder / "custom_template.fits").read_bytes()
    refused(fresh, UsageError, "no usable pixel", custom_template_saturation=1)
    (fresh.folder / "custom_template.fits").write_bytes((elsewhere.folder / "custom_template.fits").read_bytes())
    assert "Check its WCS" in refused(fresh, UsageError, "has no usable pixel on the image").user_message
    (fresh.folder / "custom_template.fits").write_bytes(b"SIMPLE")
    refused(fresh, DataError, "custom_template.fits cannot be used")
    (fresh.folder / "custom_template.fits").unlink()
    refused(fresh, UsageError, "Upload it, or set template")
    (fresh.folder / "custom_template.fits").write_bytes(own)
    refused(fresh, UsageError, "no band near r", template="2mass")


def test_targets_that_cannot_be_measured(fresh: Task) -> None:
    refused(fresh, UsageError, "Set target, or subtraction_mode", subtraction_mode="target")
    refused(fresh, UsageError, "No target lies on the image", subtraction_mode="target", target="10.0 -20.0")
    refused(fresh, UsageError, "No target lies on the image", subtraction_mode="target", target="x=-50 y=20")


def test_images_without_common_stars(tmp_path: Path) -> None:
    task = make_task(tmp_path / "field", size=192, stars=0, new=0)
    refused(task, DataError, "image and template", template_fwhm_override=3)
    refused(task, UsageError, "Set template_fwhm_override")


def test_all_stars_saturated(fresh: Task) -> None:
    image = fits.getdata(fresh.folder / "image.fits")
    low, level = np.percentile(image, (15.865, 50))
    with fits.open(fresh.folder / "mask.fits", mode="update") as hdus:
        hdus[0].data[ndimage.binary_dilation(image > level + 8 * (level - low), iterations=2)] = 1
    message = refused(fresh, DataError, "No star of the image is clean enough").user_message
    assert "Check the masks and the saturation level" in message


def test_nearly_all_pixels_masked(fresh: Task) -> None:
    with fits.open(fresh.folder / "mask.fits", mode="update") as hdus:
        hdus[0].data[:] = 1
        hdus[0].data[::40, ::40] = 0
    error = refused(fresh, DataError, "mask")
    assert "Check" in error.user_message


def test_sfft_orders_that_do_not_go_together(fresh: Task) -> None:
    refused(
        fresh, UsageError, "sfft_flux_poly_order", subtraction_method="sfft", sfft_flux_poly_order=2,
        sfft_kernel_poly_order=1,
    )  # fmt: skip
