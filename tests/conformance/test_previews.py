"""Previews and cutouts."""

import io
from typing import Any

import httpx
import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image

from tests.conformance.conftest import MakeTask
from tests.support.conformance import COLUMNS, ROWS, Site, check_error, check_ok, fits_bytes, needs, scene


def picture(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    image: Image.Image = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == f"image/{(image.format or '').lower()}"
    image.load()
    return image


def pixels(answer: httpx.Response) -> NDArray[np.uint8]:
    """Red, green, blue, alpha; the top row first."""
    return np.asarray(picture(answer).convert("RGBA"))


@pytest.fixture
def ask(owner: httpx.Client, kept: dict[str, Any]) -> Any:
    return lambda path="image.fits", **query: owner.get(f"/tasks/{kept['id']}/preview/{path}", params=query)


def put(api: httpx.Client, task_id: int, name: str, content: bytes) -> None:
    check_ok(api.post(f"/tasks/{task_id}/files/{name}", files={"file": ("x", content)}), 201)


def test_default_is_a_jpeg_800_pixels_wide(ask: Any) -> None:
    image = picture(ask())
    assert (image.format, image.size) == ("JPEG", (800, 600))


def test_format_png(ask: Any) -> None:
    assert picture(ask(format="png")).format == "PNG"
    assert picture(ask(format="jpeg")).format == "JPEG"


def test_format_never_takes_part_in_content_negotiation(owner: httpx.Client, kept: dict[str, Any]) -> None:
    path = f"/tasks/{kept['id']}/preview/image.fits"
    for accept in ("image/jpeg", "application/json", "text/html"):
        assert picture(owner.get(path, params={"format": "png"}, headers={"Accept": accept})).format == "PNG"


@pytest.mark.parametrize("width", [16, 17, 33, 64, 65, 333, 1024, 2000])
def test_exactly_width_pixels_wide_enlarged_if_the_image_is_smaller(ask: Any, width: int) -> None:
    image = picture(ask(width=width))
    assert image.width == width
    assert abs(image.height - width * ROWS / COLUMNS) <= 1


def test_the_widest_picture_is_8192_pixels_wide(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(fits_bytes(scene()[:2]))["id"]
    assert picture(owner.get(f"/tasks/{task_id}/preview/image.fits", params={"width": 8192})).size == (8192, 256)


def test_row_0_is_at_the_bottom(ask: Any) -> None:
    seen = pixels(ask(width=COLUMNS, format="png", cmap="gray"))[..., 0].astype(float)
    block = np.zeros((ROWS, COLUMNS), bool)
    block[4:12, 6:20] = True
    assert seen[block[::-1]].min() > 200
    assert np.median(seen[~block[::-1]]) < 100


def test_height_is_at_most_16384(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(fits_bytes(np.arange(9000, dtype=np.float32).reshape(3000, 3)))["id"]
    image = picture(owner.get(f"/tasks/{task_id}/preview/image.fits", params={"width": 64}))
    assert (image.width, image.height) == (64, 16384)


def test_quality_makes_a_jpeg_smaller_or_larger(ask: Any) -> None:
    sizes = [len(ask(quality=quality).content) for quality in (1, 80, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    assert ask(quality=80).content == ask().content


@pytest.mark.parametrize("cmap", ["Blues_r", "gray", "viridis", "hot", "tab20", "nipy_spectral", "RdBu_r", "turbo_r"])
def test_cmap_names_of_matplotlib(ask: Any, cmap: str) -> None:
    from matplotlib import colormaps

    seen = pixels(ask(width=COLUMNS, format="png", cmap=cmap, qmin=0, qmax=100))
    expected = (colormaps[cmap](1.0), colormaps[cmap](0.0))
    brightest, faintest = np.unravel_index([np.argmax(scene()), np.argmin(scene())], scene().shape)[0:2]
    for index, colour in enumerate(expected):
        row, column = (brightest[index], faintest[index])
        np.testing.assert_allclose(seen[ROWS - 1 - row, column, :3], np.multiply(colour[:3], 255), atol=3)


def test_default_cmap_is_blues_r(ask: Any) -> None:
    assert ask(format="png").content == ask(format="png", cmap="Blues_r").content


@pytest.mark.parametrize("stretch", ["linear", "log", "sqrt", "asinh"])
def test_stretch(ask: Any, stretch: str) -> None:
    seen = pixels(ask(width=COLUMNS, format="png", cmap="gray", stretch=stretch, qmin=0, qmax=100))[::-1, :, 0]
    values = scene()
    order = np.argsort(values, axis=None)
    # every stretch is monotonic, and reaches both ends
    assert (np.diff(seen.reshape(-1)[order].astype(int)) >= -1).all()
    assert seen.max() > 250
    assert seen.min() < 5
    if stretch == "linear":
        expected = (values - values.min()) / (values.max() - values.min()) * 255
        np.testing.assert_allclose(seen, expected, atol=2)
    else:
        linear = pixels(ask(width=COLUMNS, format="png", cmap="gray", qmin=0, qmax=100))[::-1, :, 0]
        assert seen.mean() > linear.mean() + 5  # faint things are lifted


def test_qmin_and_qmax_are_percentiles_of_the_colours_ends(ask: Any) -> None:
    seen = pixels(ask(width=COLUMNS, format="png", cmap="gray", qmin=20, qmax=70))[::-1, :, 0]
    low, high = np.percentile(scene(), [20, 70])
    assert seen[scene() <= low - 0.5].max() <= 3
    assert seen[scene() >= high + 0.5].min() >= 252


def test_r0_smooths(ask: Any) -> None:
    rough = pixels(ask(width=COLUMNS, format="png", cmap="gray", qmin=0, qmax=100)).astype(float)[:20, 30:, 0]
    smooth = pixels(ask(width=COLUMNS, format="png", cmap="gray", qmin=0, qmax=100, r0=2)).astype(float)[:20, 30:, 0]
    assert smooth.std() < rough.std() or smooth.std() < 15
    assert np.abs(np.diff(smooth, axis=1)).mean() < np.abs(np.diff(rough, axis=1)).mean() * 1.5


def test_ext_picks_an_extension_and_the_last_image_by_default(owner: httpx.Client, make_task: MakeTask) -> None:
    first, second = scene(), scene()[:16]
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(5.0))])
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(first), fits.ImageHDU(second), table]).writeto(buffer)
    task_id = make_task(buffer.getvalue())["id"]
    heights = {
        ext: picture(owner.get(f"/tasks/{task_id}/preview/image.fits", params={"width": 640, **query})).height
        for ext, query in {"0": {"ext": 0}, "1": {"ext": 1}, "-1": {"ext": -1}, "none": {}}.items()
    }
    assert heights == {"0": 480, "1": 160, "-1": 160, "none": 160}
    for ext in (2, 3, 900):
        check_error(owner.get(f"/tasks/{task_id}/preview/image.fits", params={"ext": ext}), 400, "ext")


