"""The driver of the HOTPANTS program, against a stand-in that records what it is asked and writes real FITS."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.errors import InternalError, UsageError
from shared.science.difference import Options, Pair, hotpants_options, subtract
from tests.support.difference import Field, Shape, Sky, make_field

STAND_IN = """#!{python}
import json, sys
words = sys.argv[1:]
given = {{}}
for word in words:
    if word.startswith("-") and not word[1:2].isdigit():
        given[word[1:]] = values = []
    else:
        values.append(word)
json.dump({{"argv": words, "given": given}}, open({record!r}, "w"))
mode = {mode!r}
if mode == "fail":
    sys.exit(3)
if mode == "nothing":
    sys.exit()
if int(given["rss"][0]) < int(given["r"][0]):
    sys.exit("FATAL ERROR rss < r : conflicting requests")
import numpy as np
from astropy.io import fits
image, template = (fits.getdata(given[name][0]).astype("f4") for name in ("inim", "tmplim"))
noise, other = (fits.getdata(given[name][0]).astype("f4") for name in ("ini", "tni"))
bad = (fits.getdata(given["imi"][0]) > 0) | (fits.getdata(given["tmi"][0]) > 0)
stars = np.loadtxt(given["ssf"][0], ndmin=2)
assert (image[(stars[:, 1] - 1).astype(int), (stars[:, 0] - 1).astype(int)] > 0).all()
at = (stars[:, 1] - 1).astype(int), (stars[:, 0] - 1).astype(int)
scale = float(np.median(image[at] / template[at]))
side = given.get("c", ["i"])[0]
if side == "i":
    # normalised to the image (-n i), as the template is
    conv, diff = image, image - template * scale
else:
    conv = template * scale
    diff = image - conv
