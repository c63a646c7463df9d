"""Stacks of what cannot be stacked: a clear error, or a note in the log and a stack of the rest."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from shared.errors import DataError, StepError, UsageError
from shared.science.images import read_image
from tests.support.stacking import GAIN, Exposure, Sky, run_stack, sky

WCS_CARDS = ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
NO_WCS = dict.fromkeys(WCS_CARDS)
SHAPE = (128, 128)


@pytest.fixture(scope="module")
def stars() -> Sky:
    return sky(stars=20, reach_deg=60 / 3600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, stars: Sky) -> Path:
    root = tmp_path_factory.mktemp("stacking")
    data = root / "data"
    for number in range(3):
        Exposure(SHAPE, seed=number, shift=(number, 0.5 * number)).write(data / f"{number}.fits", stars)
    Exposure(SHAPE, seed=4, cards=NO_WCS).write(data / "lost.fits", sky(stars=20, reach_deg=60 / 3600, seed=99))
    Exposure(SHAPE, seed=5, cards={"CRVAL1": 200.0}).write(data / "elsewhere.fits", stars)
    Exposure(SHAPE, seed=6, cards={"FILTER": "B"}).write(data / "blue.fits", stars)
    Exposure(SHAPE, seed=7, cards={"GAIN": None, "EXPTIME": None, "DATE-OBS": None, "SATURATE": None}).write(
        data / "bare.fits", stars
    )
    (data / "text.fits").write_text("not an image")
    (data / "cut.fits").write_bytes((data / "0.fits").read_bytes()[:20000])
    for name, value in (("nan", np.nan), ("constant", 100.0)):
        fits.PrimaryHDU(np.full(SHAPE, value, np.float32), Exposure(SHAPE).header()).writeto(data / f"{name}.fits")
    fits.PrimaryHDU(np.ones((1, 1), np.float32)).writeto(data / "dot.fits")
    return root


@pytest.mark.parametrize(
    ("names", "kind", "code", "words"),
    [
        ((), UsageError, "no_images", "Set stack_filenames to at least two images"),
        (("0.fits", "gone.fits"), UsageError, "no_file", "no file gone.fits in the shared data directory"),
        (("0.fits", "text.fits"), DataError, "not_fits", "text.fits cannot be stacked. It is not a FITS file."),
        (("0.fits", "cut.fits"), DataError, "truncated", "cut.fits cannot be stacked. It is truncated"),
        (("0.fits", "elsewhere.fits"), DataError, "too_few_images", "elsewhere.fits shows another part of the sky"),
        (("0.fits", "lost.fits"), DataError, "too_few_images", "needs stars in common with 0.fits"),
        (("lost.fits", "0.fits", "1.fits"), DataError, "too_few_images", "Only 1 of 3 images can be stacked"),
        (("0.fits", "nan.fits"), DataError, "too_few_images", "nan.fits has no finite pixels"),
        (("nan.fits", "0.fits", "1.fits"), DataError, "no_grid", "Name another one first"),
        (("dot.fits", "0.fits"), DataError, "no_grid", "dot.fits, the first image"),
    ],
)
def test_what_cannot_be_stacked_is_named(
    folder: Path, names: tuple[str, ...], kind: type[StepError], code: str, words: str
) -> None:
    with pytest.raises(kind) as failure:
        run_stack(folder, *names)
    assert failure.value.code == code
    assert words in failure.value.user_message
    assert str(folder) not in failure.value.user_message
    assert not (folder / "work" / "image.fits").exists()


@pytest.mark.parametrize("bad", ["nan.fits", "elsewhere.fits", "lost.fits", "dot.fits"])
def test_one_bad_image_of_several_is_left_out(folder: Path, bad: str) -> None:
    result = run_stack(folder, "0.fits", bad, "1.fits")
    assert result.says("Warning", bad, "left out")
    assert result.header["NCOMBINE"] == 2
    assert result.header["EXPTIME"] == 60
    assert np.array_equal(result.image, run_stack(folder, "0.fits", "1.fits").image, equal_nan=True)


def test_other_bands_are_noted(folder: Path) -> None:
    result = run_stack(folder, "0.fits", "blue.fits", "1.fits")
    assert result.says("Warning: the images are of several bands (2 in r, 1 in B); the stack is taken for r")
    assert result.header["FILTER"] == "r"


def test_a_header_without_gain_exposure_and_time(folder: Path) -> None:
    result = run_stack(folder, "0.fits", "bare.fits")
    assert result.says("no gain in the header of bare.fits; 2 e-/ADU is assumed")
    assert result.header["GAIN"] == GAIN
    assert "EXPTIME" not in result.header
    assert result.says("1 images tell no exposure time")
    assert result.header["DATE-OBS"] == "2026-10-15T22:00:00.000"
    alone = run_stack(folder, "bare.fits", "bare.fits", stack_method="clipped_mean")
    assert alone.header["GAIN"] == 2
    assert not {"SATURATE", "EXPTIME", "DATE-OBS"} & set(alone.header)
    assert alone.says("bare.fits is named 2 times")


def test_a_constant_image_is_as_good_as_any(folder: Path) -> None:
    result = run_stack(folder, "constant.fits", "constant.fits", stack_subtract_bg=False)
    assert np.array_equal(result.image, np.full(SHAPE, 200.0))


def test_twenty_images(folder: Path) -> None:
    names = ("0.fits", "1.fits", "2.fits") * 7
    result = run_stack(folder, *names[:20], stack_method="median")
    assert result.header["NCOMBINE"] == 20
    assert result.coverage.max() == 20
    assert not (result.work / "planes").exists()


def mosaic(path: Path, *chips: Path) -> None:
    parts = [fits.PrimaryHDU()]
    for chip in chips:
        with fits.open(chip) as hdus:
            parts.append(fits.ImageHDU(hdus[0].data, hdus[0].header))
    fits.HDUList(parts).writeto(path)


def test_an_extension_is_taken_of_each_image_and_inspect_takes_the_stack(folder: Path) -> None:
    for number in (0, 1):
        mosaic(folder / "data" / f"chips{number}.fits", folder / "data/constant.fits", folder / f"data/{number}.fits")
    stacked = run_stack(folder, "chips0.fits", "chips1.fits", ext=2)
    assert np.array_equal(stacked.image, run_stack(folder, "0.fits", "1.fits").image, equal_nan=True)
    stacked = run_stack(folder, "chips0.fits", "chips1.fits", ext="2")
    image, header = read_image(stacked.work / "image.fits", 2)
    assert np.array_equal(image, stacked.image, equal_nan=True)
    assert header["NCOMBINE"] == 2
    with pytest.raises(
        DataError, match=r"0.fits cannot be stacked\. It has no extension 2: its last one is 0\. Change ext"
    ):
        run_stack(folder, "chips0.fits", "0.fits", ext=2)
    (folder / "work" / "planes").unlink(missing_ok=True)
    first = run_stack(folder, "chips0.fits", "chips1.fits", stack_subtract_bg=False)
    assert np.array_equal(first.image, np.full(SHAPE, 200.0))