BAD = [
    *(("width", value) for value in ("15", "8193", "0", "-5", "x", "1.5", "", "1e3", "nan", "9" * 30)),
    *(("format", value) for value in ("gif", "", "PNG", "json", "api")),
    *(("quality", value) for value in ("0", "101", "x", "")),
    *(("ext", value) for value in ("-2", "x", "1.5", "99999999999999999999")),
    *(("cmap", value) for value in ("no_such_map", "", "../x", "a" * 100, "Blues_r\0")),
    *(("stretch", value) for value in ("cubic", "", "Linear")),
    *(("qmin", value) for value in ("-1", "101", "x", "nan", "inf")),
    *(("qmax", value) for value in ("-1", "101", "x", "nan", "0.1")),
    *(("r0", value) for value in ("-1", "x", "nan", "inf", "1e9")),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_400_that_names_the_parameter(ask: Any, name: str, value: str) -> None:
    check_error(ask(**{name: value}), 400, name)


def test_several_bad_values_are_all_named(ask: Any) -> None:
    check_error(ask(width=3, quality=0, stretch="x"), 400, "width", "quality", "stretch")


def test_equal_qmin_and_qmax_are_400(ask: Any) -> None:
    check_error(ask(qmin=50, qmax=50), 400, "qmax")


def test_unknown_parameters_are_ignored(ask: Any) -> None:
    assert ask(colour="red", _="123").content == ask().content


@pytest.mark.parametrize("path", ["notes.txt", "deep/er/notes.txt"])
def test_not_an_image_is_400(ask: Any, path: str) -> None:
    check_error(ask(path), 400)


def test_fits_without_an_image_is_400(owner: httpx.Client, make_task: MakeTask) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(5.0))])
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(buffer)
    contents = {
        "table": buffer.getvalue(),
        "cut off": fits_bytes(scene())[:4000],
        "declares too much": fits_bytes(scene()).replace(
            b"NAXIS1  =                   64", b"NAXIS1  =           2000000064"
        ),
        "empty": b"",
        "only a header": fits_bytes(scene())[:2880],
    }
    for what, content in contents.items():
        task_id = make_task(content)["id"]
        answer = owner.get(f"/tasks/{task_id}/preview/image.fits")
        assert answer.status_code == 400, f"{what}: {answer.text[:200]}"
        check_error(answer, 400)