sigma = np.hypot(noise, scale * other)
diff[bad] = float(given["fi"][0])
header = fits.Header()
# as the program writes it: text
header["KSUM00"] = f"{{scale if side == 't' else 1 / scale:.4f}}" if mode != "nokernel" else "0.0000"
header["CONVOL00"] = "TEMPLATE" if side == "t" else "IMAGE"
planes = [diff, conv, diff / sigma, sigma][: 2 if mode == "short" else 4]
hdus = [fits.PrimaryHDU(planes[0], header), *(fits.ImageHDU(plane) for plane in planes[1:])]
fits.HDUList(hdus).writeto(given["outim"][0])
"""


@pytest.fixture(scope="module")
def same() -> Field:
    """Stars of one width in both, so that the stand-in needs no kernel."""
    shape = Shape(3.0)
    return make_field(Sky(shape), Sky(shape, level=50, gain=20), size=160, stars=50, transients=4, seed=11)


def stand_in(folder: Path, mode: str = "") -> Path:
    program = folder / "hotpants"
    program.write_text(STAND_IN.format(python=sys.executable, record=str(folder / "record.json"), mode=mode))
    program.chmod(0o755)
    return program


def run(folder: Path, pair: Pair, extra: dict[str, object] | None = None, mode: str = "") -> tuple[object, dict]:
    work = folder / "work"
    work.mkdir()
    options = Options(hotpants_options(extra or {}), program=str(stand_in(folder, mode)), work=work)
    try:
        found = subtract("hotpants", pair, options)
    finally:
        assert list(work.iterdir()) == []
    return found, json.loads((folder / "record.json").read_text())


def test_result_comes_back(tmp_path: Path, same: Field) -> None:
    mask = np.zeros(same.pair.image.shape, bool)
    mask[5:9, 5:9] = True
    found, record = run(tmp_path, replace(same.pair, mask=mask))
    assert found.scale == pytest.approx(0.25, rel=0.02)
    assert found.convolved_side == "template"
    assert found.mask[mask].all()
    assert (found.difference[mask] == 0).all()
    quiet = found.significance[same.quiet & ~mask]
    assert 0.85 < quiet.std() < 1.1  # the noise that the program was given, of a crowded little field
    x, y, flux = same.transients[0]
    box = slice(round(y) - 8, round(y) + 9), slice(round(x) - 8, round(x) + 9)
    assert found.difference[box].sum() == pytest.approx(flux, rel=0.1)
    assert record["given"]["c"] == ["t"]
    assert record["given"]["allm"] == []


def test_arguments_are_a_list_of_known_words(tmp_path: Path, same: Field) -> None:
    extra = {"ko": 2, "bgo": 1, "nrx": 2, "nsy": 7, "nss": 4, "r": 9, "rss": 14, "kcs": 19, "ft": 15.5, "sft": 0.4}
    extra |= {"nft": 0.2, "ssig": 3.5, "ks": 2.5, "kfm": 0.95, "ng": [2, 4, 0.8, 2, 2.25], "c": "i", "n": "t"}
    extra |= {"okn": True, "fi": -5, "fin": 3}
    found, record = run(tmp_path, same.pair, extra)
    given = record["given"]
    expected = {"ko": 2, "bgo": 1, "nrx": 2, "nry": 1, "nsx": 10, "nsy": 7, "nss": 4, "r": 9, "rss": 14, "kcs": 19}
    expected |= {"ft": 15.5, "sft": 0.4, "nft": 0.2, "ssig": 3.5, "ks": 2.5, "kfm": 0.95, "ig": 1.5}
    assert {name: float(given[name][0]) for name in expected} == expected
    assert given["ng"] == ["2", "4", "0.8", "2", "2.25"]
    assert given["c"] == ["i"]
    assert given["n"] == ["i"]  # the zero point is always that of the image
    assert "okn" not in given
    assert "fin" not in given
    files = {name: value[0] for name, value in given.items() if value and value[0].endswith((".fits", ".xy"))}
    assert files == {
        "inim": "image.fits",
        "tmplim": "template.fits",
        "outim": "difference.fits",
        "imi": "image_mask.fits",
        "tmi": "template_mask.fits",
        "ini": "image_noise.fits",
        "tni": "template_noise.fits",
        "ssf": "stars.xy",
    }
    assert 0.95 < found.significance[same.quiet].std() < 1.05


def test_program_may_choose_the_side(tmp_path: Path, same: Field) -> None:
    found, record = run(tmp_path, same.pair, {"c": "u"})
    assert "c" not in record["given"]
    assert record["given"]["sconv"] == []  # the same one in all regions
    # the stand-in takes the image: what was subtracted is the template all the same
    assert found.convolved_side == "image"
    assert found.scale == pytest.approx(0.25, rel=0.02)
    good = ~found.mask
    subtracted = found.scale * (same.pair.template - np.median(same.pair.template))
    assert np.median(np.abs(found.convolved - subtracted)[good]) < 0.1 * np.median(found.noise[good])


def test_pieces_are_not_smaller_than_the_kernel(tmp_path: Path, same: Field) -> None:
    _, record = run(tmp_path, same.pair, {"rss": 5, "r": 9})
    assert record["given"]["rss"] == ["9"]


def test_scale_keeps_its_digits(tmp_path: Path, same: Field) -> None:
    # the program writes sums of kernels with four digits behind the point
    factor = np.float32(4000)
    pair = replace(same.pair, template=same.pair.template * factor, template_gain=same.pair.template_gain / factor)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    plain, _ = run(tmp_path / "one", same.pair)
    found, _ = run(tmp_path / "other", pair)
    assert found.scale * factor == pytest.approx(plain.scale, rel=1e-3)
    assert found.noise == pytest.approx(plain.noise, rel=1e-3)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("fail", "failed with status 3"),
        ("nothing", "left no difference"),
        ("short", "incomplete"),
        ("nokernel", "no usable kernel"),
    ],
)
def test_failures_are_typed(mode: str, text: str, tmp_path: Path, same: Field) -> None:
    with pytest.raises(InternalError, match=text):
        run(tmp_path, same.pair, mode=mode)


def test_needs_a_folder(same: Field, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder"):
        subtract("hotpants", same.pair, Options(program=str(stand_in(tmp_path))))
