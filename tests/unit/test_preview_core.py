"""Pictures are what `stdpipe.plots.imshow` shows, of every kind of FITS file."""

import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from astropy.io import fits
from astropy.visualization import AsinhStretch, ImageNormalize, LogStretch, SqrtStretch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from stdpipe import plots

from services.preview.core import Plane, choose, render_image, walk
from services.preview.core.area import resample
from services.preview.core.colours import table_of
from services.preview.core.levels import levels
from services.preview.core.rice import RiceTiles
from services.preview.core.smooth import smooth
from services.preview.files import Volume
from shared.contracts.preview import PreviewOptions
from shared.errors import DataError, StepError, UsageError
from tests.support.previews import COLUMNS, ROWS, mapped, pixels, plane_of, png, scene, write

STRETCHES = {"log": LogStretch(1000), "sqrt": SqrtStretch(), "asinh": AsinhStretch(0.1)}


def imshow(image: NDArray, stretch: str, **options: object) -> NDArray[np.uint8]:
    """Draw on a figure that is as large as the image, without axes."""
    rows, columns = image.shape
    figure = Figure(dpi=100, figsize=(columns / 100, rows / 100))
    axes = figure.add_axes((0, 0, 1, 1))
    bare = {"ax": axes, "origin": "lower", "show_axis": False, "show_colorbar": False, "interpolation": "nearest"}
    if stretch == "linear":
        plots.imshow(image, **bare, **options)
    else:  # stdpipe's own call of astropy fails: what it means
        vmin, vmax = np.nanpercentile(image, options.pop("qq"))
        axes.imshow(
            image,
            origin="lower",
            interpolation="nearest",
            norm=ImageNormalize(vmin=vmin, vmax=vmax, stretch=STRETCHES[stretch]),
            **options,
        )
        axes.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize("stretch", ["linear", *STRETCHES])
@pytest.mark.parametrize("cmap", ["Blues_r", "twilight", "tab10"])
def test_at_equal_scale_it_is_what_imshow_shows(stretch: str, cmap: str) -> None:
    image = scene()
    wanted = imshow(image, stretch, cmap=cmap, qq=[1, 99])
    seen = pixels(render_image(Plane(image), png(width=COLUMNS, stretch=stretch, cmap=cmap, qmin=1, qmax=99)))
    assert seen.shape == wanted.shape
    apart = np.abs(seen.astype(int) - wanted).max(axis=-1)
    # a rounding of the last digit may give the next colour, of 10 or of hundreds
    assert np.mean(apart > 0) < 0.002
    assert np.percentile(apart, 99.8) == 0


def test_a_smoothed_picture_is_what_imshow_shows() -> None:
    image = scene()
    wanted = imshow(image, "linear", cmap="gray", qq=[1, 99], r0=1.5)
    seen = pixels(render_image(Plane(image), png(width=COLUMNS, cmap="gray", qmin=1, qmax=99, r0=1.5)))
    assert np.abs(seen.astype(int) - wanted)[5:-5, 5:-5].max() <= 2  # of 255


def test_every_colour_map_of_matplotlib_is_known_and_no_other() -> None:
    for name in mpl.colormaps:
        assert len(table_of(name)) == mpl.colormaps[name].N + 1
        assert PreviewOptions(cmap=name).cmap == name
    with pytest.raises(UsageError, match="no colour map 'Bluess'") as caught:
        render_image(Plane(scene()), png(cmap="Bluess"))
    assert caught.value.details["parameter"] == "cmap"


@pytest.mark.parametrize(("width", "height"), [(60, 40), (800, 533), (16, 11), (123, 82)])
def test_a_picture_is_exactly_as_wide_as_asked_and_row_0_is_at_the_bottom(width: int, height: int) -> None:
    seen = pixels(render_image(Plane(scene()), png(width=width, cmap="gray")))
    assert seen.shape == (height, width, 4)
    bright = seen[int(height * (1 - 7 / ROWS)), int(width * 7 / COLUMNS)]
    assert bright.min() > 230
    assert seen[int(height * 7 / ROWS), int(width * 7 / COLUMNS), 0] < 128