def test_a_missing_file_is_404(ask: Any) -> None:
    check_error(ask("nothing.fits"), 404)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_any_bitpix(owner: httpx.Client, make_task: MakeTask, kind: type) -> None:
    task_id = make_task(fits_bytes((scene() / 2).astype(kind)))["id"]
    seen = pixels(owner.get(f"/tasks/{task_id}/preview/image.fits", params={"width": COLUMNS, "format": "png"}))
    assert seen.shape == (ROWS, COLUMNS, 4)
    assert seen[ROWS - 8, 12].astype(int).sum() > seen[5, 50].astype(int).sum() + 100


def test_tile_compressed_images_and_cubes(owner: httpx.Client, make_task: MakeTask) -> None:
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(scene().astype(np.int16))]).writeto(buffer)
    for content in (buffer.getvalue(), fits_bytes(np.stack([scene()] * 3))):
        task_id = make_task(content)["id"]
        image = picture(owner.get(f"/tasks/{task_id}/preview/image.fits", params={"width": 640}))
        assert image.size == (640, 480)


def test_non_finite_pixels_are_transparent_in_png_and_white_in_jpeg(owner: httpx.Client, make_task: MakeTask) -> None:
    image = scene()
    image[30:40, 40:60] = np.nan
    image[20:25, 40:60] = np.inf
    task_id = make_task(fits_bytes(image))["id"]
    path = f"/tasks/{task_id}/preview/image.fits"
    seen = pixels(owner.get(path, params={"width": COLUMNS, "format": "png"}))[::-1]
    np.testing.assert_array_equal(seen[..., 3] == 0, ~np.isfinite(image))
    jpeg = pixels(owner.get(path, params={"width": COLUMNS, "format": "jpeg", "quality": 100, "cmap": "hot"}))[::-1]
    assert jpeg[32:38, 44:56, :3].min() > 240
    assert jpeg[20:25, 0:30, :3].mean() < 200


