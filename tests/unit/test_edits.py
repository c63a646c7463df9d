"""Cutting and destriping images, against truth."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from shared.contracts.edits import IMAGE, ORIGINAL
from shared.errors import DataError, UsageError
from shared.science.crop import box_of, crop_header
from shared.science.destripe import remove_stripes
from shared.science.images import quiet_fits, read_image
from shared.science.plates import plate_positions
from tests.support import fits as files
from tests.support.edits import crop_request, destripe_request, fix_request, run_edit

SHAPE = (300, 400)
BOX = (37, 21, 311, 250)


def sip_header() -> fits.Header:
    header = files.tan_header(400)
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"] = header["B_ORDER"] = 2
    header["A_2_0"], header["A_1_1"], header["B_0_2"], header["B_1_1"] = 2e-5, -1e-5, 3e-5, 1e-5
    return header


def tpv_header() -> fits.Header:
    header = files.tan_header(400)
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    for key, value in {"PV1_0": 1e-5, "PV1_1": 1.0, "PV1_4": 2e-3, "PV2_1": 1.0, "PV2_4": -1e-3}.items():
        header[key] = value
    return header


def alternate_header() -> fits.Header:
    header = files.tan_header(400)
    for key in list(header):
        header[f"{key}A"] = header[key]
    header["CRPIX1A"] = 17.25
    header["CUNIT1A"] = header["CUNIT2A"] = "deg"
    return header


def without_reference_pixel() -> fits.Header:
    header = files.tan_header(400)
    del header["CRPIX1"]
    return header


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: files.tan_header(400), " "),
        (sip_header, " "),
        (tpv_header, " "),
        (alternate_header, "A"),
        (without_reference_pixel, " "),
    ],
    ids=["tan", "sip", "tpv", "alternate", "no CRPIX1"],
)
def test_stars_keep_their_place_on_the_sky(make: Callable[[], fits.Header], key: str, tmp_path: Path) -> None:
    files.write(tmp_path / IMAGE, np.zeros(SHAPE, np.float32), make())
    x1, y1, x2, y2 = BOX
    work = run_edit(tmp_path, crop_request(x1=x1, y1=y1, x2=x2, y2=y2))
    random = np.random.default_rng(3)
    x, y = random.uniform(x1, x2, 50), random.uniform(y1, y2, 50)
    with quiet_fits():
        sky = WCS(make(), key=key).all_pix2world(x, y, 0)
        new_x, new_y = WCS(fits.getheader(work / IMAGE), key=key).all_world2pix(*sky, 0, tolerance=1e-9)
    assert np.abs(new_x - (x - x1)).max() < 1e-6
    assert np.abs(new_y - (y - y1)).max() < 1e-6


def test_a_plate_solution_moves_too() -> None:
    plate = {"PPO3": 170_000.0, "PPO6": 180_000.0, "XPIXELSZ": 25.28, "YPIXELSZ": 25.28, "AMDX1": 67.2, "AMDY1": 67.2}
    plate |= {"CNPIX1": 5000, "CNPIX2": 7000, "PLTRAH": 10, "PLTRAM": 20, "PLTRAS": 30.0}
    plate |= {"PLTDECD": 41, "PLTDECM": 5, "PLTDECS": 6.0, "AMDX3": -3.0, "AMDY3": 2.0}
    header = fits.Header(plate.items())
    cut = crop_header(header, BOX, SHAPE)
    x, y = np.array([50.0, 300.0]), np.array([30.0, 240.0])
    before = plate_positions(header, x, y)
    after = plate_positions(cut, x - BOX[0], y - BOX[1])
    assert np.abs(np.subtract(before, after)).max() < 1e-12  # degrees


def test_sections_and_physical_coordinates_are_shifted_clipped_or_gone() -> None:
    header = fits.Header()
    header["DATASEC"] = "[51:350,1:300]"
    header["TRIMSEC"] = "[ 61 : 340 , 5 : 295 ]"
    header["BIASSEC"] = "[1:30,1:300]"
    header["CCDSEC"] = "[101:700,1:600]"  # binned by two
    header["DETSEC"] = "[2300:2001,300:1]"  # read out backwards
    header["AMPSEC"] = "[1:301,1:300]"  # of another size than DATASEC
    header["DSEC11"] = "nothing"
    header["LTV1"] = 10.0
    header["XORGSUBF"], header["DATAMAX"] = 100, 65535.0
    cut = crop_header(header, BOX, SHAPE)
    assert cut["DATASEC"] == "[14:274,1:229]"
    assert cut["TRIMSEC"] == "[24:274,1:229]"
    assert cut["CCDSEC"] == "[101:622,43:500]"
    assert cut["DETSEC"] == "[2300:2040,279:51]"
    assert (cut["LTV1"], cut["LTV2"], cut["XORGSUBF"]) == (10 - 37, -21, 137)
    for gone in ("BIASSEC", "AMPSEC", "DSEC11", "DATAMAX"):
        assert gone not in cut, gone
    assert "cropped to columns 37 to 310 and rows 21 to 249" in str(cut["HISTORY"])
    assert crop_header(header, (0, 0, 400, 300), SHAPE)["CCDSEC"] == header["CCDSEC"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((None, None, None, None), (0, 0, 400, 300)),
        ((10, 20, 30, 40), (10, 20, 30, 40)),
        ((-100, -50, None, None), (300, 250, 400, 300)),
        ((None, None, -100, -50), (0, 0, 300, 250)),
        ((-1000, -1000, 1000, 1000), (0, 0, 400, 300)),
        ((399, 299, 400, 300), (399, 299, 400, 300)),
    ],
)
def test_boxes(asked: tuple[int | None, ...], found: tuple[int, ...]) -> None:
    assert box_of(*asked, SHAPE) == found


@pytest.mark.parametrize(
    ("asked", "parameter"),
    [
        ((10, None, 10, None), "x2"),
        ((10, None, 5, None), "x2"),
        ((400, None, None, None), "x1"),
        ((None, 5, None, -296), "y2"),
        ((None, None, 0, None), "x2"),
        ((None, None, None, -300), "y2"),
        ((500, None, 600, None), "x2"),
    ],
)
def test_an_empty_box_names_its_parameter(asked: tuple[int | None, ...], parameter: str) -> None:
    with pytest.raises(UsageError, match="400×300") as raised:
        box_of(*asked, SHAPE)
    assert raised.value.details["parameter"] == parameter


@pytest.mark.parametrize(
    ("make", "bitpix"),
    [
        (files.unsigned, 16),
        (files.scaled, 16),
        (files.blanks, 16),
        (files.big_endian_doubles, -64),
        (files.compressed, 16),
        (files.gzipped, -32),
        (files.in_extension, -32),
        (files.cube, -32),
        (files.thin_cube, -32),
        (files.asinh, -32),
        (files.junk_behind, -32),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_pixels_are_kept_as_they_were_stored(make: Callable[[Path], None], bitpix: int, tmp_path: Path) -> None:
    make(tmp_path / IMAGE)
    before, _ = read_image(tmp_path / IMAGE)
    for request, box in (
        (crop_request(x1=10, y1=20, x2=-30, y2=200), (slice(20, 200), slice(10, -30))),
        (fix_request(), ...),
    ):
        work = run_edit(tmp_path, request)
        with fits.open(work / IMAGE) as hdus:
            assert len(hdus) == 1
            hdus.verify("exception")
            assert (hdus[0].header["BITPIX"], hdus[0].header["NAXIS"]) == (bitpix, 2)
        after, header = read_image(work / IMAGE)
        assert np.array_equal(after, before[box], equal_nan=True)
        assert header["FILTER"] == "r"
        assert (work / ORIGINAL).read_bytes() == (tmp_path / IMAGE).read_bytes()
        assert (work / IMAGE).stat().st_size % 2880 == 0


def test_a_cube_leaves_no_third_axis_behind(tmp_path: Path) -> None:
    header = files.tan_header()
    header["WCSAXES"], header["CTYPE3"], header["CRVAL3"], header["CD3_3"] = 3, "FREQ", 1e9, 1e6
    header["CPDIS1"], header["DP1"] = "LOOKUP", "NAXES: 2"
    files.write(tmp_path / IMAGE, np.zeros((3, 256, 256), np.int16), header)
    cut = fits.getheader(run_edit(tmp_path, crop_request(x2=100)) / IMAGE)
    assert cut["WCSAXES"] == 2
    for gone in ("CTYPE3", "CRVAL3", "CD3_3", "NAXIS3", "CPDIS1", "DP1"):
        assert gone not in cut, gone


def test_the_first_original_survives_further_edits(tmp_path: Path) -> None:
    files.write(tmp_path / IMAGE, files.field(), files.observation())
    first = (tmp_path / IMAGE).read_bytes()
    once = run_edit(tmp_path, crop_request(x1=100))
    twice = run_edit(once, destripe_request())
    thrice = run_edit(twice, crop_request(y1=100))
    assert (thrice / ORIGINAL).read_bytes() == first
    assert fits.getdata(thrice / IMAGE).shape == (156, 156)


@pytest.mark.parametrize(
    "make", [files.not_fits, files.empty, files.truncated, files.declares_negative, files.table_only, files.bomb]
)
def test_what_is_no_image_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / IMAGE)
    for request in (fix_request(), crop_request(x1=1), destripe_request()):
        with pytest.raises(DataError):
            run_edit(tmp_path, request)
    (tmp_path / IMAGE).unlink()
    with pytest.raises(UsageError, match="no image"):
        run_edit(tmp_path, fix_request())


# ---- stripes


def striped(size: int = 512) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stars on a sloping sky; with it, offsets of rows and of columns, three times the noise."""
    random = np.random.default_rng(11)
    image = files.field(size, stars=150, seed=4)
    image += np.linspace(0, 60, size, dtype=np.float32)[:, np.newaxis]
    image -= np.linspace(0, 40, size, dtype=np.float32)
    noise = np.sqrt(files.BACKGROUND / files.GAIN)
    return image, random.normal(0, 3 * noise, size), random.normal(0, 3 * noise, size)