@pytest.mark.parametrize(("shape", "height"), [((3000, 1), 16384), ((1, 3000), 1), ((1, 1), 16)])
def test_the_height_is_bounded(shape: tuple[int, int], height: int) -> None:
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert pixels(render_image(Plane(image), png(width=16))).shape[:2] == (height, 16)


def test_means_over_areas_are_exact() -> None:
    image = np.random.default_rng(1).normal(1e4, 10, (77, 103)).astype(np.float32)
    fine = np.repeat(np.repeat(image.astype(float), 40, 0), 30, 1)
    wanted = fine.reshape(40, 77, 30, 103).mean(axis=(1, 3))
    assert resample(Plane(image), 40, 30) == pytest.approx(wanted, rel=1e-6)
    assert np.array_equal(resample(Plane(image), 154, 309), np.repeat(np.repeat(image, 2, 0), 3, 1))


def test_pixels_without_value_take_no_part_and_are_clear_where_they_are_most() -> None:
    image = np.full((8, 8), 5, np.float32)
    image[0, 0], image[0, 1], image[4:6, 4:6] = np.nan, np.inf, -np.inf
    image[2, 2] = np.nan
    small = resample(Plane(image), 4, 4)
    assert np.isnan(small[2, 2])
    assert np.nansum(np.abs(small - 5)) == 0
    assert np.isnan(small).sum() == 1
    clear = pixels(render_image(Plane(image), png(width=16)))
    assert tuple(clear[-1, 0]) == (255, 255, 255, 0)
    assert (clear[..., 3] == 0).sum() == 7 * 4
    white = pixels(render_image(Plane(image), PreviewOptions(width=16, quality=100)))
    assert white[-1, 0].min() > 245