def test_custom_mask_is_applied_to_image_fits_only(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(fits_bytes(scene()))["id"]
    path = f"/tasks/{task_id}/preview/"
    query = {"width": COLUMNS, "format": "png"}
    before = owner.get(path + "image.fits", params=query)
    assert (pixels(before)[..., 3] == 255).all()
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[10:20, 30:50] = 1
    put(owner, task_id, "custom_mask.fits", fits_bytes(mask))
    put(owner, task_id, "other.fits", fits_bytes(scene()))
    masked = owner.get(path + "image.fits", params=query)
    np.testing.assert_array_equal(pixels(masked)[::-1, :, 3] == 0, mask == 1)
    assert masked.headers["etag"] != before.headers["etag"]
    assert (pixels(owner.get(path + "other.fits", params=query))[..., 3] == 255).all()


def test_etag_and_if_none_match(owner: httpx.Client, kept: dict[str, Any]) -> None:
    path = f"/tasks/{kept['id']}/preview/image.fits"
    tags = {owner.get(path, params=query).headers["etag"] for query in ({}, {"width": 300}, {"stretch": "log"}, {})}
    assert len(tags) == 3
    tag = owner.get(path).headers["etag"]
    answer = owner.get(path, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)


def test_a_new_image_gives_a_new_picture(owner: httpx.Client, make_task: MakeTask) -> None:
    task_id = make_task(fits_bytes(scene()))["id"]
    path = f"/tasks/{task_id}/preview/image.fits"
    first = owner.get(path)
    put(owner, task_id, "image.fits", fits_bytes(scene()[::-1].copy()))
    second = owner.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.content != first.content


@pytest.mark.parametrize("name", ["image.fits", "mask.fits", "segmentation.fits", "filtered.fits", "image_target.fits"])
def test_every_image_of_a_processed_task(owner: httpx.Client, processed: dict[str, Any], name: str) -> None:
    image = picture(owner.get(f"/tasks/{processed['id']}/preview/{name}", params={"width": 512, "format": "png"}))
    assert image.width == 512


def cutout_of(api: httpx.Client, task: dict[str, Any]) -> str:
    rows = check_ok(api.get(f"/tasks/{task['id']}/files/targets/"))
    return str(next(row["path"] for row in rows if row["name"].endswith(".cutout")))


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_cutout_panels_of_a_target(owner: httpx.Client, processed: dict[str, Any], format: str) -> None:
    path = f"/tasks/{processed['id']}/cutout/{cutout_of(owner, processed)}"
    image = picture(owner.get(path, params={"format": format, "width": 600}))
    assert (image.format, image.width) == (format.upper(), 600)
    assert 100 < image.height < 600  # several panels side by side
    answer = owner.get(path)
    assert picture(answer).size[0] == 800
    assert owner.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(("name", "value"), [row for row in BAD if row[0] in {"width", "format", "quality"}])
def test_a_bad_value_of_a_cutout_is_400_that_names_it(
    owner: httpx.Client, processed: dict[str, Any], name: str, value: str
) -> None:
    path = f"/tasks/{processed['id']}/cutout/{cutout_of(owner, processed)}"
    check_error(owner.get(path, params={name: value}), 400, name)


@pytest.mark.parametrize("name", ["image.fits", "notes.txt"])
def test_what_is_no_cutout_is_400(owner: httpx.Client, kept: dict[str, Any], name: str) -> None:
    check_error(owner.get(f"/tasks/{kept['id']}/cutout/{name}"), 400)


def test_a_missing_cutout_is_404(owner: httpx.Client, kept: dict[str, Any]) -> None:
    check_error(owner.get(f"/tasks/{kept['id']}/cutout/nothing.cutout"), 404)


@pytest.mark.parametrize("slash", ["", "/"])
def test_preview_of_a_file_of_the_shared_data_directory(owner: httpx.Client, site: Site, slash: str) -> None:
    path = f"/files/{site.data_file or needs('DATA_FILE')}/preview{slash}"
    image = picture(owner.get(path, params={"width": 320, "format": "png", "ext": 0, "stretch": "log"}))
    assert (image.format, image.width) == ("PNG", 320)
    check_error(owner.get(path, params={"width": 3}), 400, "width")
    tag = owner.get(path).headers["etag"]
    assert owner.get(path, headers={"If-None-Match": tag}).status_code == 304
