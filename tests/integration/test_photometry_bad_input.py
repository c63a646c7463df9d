"""What the photometry step makes of bad input: done with a note, or a sentence that says what to try."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from shared.errors import DataError, TransientError
from shared.science.images import write_image
from stdweb.sky import Observation
from tests.support import fits as made
from tests.support.photometry import Bench
from tests.support.photometry_field import CONFIG, SIZE, truth_zero_point

Change = Callable[[np.ndarray], np.ndarray]


def change(bench: Bench, pixels: Change | None = None, **cards: object) -> None:
    """Write the image anew with changed pixels and cards; None removes a card."""
    path = bench.folder / "image.fits"
    image, header = fits.getdata(path).astype(np.float32), fits.getheader(path)
    for key in ("BZERO", "BSCALE", *(key for key, value in cards.items() if value is None)):
        header.remove(key, ignore_missing=True)
    header.update({key.replace("__", "-"): value for key, value in cards.items() if value is not None})
    path.unlink()
    fits.writeto(path, image if pixels is None else pixels(image), header)
    if pixels is not None:
        (bench.folder / "mask.fits").unlink()


def plate_cards(bench: Bench) -> dict[str, object]:
    """Give a plate solution as the Digitized Sky Survey writes it, instead of the header's."""
    old = WCS(fits.getheader(bench.folder / "image.fits"))
    pixel_um, middle = 25.28, 5000
    ra, dec = old.all_pix2world((SIZE - 1) / 2, (SIZE - 1) / 2, 0)
    matrix = 3.6e6 * old.pixel_scale_matrix / pixel_um  # arcsec per mm on the plate
    hours, degrees = float(ra) / 15, abs(float(dec))
    cards: dict[str, object] = {f"C{name}{axis}": None for name in ("TYPE", "RVAL", "RPIX") for axis in (1, 2)}
    cards |= {f"{name}{i}_{j}": None for name in ("CD", "PC") for i in (1, 2) for j in (1, 2)}
    cards |= {"CDELT1": None, "CDELT2": None, "EQUINOX": 2000.0}
    cards |= {"PLTRAH": int(hours), "PLTRAM": int(hours * 60 % 60), "PLTRAS": hours * 3600 % 60, "PLTDECSN": "+"}
    cards |= {"PLTDECD": int(degrees), "PLTDECM": int(degrees * 60 % 60), "PLTDECS": degrees * 3600 % 60}
    cards |= {"PLTSCALE": 67.2, "XPIXELSZ": pixel_um, "YPIXELSZ": pixel_um}
    cards |= {"CNPIX1": middle - SIZE // 2, "CNPIX2": middle - SIZE // 2}
    cards |= {f"PPO{number}": middle * pixel_um if number in {3, 6} else 0.0 for number in range(1, 7)}
    cards |= {f"AMD{axis}{number}": 0.0 for axis in "XY" for number in range(1, 21)}
    cards |= {"AMDX1": -matrix[0, 0], "AMDX2": matrix[0, 1], "AMDY1": matrix[1, 1], "AMDY2": -matrix[1, 0]}
    return cards


# what is done with notes: cards, options, words of the log
NOTED = {
    "no gain, old date, filter of the header": (
        {"GAIN": None, "DATE__OBS": "29/11/51", "FILTER": "Sloan-r"},
        {"gain": None, "filter": None},
        ("Warning: no gain in the header, 1 e-/ADU is assumed", "Filter r", "Astrometry (own)"),
    ),
    "words and strings for numbers, IRAF leftovers": (
        {"GAIN": "high", "CRVAL1": "210.0", "CRVAL2": " 40.0", "EQUINOX": "now", "WAT1_001": "wtype=tan", "LTV1": -3.0},
        {"gain": None},
        ("GAIN = 'high' is no usable gain", "Astrometry (own)"),
    ),
    "wrong gain, TAN with PV terms": (
        made.TPV | {"GAIN": 500.0},
        {"gain": None},
        ("Gain 500 e-/ADU", "Astrometry (own)"),
    ),
}


@pytest.mark.parametrize(("cards", "options", "words"), NOTED.values(), ids=NOTED.keys())
def test_odd_input_is_done_with_notes(
    bench: Bench, sky: Observation, cards: dict[str, object], options: dict[str, object], words: tuple[str, ...]
) -> None:
    change(bench, **cards)
    computed = bench.run({**CONFIG, **options})
    assert [word for word in words if word not in bench.log] == []
    assert computed["zp"] == pytest.approx(truth_zero_point(sky, computed), abs=0.02)
    assert ("filter" in computed) == ("filter" in options)


def test_a_plate_solution_is_refined(bench: Bench, sky: Observation) -> None:
    change(bench, **plate_cards(bench))
    computed = bench.run(CONFIG)
    assert "Astrometry (own)" in bench.log
    assert computed["zp"] == pytest.approx(truth_zero_point(sky, computed), abs=0.02)


# what cannot be used: file, code, words of the error
FAILED = {
    "not FITS": (made.not_fits, "not_fits", "Upload an image in FITS format"),
    "empty": (made.empty, "not_fits", "is empty"),
    "truncated": (made.truncated, "truncated", "is truncated.*Upload it again"),
    "truncated gzip": (made.truncated_gzip, "truncated", "Upload it again"),
    "declares more than there is": (made.declares_too_much, "truncated", "declares 20,480,000 bytes.*Upload it again"),
    "declares the absurd": (made.declares_the_absurd, "too_large", "Crop the image"),
    "table only": (made.table_only, "no_plane", "no two-dimensional image.*Upload an image"),
    "1×1": (made.one_pixel, "image_too_small", "1×1 pixels.*at least 16.*Upload a larger one"),
    "1×N": (made.one_row, "image_too_small", "1000×1 pixels.*at least 16.*Upload a larger one"),
}


@pytest.mark.parametrize(("make", "code", "words"), FAILED.values(), ids=FAILED.keys())
def test_useless_files_end_with_a_sentence(tmp_path: Path, make: Callable[[Path], None], code: str, words: str) -> None:
    task = Bench(tmp_path)
    make(tmp_path / "image.fits")
    with pytest.raises(DataError, match=words) as caught:
        task.run(CONFIG)
    assert caught.value.code == code
    assert str(tmp_path) not in caught.value.user_message


def noise(image: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).normal(700, 20, image.shape).astype(np.float32)


def saturated(image: np.ndarray) -> np.ndarray:
    return np.where(np.random.default_rng(1).random(image.shape) < 0.995, np.float32(65535), image)


SMALL = {"blind_match_ps_up": 1.2}
ZERO_WCS = {"CRVAL1": 0.0, "CRVAL2": 0.0, "CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0}

# pixels and cards, options, code, words of the error
USELESS = {
    "all NaN": ((lambda image: np.full_like(image, np.nan), {}), {}, "image_masked", "100.0 %.*check saturation"),
    "constant": ((lambda image: np.full_like(image, 700), {}), {}, "image_constant", r"same value \(700\)"),
    "saturated": ((saturated, {}), {}, "image_masked", "99.5 %.*check saturation"),
    "noise": ((noise, {}), {"sn": 20}, "no_objects", "brighter than 20 sigma.*lower `sn`"),
    "no WCS": (
        (None, {"CTYPE1": None}),
        SMALL,
        "field_too_small",
        "at most 14.5 arcmin.*ASTROMETRY_INDEXES",
    ),
    "zero WCS": ((None, ZERO_WCS), SMALL, "field_too_small", "STDWEB_ASTROMETRY_INDEXES"),
    "WCS in words": ((None, {"CRVAL1": "fourteen"}), SMALL, "field_too_small", "finer index files"),
}


@pytest.mark.parametrize(("made_bad", "options", "code", "words"), USELESS.values(), ids=USELESS.keys())
def test_useless_images_end_with_a_sentence(
    bench: Bench, made_bad: tuple[Change | None, dict[str, object]], options: dict[str, object], code: str, words: str
) -> None:
    pixels, cards = made_bad
    change(bench, pixels, **cards)
    with pytest.raises(DataError, match=words) as caught:
        bench.run({**CONFIG, "saturation": 60_000, **options})
    assert caught.value.code == code
    assert str(bench.folder) not in caught.value.user_message
    assert not (bench.work / "objects.parquet").exists()


def test_masks_that_do_not_fit(bench: Bench) -> None:
    (bench.folder / "mask.fits").unlink()
    write_image(bench.folder / "mask.fits", np.zeros((10, 10), np.uint8))
    with pytest.raises(DataError, match=f"does not fit the image \\({SIZE}×{SIZE} pixels\\). Run inspect again"):
        bench.run(CONFIG)
    (bench.folder / "mask.fits").unlink()
    write_image(bench.folder / "custom_mask.fits", np.zeros((16, 16), np.uint8))
    with pytest.raises(DataError, match=f"custom mask has 16×16 pixels, the image {SIZE}×{SIZE}"):
        bench.run(CONFIG)
    custom = np.ones((SIZE, SIZE), np.uint8)
    custom[:2] = 0
    write_image(bench.folder / "custom_mask.fits", custom)
    with pytest.raises(DataError, match=r"99\.6 % of the image is masked.*custom_mask\.fits"):
        bench.run(CONFIG)


def test_unreachable_archives_are_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed local port stands before the archives, and there is no mirror."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    bench.mirror_dir = None
    with pytest.raises(TransientError, match="VizieR cannot be reached at the moment; try again later") as caught:
        bench.run({**CONFIG, "cat_limit": None})
    assert caught.value.code == "archive_unavailable"


def with_holes(image: np.ndarray) -> np.ndarray:
    image[:, :100] = np.nan
    image[300:310] = np.inf
    image[400:405, 300:] = -np.inf
    return image


def test_image_with_many_nans_and_infinities_still_works(bench: Bench, sky: Observation) -> None:
    change(bench, with_holes)
    computed = bench.run(CONFIG)
    assert computed["zp"] == pytest.approx(truth_zero_point(sky, computed), abs=0.03)
    assert not np.isnan(Table.read(bench.work / "objects.parquet")["flux"]).any()


def test_no_image_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        Bench(tmp_path).run({})


def test_too_high_a_threshold_says_what_to_lower(bench: Bench) -> None:
    with pytest.raises(DataError, match="lower `sn` or `minarea`"):
        bench.run({**CONFIG, "minarea": 10000})


def test_wrong_coordinates_do_not_give_a_zero_point_silently(bench: Bench) -> None:
    header = fits.getheader(bench.folder / "image.fits")
    change(bench, CRVAL1=header["CRVAL1"] + 0.06, CRVAL2=header["CRVAL2"] - 0.05)
    computed = bench.run({**CONFIG, "refine_wcs": False, "sr_override": 20})
    assert "Warning: instrumental and catalogue magnitudes do not correlate" in bench.log
    assert computed["zp_err"] > 0.02