def test_a_mask_hides_pixels_whatever_their_values() -> None:
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[3:9, 4:14] = 7
    plane = Plane(scene(), mask=Plane(mask))
    seen = pixels(render_image(plane, png(width=COLUMNS)))
    assert np.array_equal(seen[::-1, :, 3] == 0, mask > 0)
    assert levels(plane, 0, 100, 0)[1] < 160
    hidden = resample(plane, ROWS // 2, COLUMNS // 2)
    assert hidden[~np.isnan(hidden)].max() < 160


@pytest.mark.parametrize("value", [0.0, 1e9, -3.5, np.nan])
def test_a_constant_image_has_one_colour(value: float) -> None:
    seen = pixels(render_image(Plane(np.full((20, 20), value, np.float64)), png(width=20)))
    assert len(np.unique(seen.reshape(-1, 4), axis=0)) == 1


def test_percentiles_of_a_large_image_are_those_of_all_pixels() -> None:
    image = np.random.default_rng(4).normal(1000, 10, (1500, 1500)).astype(np.float32)
    image[700, 700] = 1e6
    vmin, vmax = levels(Plane(image), 0.5, 99.5, 0)
    assert vmin == pytest.approx(1000 - 25.76, abs=1)
    assert vmax == pytest.approx(1000 + 25.76, abs=1)
    assert levels(Plane(image), 0, 100, 0) == (image.min(), 1e6)
    # smoothing over 2 pixels leaves 1/(2 √π 2) of the noise
    assert levels(Plane(image), 2, 98, 2.0)[0] == pytest.approx(1000 - 20.5 / 7.09, abs=0.3)


@pytest.mark.parametrize("sigma", [1.0, 20.0])
def test_smoothing_keeps_the_sum_and_spreads_as_a_gaussian(sigma: float) -> None:
    image = np.zeros((301, 301), np.float32)
    image[150, 150] = 1
    image[0, 0] = np.nan
    spread = smooth(image, sigma, sigma)
    rows = np.arange(301) - 150
    assert np.isnan(spread[0, 0])
    assert np.nansum(spread) == pytest.approx(1, abs=0.01)
    assert np.sqrt(np.nansum(spread * rows[:, None] ** 2)) == pytest.approx(sigma, rel=0.02)
    assert spread[150, 150] == pytest.approx(1 / (2 * np.pi * sigma**2), rel=0.05)


BITPIX = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@pytest.mark.parametrize("kind", BITPIX)
def test_every_type_of_pixels(kind: str, tmp_path: Path) -> None:
    image = (scene() / 4).astype(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(tmp_path / "a.fits", fits.PrimaryHDU(image))
    plane = plane_of(Volume(tmp_path / "v"), tmp_path / "a.fits")
    assert plane.take(slice(None), slice(None)) == pytest.approx(image.astype(float))
    assert resample(plane, ROWS, COLUMNS) == pytest.approx(image.astype(float))


@pytest.mark.parametrize("method", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1", "NOCOMPRESS"])
@pytest.mark.parametrize("kind", ["i2", "u2", "i4", "f4"])
def test_every_tile_compression(method: str, kind: str, tmp_path: Path) -> None:
    if method == "PLIO_1" and kind != "i2":
        kind = "i4"
    image = scene().astype(kind)
    hdu = fits.CompImageHDU(image, compression_type=method, quantize_level=64, tile_shape=(10, COLUMNS))
    write(tmp_path / "a.fits", fits.PrimaryHDU(), hdu)
    volume = Volume(tmp_path / "v")
    plane = plane_of(volume, tmp_path / "a.fits")
    assert resample(plane, ROWS, COLUMNS) == pytest.approx(image.astype(float), abs=0.2 if kind == "f4" else 0)
    (copy,) = volume.cache.folder.iterdir()
    made = copy.stat().st_mtime_ns
    plane_of(volume, tmp_path / "a.fits")
    assert copy.stat().st_mtime_ns == made


@pytest.mark.parametrize("dither", [-1, 1, 2])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("tile", [(1, COLUMNS), (7, 13), (ROWS, COLUMNS)])
def test_quantised_pixels_are_those_that_astropy_gives(dither: int, kind: str, tile: tuple, tmp_path: Path) -> None:
    image = scene().astype(kind) + np.random.default_rng(5).normal(0, 5, (ROWS, COLUMNS)).astype(kind)
    image[3, 4:9] = np.nan
    image[5, 5] = 0
    hdu = fits.CompImageHDU(image, compression_type="RICE_1", quantize_method=dither, dither_seed=17, tile_shape=tile)
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(), hdu)
    with fits.open(path, disable_image_compression=True) as hdus:
        assert RiceTiles(mapped(path), walk(mapped(path))[1], hdus[1]).usable
    seen = plane_of(Volume(tmp_path / "v"), path).take(slice(None), slice(None))
    assert np.array_equal(seen, fits.getdata(path), equal_nan=True)
    assert np.isnan(seen[3, 4:9]).all()


def test_compressed_integers_with_blanks_bytes_and_cubes(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "v")
    hdu = fits.CompImageHDU(scene().astype(np.int16), compression_type="RICE_1")
    hdu.header["BLANK"] = 400
    path = write(tmp_path / "blank.fits", fits.PrimaryHDU(), hdu)
    values = plane_of(volume, path).take(slice(None), slice(None))
    assert np.array_equal(np.isnan(values), scene() == 400)
    small = (scene() / 2).astype(np.uint8)
    path = write(tmp_path / "bytes.fits", fits.PrimaryHDU(), fits.CompImageHDU(small, compression_type="RICE_1"))
    assert np.array_equal(plane_of(volume, path).take(slice(None), slice(None)), small)
    cube = np.stack([scene(), scene() + 1])
    path = write(tmp_path / "cube.fits", fits.PrimaryHDU(), fits.CompImageHDU(cube, compression_type="GZIP_1"))
    assert plane_of(volume, path).take(slice(None), slice(None)) == pytest.approx(scene(), abs=2)


def test_scaled_integers_with_blanks(tmp_path: Path) -> None:
    stored = np.arange(600, dtype=np.int16).reshape(20, 30)
    hdu = fits.PrimaryHDU(stored)
    hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = 0.5, 1000.0, 7
    path = write(tmp_path / "a.fits", hdu)
    # astropy writes physical values: put the stored ones back
    content = bytearray(path.read_bytes())
    content[2880 : 2880 + 1200] = stored.astype(">i2").tobytes()
    for name, value in (("BSCALE", "0.5D0"), ("BZERO", "1000.0"), ("BLANK", "7")):
        if f"{name:<8}=".encode() not in content[:2880]:
            end = content.index(b"END     ")
            content[end : end + 160] = f"{name:<8}= {value:>20}".ljust(80).encode() + b"END".ljust(80)
    path.write_bytes(content)
    values = resample(plane_of(Volume(tmp_path / "v"), path), 20, 30)
    wanted = 1000 + 0.5 * stored.astype(float)
    wanted[0, 7] = np.nan
    assert values == pytest.approx(wanted, nan_ok=True)
    assert levels(replace(Plane(stored), bscale=-1.0), 0, 100, 0) == (-599, 0)


def test_cubes_extensions_and_tables(tmp_path: Path) -> None:
    cube = np.stack([scene(), np.zeros((ROWS, COLUMNS), np.float32)])
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(3.0))])
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(scene() + 1), fits.ImageHDU(cube, name="SCI"), table)
    volume = Volume(tmp_path / "v")
    for ext, more in ((-1, 0), (1, 0), (0, 1)):
        assert np.array_equal(plane_of(volume, path, ext).take(slice(None), slice(None)), scene() + more)
    with pytest.raises(UsageError, match=r"no extension 3.*0 to 2"):
        plane_of(volume, path, 3)
    with pytest.raises(DataError, match=r"Extension 2 .* a table.* image: 0, 1") as caught:
        plane_of(volume, path, 2)
    assert caught.value.details["parameter"] == "ext"


