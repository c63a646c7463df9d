import gzip

import numpy as np
import pytest
from astropy.io import fits

from shared.errors import DataError
from shared.science.fits_layout import bytes_to_image
from shared.science.images import MAX_PIXELS, read_image, read_mask, write_image
from tests.support import fits as made

TRUTH = made.field()


@pytest.mark.parametrize(
    "make",
    [
        made.with_cards(),
        made.in_extension,
        made.cube,
        made.thin_cube,
        made.big_endian_doubles,
        made.gzipped,
        made.junk_behind,
        made.illegal_cards,
    ],
    ids=lambda make: make.__name__,
)
def test_the_plane_comes_back_unchanged(tmp_path, make):
    make(tmp_path / "image.fits")
    image, header = read_image(tmp_path / "image.fits")
    assert image.dtype == np.dtype("=f4")
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, TRUTH)
    assert header["GAIN"] == made.GAIN


def test_integers_are_scaled(tmp_path):
    made.unsigned(tmp_path / "a.fits")
    image, _ = read_image(tmp_path / "a.fits")
    np.testing.assert_array_equal(image, np.clip(TRUTH + 40_000, 0, 65_535).astype(np.uint16))
    made.scaled(tmp_path / "b.fits")
    image, _ = read_image(tmp_path / "b.fits")
    inside = TRUTH < 17_000
    np.testing.assert_allclose(image[inside], TRUTH[inside], atol=0.26)


def test_compressed_integers(tmp_path):
    made.compressed(tmp_path / "image.fits")
    image, header = read_image(tmp_path / "image.fits")
    np.testing.assert_array_equal(image, TRUTH.astype(np.int16))
    assert header["NAXIS1"] == made.SIDE


def test_blank_integers_are_nan(tmp_path):
    made.blanks(tmp_path / "image.fits")
    image, _ = read_image(tmp_path / "image.fits")
    assert np.isnan(image[:20]).all()
    assert np.isfinite(image[20:]).all()


def test_blank_unsigned_integers_are_nan(tmp_path):
    data = TRUTH.astype(np.uint16)
    hdu = fits.PrimaryHDU(data, made.observation())
    hdu.header["BLANK"] = int(data[0, 0]) - 32_768
    hdu.writeto(tmp_path / "image.fits")
    image, _ = read_image(tmp_path / "image.fits")
    blank = data == data[0, 0]
    assert np.isnan(image[blank]).all()
    np.testing.assert_array_equal(image[~blank], data[~blank])


def test_asinh_scaling_is_undone(tmp_path):
    made.asinh(tmp_path / "image.fits")
    image, header = read_image(tmp_path / "image.fits")
    np.testing.assert_allclose(image, TRUTH, rtol=1e-5)
    assert "BSOFTEN" not in header


def test_cards_of_the_primary_header_are_added(tmp_path):
    made.in_extension(tmp_path / "image.fits")
    _, header = read_image(tmp_path / "image.fits")
    assert header["OBSERVER"] == "nobody"
    assert header["NAXIS"] == 2


BAD = [
    (made.not_fits, "not_fits", "not a FITS file"),
    (made.empty, "not_fits", "empty"),
    (made.only_the_first_word, "bad_fits", "not valid FITS"),
    (made.truncated, "truncated", "its header declares 262,144 bytes of pixels"),
    (made.truncated_header, "bad_fits", "not valid FITS"),
    (made.truncated_gzip, "truncated", "damaged or truncated"),
    (made.declares_too_much, "truncated", "its header declares 20,480,000 bytes"),
    (made.declares_the_absurd, "too_large", f"{MAX_PIXELS // 1_000_000} million"),
    (made.declares_more_than_any_disk, "bad_fits", "impossible size"),
    (made.declares_negative, "bad_fits", "not valid FITS"),
    (made.twenty_thousand_square, "truncated", "its header declares 400,000,000 bytes"),
    (made.bad_bitpix, "bad_fits", "not valid FITS"),
    (made.bscale_is_text, "bad_fits", "not valid FITS"),
    (made.damaged_compression, "bad_fits", "not valid FITS"),
    (made.table_only, "no_plane", "a table"),
    (made.no_data, "no_plane", "holds no data"),
    (made.one_dimensional, "no_plane", "a row of 1000 values"),
]


@pytest.mark.parametrize(("make", "code", "words"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_files_say_what_is_wrong(tmp_path, make, code, words):
    make(tmp_path / "image.fits")
    with pytest.raises(DataError, match=words) as caught:
        read_image(tmp_path / "image.fits")
    assert caught.value.code == code
    assert str(tmp_path) not in caught.value.user_message


def test_decompression_bomb_is_not_unpacked(tmp_path):
    made.bomb(tmp_path / "image.fits")
    with gzip.open(tmp_path / "image.fits") as file:
        with pytest.raises(DataError, match="header of more than"):
            bytes_to_image(file, 1 << 30)
        assert file.tell() < 1 << 24
    with pytest.raises(DataError, match="not valid FITS"):
        read_image(tmp_path / "image.fits")


def test_more_than_the_limit_is_not_read(tmp_path):
    made.gzipped(tmp_path / "image.fits")
    with gzip.open(tmp_path / "image.fits") as file, pytest.raises(DataError, match="more than can be processed"):
        bytes_to_image(file, 10_000)


def test_masks_are_read_as_booleans(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[3, 4] = True
    write_image(tmp_path / "mask.fits", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.fits", (20, 30)), mask)
    with pytest.raises(DataError, match="30×20 pixels, the image 20×30"):
        read_mask(tmp_path / "mask.fits", (30, 20))
