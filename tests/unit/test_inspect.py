import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from services.inspect.spec import SPECS
from shared.contracts.params import CleanupParams
from shared.errors import DataError, UsageError
from shared.science.images import write_image
from shared.worker.step import Resources, StepContext
from tests.support import fits as made
from tests.support.inspecting import run_inspect

REAL_IMAGES = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """Archives answer nothing: a closed local port stands before them."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def is_json_without_nan(value: object) -> bool:
    return bool(json.dumps(value, allow_nan=False))


def test_good_image(tmp_path):
    made.with_cards()(tmp_path / "image.fits")
    result = run_inspect(tmp_path)
    computed = dict(result.computed)
    assert is_json_without_nan(computed)
    assert "/" in computed.pop("field_moc")
    assert (computed.pop("field_ra"), computed.pop("field_dec")) == pytest.approx(made.CENTRE, abs=1e-6)
    assert computed.pop("field_sr") == pytest.approx(256 / 3600 / 2**0.5, rel=1e-3)
    assert computed.pop("pixscale") == pytest.approx(made.SCALE_DEG, rel=1e-6)
    assert computed == {
        "gain": made.GAIN,
        "saturation": 57000.0,
        "bg_size": 64,
        "filter": "r",
        "time": "2026-10-15T22:10:00",
        "cat_name": "ps1",
        "cat_suggested": True,
        "cat_limit": 20,
        "template": "ps1",
    }
    mask = fits.getdata(result.work / "mask.fits")
    assert mask.dtype == np.uint8
    assert mask.shape == (made.SIDE, made.SIDE)
    assert not (result.work / "image_target.fits").exists()
    assert result.says("No target")


def test_what_was_asked_wins(tmp_path):
    made.with_cards()(tmp_path / "image.fits")
    result = run_inspect(
        tmp_path,
        gain=2.5,
        saturation=40_000,
        filter="Sloan g",
        time="2020-01-02T03:04:05",
        cat_name="sdss",
        bg_size=100,
        mask_cosmics=False,
    )
    computed = result.computed
    assert (computed["gain"], computed["saturation"], computed["filter"]) == (2.5, 40_000, "g")
    assert computed["time"] == "2020-01-02T03:04:05"
    assert "cat_name" not in computed
    assert not result.says("cosmic")


# what is done with a note: file, words of the log, computed values
NOTED = {
    "extension": (made.in_extension, "Image taken from extension 1", {}),
    "compressed": (made.compressed, "Image taken from extension 1", {}),
    "cube": (made.cube, "First plane of 256 x 256 x 3", {}),
    "gzipped": (made.gzipped, "Done", {}),
    "integers with BZERO": (made.unsigned, "Done", {"gain": made.GAIN}),
    "doubles, other byte order": (made.big_endian_doubles, "Done", {}),
    "illegal cards": (made.illegal_cards, "Done", {"filter": "r"}),
    "junk behind": (made.junk_behind, "Done", {}),
    "asinh scaling": (made.asinh, "a gain of", {}),
    "NaN and infinity": (made.with_pixels(made.not_finite), "15360 pixels (23.44 %) not finite", {}),
    "blank integers": (made.blanks, "5120 pixels", {}),
    "no WCS": (made.with_cards(CTYPE1=None), "blind matching is switched on", {"blind_match_wcs": True}),
    "zero WCS": (
        made.with_cards(CRVAL1=0.0, CRVAL2=0.0, CD1_1=0.0, CD2_2=0.0),
        "blind matching is switched on",
        {"blind_match_wcs": True},
    ),
    "TAN with PV terms": (made.with_cards(**made.TPV), "Field 120.0", {}),
    "IRAF leftovers": (made.with_cards(WAT1_001="wtype=tan axtype=ra", LTV1=-3.0, LTM1_1=1.0), "Field 120.0", {}),
    "WCS in words": (made.with_cards(CRVAL1="eight hours"), "blind matching is switched on", {"blind_match_wcs": True}),
    "gain in words": (made.with_cards(GAIN="high"), "no usable gain", {"gain": 1.0}),
    "gain as a string": (made.with_cards(GAIN="2.5"), "Gain 2.5", {"gain": 2.5}),
    "no gain": (made.with_cards(GAIN=None), "no gain in the header", {"gain": 1.0}),
    "gain zero": (made.with_cards(GAIN=0.0), "GAIN is zero", {"gain": 1.0}),
    "negative gain": (made.with_cards(GAIN=-3.0), "no usable gain", {"gain": 1.0}),
    "gain in EGAIN": (made.with_cards(GAIN=None, EGAIN=3.0), "Gain 3", {"gain": 3.0}),
    "old date": (made.with_cards(DATE__OBS="29/11/51"), "1951-11-29", {"time": "1951-11-29T00:00:00"}),
    "old date and clock": (
        made.with_cards(DATE__OBS="29/11/51", UT="12:07:00.00"),
        "1951-11-29",
        {"time": "1951-11-29T12:07:00"},
    ),
    "date in words": (made.with_cards(DATE__OBS="last night"), "no usable time", {}),
    "clock only": (made.with_cards(DATE__OBS=None, UT="12:07:00"), "no time of observation", {}),
    "Julian date": (made.with_cards(DATE__OBS=None, MJD="59000.5"), "Time 2020-05-31", {"time": "2020-05-31T12:00:00"}),
    "saturation in words": (made.with_cards(SATURATE="full"), "no level above the median", {}),
    "saturation below the sky": (made.with_cards(SATURATE=10.0), "no level above the median", {}),
    "alias of a filter": (made.with_cards(FILTER="Sloan-i"), "Filter i", {"filter": "i"}),
    "unknown filter": (made.with_cards(FILTER="L-eXtreme"), "unknown filter", {"filter": "r"}),
    "filter as a number": (made.with_cards(FILTER=3), "unknown filter", {"filter": "r"}),
    "no filter": (made.with_cards(FILTER=None), "no filter in the header", {"filter": "R", "cat_name": "gaiadr3syn"}),
    "filter in CAMFILT": (made.with_cards(FILTER=None, CAMFILT="V"), "Filter V", {"filter": "V"}),
}


@pytest.mark.parametrize(("make", "words", "expected"), NOTED.values(), ids=NOTED.keys())
def test_odd_input_is_done_with_a_note(tmp_path, make, words, expected):
    make(tmp_path / "image.fits")
    result = run_inspect(tmp_path)
    assert result.says(words), result.log
    assert {key: result.computed[key] for key in expected} == expected
    assert is_json_without_nan(result.computed)
    assert fits.getdata(result.work / "mask.fits").shape == (made.SIDE, made.SIDE)


def constant(image):
    return np.full_like(image, 7)


def all_nan(image):
    return np.full_like(image, np.nan)


# what cannot be used: file, code, words of the error
FAILED = {
    "not FITS": (made.not_fits, "not_fits", "not a FITS file"),
    "empty": (made.empty, "not_fits", "is empty"),
    "truncated": (made.truncated, "truncated", "is truncated"),
    "truncated gzip": (made.truncated_gzip, "truncated", "truncated"),
    "no header end": (made.truncated_header, "bad_fits", "not valid FITS"),
    "declares more than there is": (made.declares_too_much, "truncated", "declares 20,480,000 bytes"),
    "declares the absurd": (made.declares_the_absurd, "too_large", "Crop the image"),
    "negative size": (made.declares_negative, "bad_fits", "impossible size"),
    "20k×20k, not there": (made.twenty_thousand_square, "truncated", "400,000,000 bytes"),
    "table only": (made.table_only, "no_plane", "no two-dimensional image"),
    "one dimension": (made.one_dimensional, "no_plane", "no two-dimensional image"),
    "1×1": (made.one_pixel, "too_small", "1×1 pixels"),
    "1×N": (made.one_row, "too_small", "1000×1 pixels"),
    "constant": (made.with_pixels(constant), "constant", "each pixel is 7"),
    "all NaN": (made.with_pixels(all_nan), "no_finite", "no finite pixel"),
    "saturated": (made.with_pixels(made.saturated, SATURATE=60_000.0), "masked", "saturat"),
}


@pytest.mark.parametrize(("make", "code", "words"), FAILED.values(), ids=FAILED.keys())
def test_useless_input_fails_with_a_reason(tmp_path, make, code, words):
    make(tmp_path / "image.fits")
    saturation = {"saturation": 60_000} if code == "masked" else {}
    with pytest.raises(DataError, match=words) as caught:
        run_inspect(tmp_path, **saturation)
    assert caught.value.code == code
    assert str(tmp_path) not in caught.value.user_message


def test_no_image(tmp_path):
    with pytest.raises(UsageError, match="no image"):
        run_inspect(tmp_path)


def test_custom_mask(tmp_path):
    made.with_cards()(tmp_path / "image.fits")
    custom = np.zeros((made.SIDE, made.SIDE), np.uint8)
    custom[10:20, 30:50] = 1
    write_image(tmp_path / "custom_mask.fits", custom)
    result = run_inspect(tmp_path, mask_cosmics=False)
    mask = fits.getdata(result.work / "mask.fits")
    np.testing.assert_array_equal(mask, custom)
    assert result.says("200 pixels (0.31 %) in the custom mask")


def test_custom_mask_that_does_not_fit(tmp_path):
    made.with_cards()(tmp_path / "image.fits")
    write_image(tmp_path / "custom_mask.fits", np.zeros((16, 16), np.uint8))
    with pytest.raises(DataError, match="16×16 pixels, the image 256×256"):
        run_inspect(tmp_path)
    made.not_fits(tmp_path / "custom_mask.fits")
    with pytest.raises(DataError, match=r"custom_mask\.fits cannot be used"):
        run_inspect(tmp_path)


def test_custom_mask_of_99_percent(tmp_path):
    made.with_cards()(tmp_path / "image.fits")
    custom = np.ones((made.SIDE, made.SIDE), np.uint8)
    custom[:2] = 0
    write_image(tmp_path / "custom_mask.fits", custom)
    with pytest.raises(DataError, match=r"99\.2 % of the image is masked .*in the custom mask"):
        run_inspect(tmp_path)


def test_targets_and_the_cutout(tmp_path):
    made.with_cards()(tmp_path / "image.fits")
    result = run_inspect(tmp_path, target="120.0 35.01\nx=20 y=30")
    first, second = result.computed["targets"]
    assert (first["ra"], first["dec"]) == (120.0, 35.01)
    assert (second["x"], second["y"]) == (20, 30)
    assert (result.computed["target_ra"], result.computed["target_dec"]) == (120.0, 35.01)
    data, header = fits.getdata(result.work / "image_target.fits", header=True)
    # 36 pixels north of the centre, 100 around it, cut at the upper edge
    assert data.shape == (100 + 256 - 164, 201)
    np.testing.assert_array_equal(data, made.field()[64:, 28:229])
    assert header["CRPIX1"] == pytest.approx(128.5 - 28)


def test_pixel_target_without_wcs_has_no_nan(tmp_path):
    made.with_cards(CTYPE1=None)(tmp_path / "image.fits")
    result = run_inspect(tmp_path, target="x=20 y=30")
    assert result.computed["targets"] == [{"name": "x=20 y=30", "ra": None, "dec": None, "x": 20.0, "y": 30.0}]
    assert "target_ra" not in result.computed
    assert (result.work / "image_target.fits").exists()


def test_target_outside(tmp_path):
    made.with_cards()(tmp_path / "image.fits")
    result = run_inspect(tmp_path, target="300 -35")
    assert result.says("outside of the image")
    assert not (result.work / "image_target.fits").exists()


@pytest.mark.parametrize("name", ["", "None", "Unknown", None, 5])
def test_no_target_is_not_looked_up(tmp_path, name):
    made.with_cards(OBJECT=name)(tmp_path / "image.fits")
    result = run_inspect(tmp_path)
    assert result.says("No target")
    assert "targets" not in result.computed


def test_unresolved_target_of_the_header_is_a_note(tmp_path):
    made.with_cards(OBJECT="Nosuchstar")(tmp_path / "image.fits")
    result = run_inspect(tmp_path)
    assert result.says("the target 'Nosuchstar' of the header is left out")
    assert "targets" not in result.computed


def test_target_that_makes_no_sense_is_the_users_error(tmp_path):
    made.with_cards()(tmp_path / "image.fits")
    with pytest.raises(UsageError, match="Line 1"):
        run_inspect(tmp_path, target="120 95")


def test_rescaled_image_has_its_gain_guessed(tmp_path):
    made.with_pixels(lambda image: image / 10_000)(tmp_path / "image.fits")
    result = run_inspect(tmp_path)
    assert result.says("rescaled")
    # photon noise of the field gives back its gain
    assert result.computed["gain"] == pytest.approx(10_000 * made.GAIN, rel=0.15)


def test_cosmic_rays_are_masked(tmp_path):
    image = made.field()
    image[100, 100:104] += 3000
    made.write(tmp_path / "image.fits", image, made.observation())
    result = run_inspect(tmp_path)
    mask = fits.getdata(result.work / "mask.fits")
    assert mask[100, 100:104].all()
    assert mask.sum() < 30


def test_far_south(tmp_path):
    for centre, template in (((20.0, -45.0), "ls"), ((265.0, -50.0), "skymapper")):
        made.write(tmp_path / "image.fits", made.field(), made.observation(centre=centre))
        result = run_inspect(tmp_path)
        assert (result.computed["cat_name"], result.computed["template"]) == ("skymapper", template)


def real_images() -> list[Path]:
    return sorted(REAL_IMAGES.glob("*.fits"))


def test_real_images(tmp_path):
    """Whatever real images lie beside the project, or else a plate and a frame like them."""
    images = real_images()
    if not images:
        plate = tmp_path / "plate.fits"
        made.with_cards(DATE__OBS="29/11/51", GAIN=None, OBJECT="None")(plate)
        frame = tmp_path / "frame.fits"
        made.unsigned(frame)
        images = [plate, frame]
    for number, path in enumerate(images):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "image.fits").write_bytes(path.read_bytes())
        result = run_inspect(folder, target="x=20 y=30")
        assert result.says("Done")
        assert is_json_without_nan(result.computed)
        mask = fits.getdata(result.work / "mask.fits")
        assert mask.mean() < 0.05


def test_the_service_has_both_steps(tmp_path):
    assert [spec.step.name for spec in SPECS] == ["cleanup", "inspect"]
    for spec in SPECS:
        spec.warm()
    ctx = StepContext(1, CleanupParams(), {}, tmp_path, Resources(tmp_path), lambda _: None, print, lambda *_: None)
    assert SPECS[0].run(ctx) == {}
