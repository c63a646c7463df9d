"""Drawing in children, shapes, survey pictures on the image's grid."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from services.photometry.core import from_header
from services.photometry.drawing import Desk
from services.photometry.references import catalog_order
from shared.contracts.params import PhotometryParams
from shared.errors import InternalError, TransientError
from shared.science.cutouts import on_grid
from shared.science.shapes import FLAG_ODD_SHAPE, dilated, estimate_fwhm, odd_shapes


def write(path: Path, text: str) -> None:
    path.write_text(text)


def fail() -> None:
    raise ValueError("a plot of nothing")


def hang() -> None:
    os.read(os.pipe()[0], 1)


def test_jobs_are_done_when_the_desk_is_left(tmp_path: Path) -> None:
    with Desk() as desk:
        desk.draw([partial(write, tmp_path / "a", "1"), partial(write, tmp_path / "b", "2")])
        desk.draw([partial(write, tmp_path / "c", "3")])
    assert [(tmp_path / name).read_text() for name in "abc"] == ["1", "2", "3"]


def test_a_failed_job_is_a_fault_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InternalError, match="plots"), Desk() as desk:
        desk.draw([fail])
    assert "a plot of nothing" in capfd.readouterr().err


def fill() -> None:
    with Path("/dev/full").open("w") as full:
        full.write("a plot")


def test_a_full_disk_may_be_empty_later(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TransientError, match="no space"), Desk() as desk:
        desk.draw([fill])
    assert "No space" in capfd.readouterr().err


def end_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_child_does_not_go_unseen() -> None:
    before = psutil.Process().children()
    with pytest.raises(InternalError, match="plots"), Desk() as desk:
        desk.draw([end_itself])
    assert psutil.Process().children() == before


def break_off() -> None:
    with Desk() as desk:
        desk.draw([hang])
        raise KeyError("step")


def test_an_error_of_the_step_ends_the_children() -> None:
    before = psutil.Process().children()
    with pytest.raises(KeyError):
        break_off()
    assert psutil.Process().children() == before


@pytest.mark.parametrize(
    ("asked", "card", "gain", "words"),
    [
        (None, 2.5, 2.5, None),
        (None, "2.5", 2.5, None),
        (None, None, 1.0, "no gain in the header"),
        (None, 0.0, 1.0, "GAIN is zero"),
        (None, "high", 1.0, "no usable gain"),
        (None, -3.0, 1.0, "no usable gain"),
        (3.0, 2.5, 3.0, None),
        (0, 2.5, 1.0, None),  # zero counts as one, as in `inspect`
    ],
)
def test_gain_without_inspection(asked: float | None, card: object, gain: float, words: str | None) -> None:
    lines: list[str] = []
    header = fits.Header({} if card is None else {"GAIN": card})
    params = from_header(PhotometryParams(gain=asked), {"filter": "r"}, header, lines.append)
    assert params.gain == gain
    assert (not lines) if words is None else words in lines[0]


def made_up_objects(count: int = 400) -> Table:
    rng = np.random.default_rng(1)
    mag = rng.uniform(-14, -8, count)
    flux = 10 ** (-0.4 * mag)
    noise = 0.01 + 0.1 * 10 ** (0.4 * (mag + 8))
    return Table(
        {
            "mag": mag,
            "flux": flux,
            "fluxerr": flux * noise,
            "flags": np.zeros(count, np.int32),
            "FLUX_RADIUS": 1.9 * np.exp(rng.normal(0, noise)),
            "fwhm": 3.6 * np.exp(rng.normal(0, noise)),
            "FLUX_MAX": 0.06 * flux * np.exp(rng.normal(0, noise)),
            "FLUX_AUTO": flux,
        }
    )


def test_shape_filter_takes_artefacts_and_leaves_stars_of_any_brightness() -> None:
    objects = made_up_objects()
    hot = np.arange(0, 400, 40)
    objects["FLUX_RADIUS"][hot], objects["fwhm"][hot] = 0.5, 0.8
    objects["FLUX_MAX"][hot] = 0.9 * objects["FLUX_AUTO"][hot]
    odd = odd_shapes(objects, lambda *_: None)
    assert odd[hot].all()
    stars = np.setdiff1d(np.arange(400), hot)
    assert odd[stars].mean() < 0.02
    objects["flags"][odd] |= FLAG_ODD_SHAPE
    np.testing.assert_array_equal(odd_shapes(objects, lambda *_: None)[hot], True)


def test_few_objects_are_not_filtered() -> None:
    lines: list[str] = []
    assert not odd_shapes(made_up_objects(12), lines.append).any()
    assert "not filtered" in lines[0]


def test_fwhm_is_of_good_stars_and_of_the_others_where_there_are_none() -> None:
    objects = made_up_objects()
    objects["flags"][:300] = 1
    objects["FLUX_RADIUS"][:300] = 5
    assert estimate_fwhm(objects, lambda *_: None) == pytest.approx(3.8, rel=0.02)
    lines: list[str] = []
    assert estimate_fwhm(objects[:300], lines.append) == pytest.approx(10)
    assert "flagged" in lines[0]
    objects["FLUX_RADIUS"] = np.nan
    assert estimate_fwhm(objects, lambda *_: None) is None


def test_dilation_grows_by_a_square() -> None:
    segmentation = np.zeros((9, 12), np.int32)
    segmentation[4, 6] = 3
    grown = dilated(segmentation, 2)
    assert grown.sum() == 25
    assert grown[2:7, 4:9].all()
    segmentation[0, 0] = 1
    assert dilated(segmentation, 2)[:3, :3].all()


def north_up(size: int, scale_deg: float, rotation_deg: float = 0.0) -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [30.0, 20.0], [(size + 1) / 2] * 2
    c, s = np.cos(np.deg2rad(rotation_deg)), np.sin(np.deg2rad(rotation_deg))
    wcs.wcs.cd = scale_deg * np.array([[-c, s], [s, c]])
    return wcs.to_header()


def test_survey_picture_is_turned_to_the_images_grid() -> None:
    picture = np.zeros((41, 41))
    picture[20, 30] = 1.0  # ten pixels west of the centre
    same = on_grid(picture, north_up(41, 1e-3), WCS(north_up(41, 1e-3)), (0, 0), 41)
    np.testing.assert_allclose(same, picture, atol=1e-3)
    part = on_grid(picture, north_up(41, 1e-3), WCS(north_up(41, 1e-3)), (25, 15), 11)
    np.testing.assert_allclose(part, picture[15:26, 25:36], atol=1e-3)
    turned = on_grid(picture, north_up(41, 1e-3), WCS(north_up(41, 1e-3, 90.0)), (0, 0), 41)
    row, column = np.unravel_index(np.nanargmax(turned), (41, 41))
    assert abs(column - 20) <= 1
    assert abs(abs(row - 20) - 10) <= 1


@pytest.mark.parametrize(
    ("cat_name", "band", "dec", "suggested", "expected"),
    [
        (None, "r", 10, False, ("ps1", True)),
        (None, "r", -50, False, ("skymapper", True)),
        ("atlas", "r", 10, False, ("atlas", False)),
        ("ps1", "r", 10, True, ("ps1", True)),
        ("ps1", "r", -50, True, ("ps1", True)),  # suggested before the field was solved blindly
        ("atlas", "r", 10, True, ("atlas", False)),  # asked for after inspect had suggested
        ("ps1", "U", 10, True, ("gaiadr3syn", False)),  # the band was changed since; nothing else has U
        ("ps1", "U", 10, False, ("ps1", False)),
    ],
)
def test_catalogue_is_ours_to_replace_only_when_it_was_a_suggestion(
    cat_name: str | None, band: str, dec: float, suggested: bool, expected: tuple[str, bool]
) -> None:
    names, _ = catalog_order(cat_name, band, dec, suggested=suggested)
    assert (names[0], len(names) > 1) == expected
    assert len(set(names)) == len(names)
