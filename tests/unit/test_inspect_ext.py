"""`ext`: one extension of a file is taken, and later steps see nothing else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from shared.errors import DataError
from tests.support import fits as made
from tests.support.inspecting import Inspection, run_inspect


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """Archives answer nothing: a closed local port stands before them."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def mosaic(tmp_path: Path) -> Path:
    """A file of two chips of different level, a table and a compressed chip."""
    first = fits.Header({"FILTER": "R", "GAIN": 2.0, "DATE-OBS": "2026-11-01T20:00:00"})
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(3))])
    chips = [made.field(seed=number) + 1000 * np.float32(number) for number in (1, 2, 4)]
    header = made.tan_header()
    parts = [
        fits.PrimaryHDU(None, first),
        fits.ImageHDU(chips[0], header),
        fits.ImageHDU(chips[1], header),
        table,
        fits.CompImageHDU(chips[2], header, quantize_level=0, compression_type="GZIP_1"),
    ]
    fits.HDUList(parts).writeto(tmp_path / "image.fits")
    return tmp_path


def level_adu(folder: Path) -> float:
    with fits.open(folder / "image.fits") as hdus:
        assert len(hdus) == 1
        return float(np.median(hdus[0].data))


def again(folder: Path, **config: object) -> Inspection:
    """Inspect anew, with the image of the last inspection, as in a task."""
    shutil.move(folder / "work" / "image.fits", folder / "image.fits")
    return run_inspect(folder, **config)


@pytest.mark.parametrize(("ext", "chip"), [(1, 1), ("2", 2), (4, 4)])
def test_one_extension_is_taken(mosaic, ext, chip):
    expected = float(np.median(made.field(seed=chip) + 1000 * np.float32(chip)))
    result = run_inspect(mosaic, ext=ext)
    assert level_adu(result.work) == pytest.approx(expected, abs=0.01)
    assert (result.computed["filter"], result.computed["gain"]) == ("R", 2.0)
    assert (result.computed["field_ra"], result.computed["field_dec"]) == pytest.approx(made.CENTRE, abs=1e-6)
    assert result.says(f"extension {ext}")


def test_without_ext_the_file_stays(mosaic):
    result = run_inspect(mosaic)
    assert not (result.work / "image.fits").exists()


def test_it_can_be_inspected_again(mosaic):
    run_inspect(mosaic, ext=2)
    result = again(mosaic, ext=2)
    kept = level_adu(result.work)
    assert kept == pytest.approx(float(np.median(made.field(seed=2) + 2000)), abs=0.01)
    assert level_adu(again(mosaic).work) == kept  # the key was removed meanwhile


@pytest.mark.parametrize(
    ("ext", "words"), [(3, "Extension 3 has no two-dim"), (0, "no data"), (9, "no extension 9: its last one is 4")]
)
def test_what_cannot_be_taken(mosaic, ext, words):
    with pytest.raises(DataError, match=words):
        run_inspect(mosaic, ext=ext)


def test_another_extension_needs_the_whole_file(mosaic):
    run_inspect(mosaic, ext=1)
    with pytest.raises(DataError, match=r"Change ext to \d, or upload the whole file"):
        again(mosaic, ext=2)
