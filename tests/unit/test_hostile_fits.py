"""Files of strangers that are meant to harm: headers without end, sizes that lie, and a seeded corpus of damage."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from services.preview.core import walk
from shared.errors import DataError
from shared.science.cutout_files import CutoutWriter
from shared.science.images import read_image
from shared.science.repair import repair_header
from tests.support.fits import tan_header
from tests.support.hostile_fits import BLOCK, CARD, card, hostile

FIRST_SEED, FILES = 1, 40
IMAGE = [card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 16), card("NAXIS2", 16)]
NOTHING = [card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 0)]
PIXELS = bytes(BLOCK)


def header(*cards: bytes, end: bytes = b"END") -> bytes:
    text = b"".join(cards) + end
    return text.ljust(-(-len(text) // BLOCK) * BLOCK)


def extension(*sizes: int) -> bytes:
    lengths = [card(f"NAXIS{axis + 1}", size) for axis, size in enumerate(sizes)]
    first = [b"XTENSION= 'IMAGE   '".ljust(CARD), card("BITPIX", 8), card("NAXIS", len(sizes))]
    return header(*first, *lengths, card("PCOUNT", 0), card("GCOUNT", 1))


def packed(lie: bytes) -> bytes:
    """Begin a tile-compressed image that declares too much of something."""
    first = [b"XTENSION= 'BINTABLE'".ljust(CARD), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 8)]
    more = [card("NAXIS2", 4), card("PCOUNT", 0), card("GCOUNT", 1), lie, card("ZIMAGE", "T")]
    return header(*first, *more) + PIXELS


HARMFUL = {
    "cards": (header(*IMAGE, *[card(f"K{number}", 1) for number in range(60_000)]) + PIXELS, None, "header of more"),
    "comments": (header(*IMAGE, *[b"HISTORY".ljust(CARD)] * 60_000) + PIXELS, None, "header of more"),
    "continued": (header(*IMAGE, *[b"CONTINUE  'x&'".ljust(CARD)] * 60_000) + PIXELS, None, "header of more"),
    "no end": (header(*IMAGE, b" " * 20_000_000, end=b""), None, "header of more"),
    "parts": (header(*NOTHING) + extension() * 1001 + extension(-5760) * 2, None, "more than 1000 parts"),
    "negative": (header(*IMAGE) + PIXELS + extension(-5760) + extension(16, 16) + PIXELS, 5, "impossible size"),
    "axes": (header(IMAGE[0], IMAGE[1], card("NAXIS", 2**31 - 1), *IMAGE[3:]) + PIXELS, None, "more than 999 axes"),
    "no axes": (header(IMAGE[0], IMAGE[1], card("NAXIS", 900), *IMAGE[3:]) + PIXELS, None, "does not say its size"),
    "tiles": (header(*NOTHING) + packed(card("ZNAXIS", 2**31 - 1)), None, "more than 999 axes"),
    "columns": (header(*NOTHING) + packed(card("TFIELDS", 2**31 - 1)), None, "more than 999 axes or columns"),
    "two sizes": (header(*IMAGE, card("NAXIS1", 99_999)) + PIXELS, None, "two different NAXIS1"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("content", "ext", "words"), HARMFUL.values(), ids=HARMFUL)
def test_headers_that_cost_too_much_are_refused_at_once(
    tmp_path: Path, content: bytes, ext: int | None, words: str, packed: bool
) -> None:
    path = tmp_path / "image.fits"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    began = time.process_time()
    with pytest.raises(DataError, match=words) as caught:
        read_image(path, ext)
    assert caught.value.code == "bad_fits"
    assert time.process_time() - began < 3  # s; astropy takes minutes, or for ever


def test_an_extension_of_a_gzipped_file_can_be_read(tmp_path: Path) -> None:
    planes = [np.full((20, 30), number, np.float32) for number in range(3)]
    hdus = [fits.PrimaryHDU(planes[0]), *(fits.ImageHDU(plane) for plane in planes[1:])]
    path = tmp_path / "image.fits.gz"
    fits.HDUList(hdus).writeto(path)
    for number in range(3):
        np.testing.assert_array_equal(read_image(path, number)[0], planes[number])


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("start", ["SIMPLE  = ,,", "SIMPLE  =                    F"])
def test_a_file_that_says_not_to_be_standard_is_not_read_for_ever(tmp_path: Path, start: str, packed: bool) -> None:
    """As part after part at the same place, where it is packed into fewer bytes than its header has."""
    content = header(start.encode().ljust(CARD), *IMAGE[1:]) + PIXELS
    path = tmp_path / "image.fits"
    path.write_bytes(gzip.compress(content) if packed else content)
    for ext in (None, 1, 999):
        with pytest.raises(DataError) as caught:
            read_image(path, ext)
        assert caught.value.code in {"bad_fits", "no_plane", "no_extension"}


def compressed_with(path: Path, lie: bytes) -> bytes:
    """Write a tile-compressed image that says something else in one card."""
    image = fits.CompImageHDU(np.ones((20, 20), np.int16), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    content = path.read_bytes()
    start = content.index(lie[:10])
    path.write_bytes(content[:start] + lie + content[start + CARD :])
    return path.read_bytes()


def test_columns_without_end_are_no_picture(tmp_path: Path) -> None:
    assert len(walk(memoryview(compressed_with(tmp_path / "good", card("TFIELDS", 3))))) == 2
    assert len(walk(memoryview(compressed_with(tmp_path / "bad", card("TFIELDS", 2**31 - 1))))) == 1


def test_a_type_that_tiles_cannot_have_is_refused(tmp_path: Path) -> None:
    compressed_with(tmp_path / "image.fits", card("TFORM1", "'x'"))
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "image.fits")
    assert caught.value.code == "bad_fits"


def test_an_end_that_is_none_is_left_out_by_a_repair() -> None:
    damaged = fits.Header([("GAIN", 2.0)])
    damaged.append(fits.Card.fromstring("END.    = 5".ljust(CARD)))
    repaired, notes = repair_header(damaged)
    assert (list(repaired), len(notes)) == (["GAIN"], 1)


def test_texts_of_users_are_no_cards_of_cutouts(tmp_path: Path) -> None:
    wcs = WCS(tan_header(32))
    name = "M31\nEND" + " " * 80 + "NAXIS   = 9" + "\0é" + "x" * 200
    path = tmp_path / "cutout.fits"
    CutoutWriter(wcs).write(path, {"image": np.ones((5, 5), np.float32)}, {"NAME": name, "A LONG ONE": "B"}, (0, 0))
    with fits.open(path) as hdus:
        assert (hdus[0].header["NAXIS"], hdus[0].header["A LONG ONE"]) == (0, "B")
        assert hdus[0].header["NAME"].startswith("M31?END")
        assert [hdu.shape for hdu in hdus[1:]] == [(5, 5)]


def test_the_corpus_is_the_same_for_the_same_seed() -> None:
    assert [hostile(seed) for seed in range(5)] == [hostile(seed) for seed in range(5)]
    assert len({hostile(seed) for seed in range(20)}) == 20


def test_nothing_that_reads_them_is_harmed() -> None:
    """In a process of its own, with a limit of memory and an alarm; `make fuzz` does the same at length."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.fuzzing", str(FIRST_SEED), str(FILES)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    told = json.loads(result.stdout)
    assert told["findings"] == 0, result.stderr[-3000:]
    assert told["read"] + told["refused"] == 5 * FILES
    assert min(told["read"], told["refused"]) > FILES  # damage that is reached, and damage that is not fatal
    assert told["memory_mib"] < 2048