def header(*cards: str) -> bytes:
    return "".join(card.ljust(80) for card in (*cards, "END")).encode().ljust(2880)


def simple(bitpix: object, *lengths: object) -> bytes:
    axes = [f"NAXIS{number + 1:<3}= {length:>20}" for number, length in enumerate(lengths)]
    return header("SIMPLE  =                    T", f"BITPIX  = {bitpix:>20}", f"NAXIS   = {len(lengths):>20}", *axes)


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"hello, world" * 500, "is not a FITS file"),
    "no end": (b"SIMPLE  =                    T".ljust(2880), "header of the file is damaged"),
    "negative": (simple(16, -5, 5) + b"\0" * 2880, "header of the file is damaged"),
    "type": (simple(17, 5, 5) + b"\0" * 2880, "header of the file is damaged"),
    "cut off": (simple(-32, 1000, 1000) + b"\0" * 2880, "declares 4,000,000 bytes of pixels, the file holds 2,880"),
    "bomb": (simple(8, 2**40, 2**40), "more than the 450 million"),
    "axes": (simple(8, *[2**60] * 30), "more than the 450 million"),
    "no axes": (simple(8), "it holds no data"),
    "a row": (simple(8, 100) + b"\0" * 2880, "a row of 100 values"),
    "zero": (simple(8, 100, 0), "it holds no data"),
    "damaged gzip": (b"\x1f\x8b\x08\x00" + b"x" * 100, "compressed file is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_words(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    with pytest.raises(StepError, match=message) as caught:
        plane_of(Volume(tmp_path / "v"), path)
    assert caught.value.details["parameter"] == "path"
    assert list((tmp_path / "v" / "cache" / "preview").iterdir()) == []


def test_what_follows_a_damaged_extension_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(scene()), fits.ImageHDU(scene()))
    content = path.read_bytes()
    first = len(content) // 2
    path.write_bytes(content[:first] + b"XTENSION= 'IMAGE   '".ljust(80) + b"BITPIX  = junk".ljust(2800))
    parts = walk(mapped(path))
    assert [part.number for part in parts] == [0]
    assert choose(parts, -1, len(content)).shape == (ROWS, COLUMNS)