NOISE = float(np.sqrt(files.BACKGROUND / files.GAIN))


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True)])
def test_stripes_go_and_stars_and_sky_stay(rows: bool, columns: bool) -> None:
    truth, up, along = striped()
    image = truth + (up[:, np.newaxis] * rows + along * columns).astype(np.float32)
    rms = remove_stripes(image, rows=rows, columns=columns)
    rest = image - truth
    assert rms == pytest.approx(3 * NOISE * np.sqrt(rows + columns), rel=0.15)
    # from line to line what remains is the error of the mean of a line's noise, 512^-1/2 = 0.044
    assert np.diff(rest.mean(axis=1)).std() / np.sqrt(2) < 0.08 * NOISE
    assert np.diff(rest.mean(axis=0)).std() / np.sqrt(2) < 0.08 * NOISE
    # slow changes of the offsets cannot be told from the sky's
    assert rest.std() < 0.5 * NOISE
    assert abs(np.median(image) - np.median(truth)) < 0.5 * NOISE


def test_an_image_without_stripes_stays_as_it_is() -> None:
    truth, _, _ = striped()
    image = truth.copy()
    remove_stripes(image, rows=True, columns=True)
    assert (image - truth).std() < 0.1 * NOISE
    assert np.abs(image - truth).max() < 0.5 * NOISE


def test_a_large_object_is_no_stripe() -> None:
    truth, up, _ = striped()
    rows, columns = np.indices(truth.shape)
    truth += (400 * np.exp(-((rows - 256) ** 2 + (columns - 200) ** 2) / (2 * 40.0**2))).astype(np.float32)
    image = truth + up[:, np.newaxis].astype(np.float32)
    remove_stripes(image, rows=True, columns=False)
    rest = image - truth
    assert np.diff(rest.mean(axis=1)).std() / np.sqrt(2) < 0.1 * NOISE
    assert rest.std() < 0.5 * NOISE


def test_pixels_without_value_stay_so_and_spread_not() -> None:
    truth, up, _ = striped()
    truth[:40] = np.nan
    truth[50, :500] = np.inf
    truth[200:220, 100:300] = np.nan
    truth[:, 77] = np.nan
    image = truth + up[:, np.newaxis].astype(np.float32)
    remove_stripes(image, rows=True, columns=True)
    assert np.array_equal(np.isfinite(image), np.isfinite(truth))
    rest = image[60:, 80:] - truth[60:, 80:]
    assert np.nanstd(rest) < 0.5 * NOISE


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 3), (40, 700)])
def test_small_and_narrow_images(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).normal(100, 1, shape).astype(np.float32)
    remove_stripes(image, rows=True, columns=True)
    assert np.isfinite(image).all()
    nothing = np.full(shape, np.nan, np.float32)
    assert remove_stripes(nothing, rows=True, columns=True) == 0


def test_destriped_files_are_floats_and_keep_their_coordinates(tmp_path: Path) -> None:
    files.unsigned(tmp_path / IMAGE)
    work = run_edit(tmp_path, destripe_request("horizontal"))
    with fits.open(work / IMAGE) as hdus:
        header = hdus[0].header
        assert hdus[0].data.dtype == ">f4"
        assert "BZERO" not in header
        assert "offsets of rows removed" in str(header["HISTORY"])
        assert header["CRPIX1"] == files.observation()["CRPIX1"]
        assert np.median(hdus[0].data) == pytest.approx(40_000 + files.BACKGROUND, abs=10)
