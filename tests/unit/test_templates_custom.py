"""The template that the user brings: used with whatever scale, parity and rotation, or refused in one sentence."""

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from shared.errors import DataError, UsageError
from shared.science.templates import CustomTemplate, Template, get_template
from shared.science.templates.pieces import read_bad
from shared.worker.step import Resources
from tests.support.reprojection import Grid, tan

SHAPE = (256, 256)
TARGET = tan(1.0, SHAPE)
FLUX = 5e4
NOISE = 5.0


def field(scale: float = 0.8, noise: float = NOISE, **options: object) -> tuple[np.ndarray, fits.Header]:
    shape = (int(390 / scale), int(390 / scale))
    wcs = tan(scale, shape, **options)
    drawn = Grid.on(TARGET, SHAPE, spacing_pix=32).draw(wcs, shape, 3.0 / scale, FLUX)
    rng = np.random.default_rng(1)
    return (drawn + rng.normal(100, noise, shape)).astype(np.float32), wcs.to_header()


class Task:
    """A task's folder with a custom template in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []

    def put(self, image: np.ndarray, header: fits.Header | None = None, name: str = "custom_template.fits") -> Path:
        fits.PrimaryHDU(image, header).writeto(self.folder / name)
        return self.folder / name

    def get(self, path: Path | None, band: str = "r", fwhm_pix: float | None = None, **options: object) -> Template:
        return get_template(
            "custom",
            band,
            TARGET,
            SHAPE,
            resources=Resources(cache_dir=self.folder / "cache"),
            log=lambda *words: self.lines.append(" ".join(map(str, words))),
            custom=CustomTemplate(path, **options),
            fwhm_pix=fwhm_pix,
        )


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(tmp_path)


@pytest.mark.parametrize(
    "options", [{}, {"scale": 0.4}, {"scale": 1.4}, {"flipped": True, "rotation_deg": 40.0, "scale": 1.0}]
)
def test_stars_are_where_the_image_has_them_with_their_flux(task, options):
    template = task.get(task.put(*field(noise=0.5, **options)), fwhm_pix=3.0)
    assert template.coverage == 1.0
    assert not template.mask.any()
    stars = Grid.on(TARGET, SHAPE, spacing_pix=32)
    flux, offset_pix = stars.measure(template.image - np.median(template.image), radius_pix=8.0)
    np.testing.assert_allclose(np.median(flux), FLUX, rtol=0.002)
    assert np.median(offset_pix) < 0.02
    assert (template.gain, template.saturation, template.source, template.band) == (10000, None, "custom", "r")


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.4])
def test_fwhm_is_in_pixels_of_the_image(task, scale):
    template = task.get(task.put(*field(scale=scale, noise=20.0)))
    # twice the half-light radius of a Gaussian is its FWHM
    assert template.fwhm_pix == pytest.approx(3.0, abs=0.2)


def test_gain_saturation_and_fwhm_are_those_that_were_asked_for(task):
    image, header = field(scale=0.5)
    stars = np.argwhere(image > 900)
    template = task.get(task.put(image, header), gain=3.0, saturation=900.0, fwhm_pix=4.5)
    assert (template.gain, template.fwhm_pix) == (3.0, 4.5)
    assert template.saturation == pytest.approx(900 * 4, rel=1e-3)  # four pixels of the template in one of the image
    assert len(stars) > 0
    assert template.mask.any()
    # no pixel that a saturated one went into is left
    assert template.image[~template.mask].max() < 900 * 4


def test_the_mask_of_the_template_is_carried_over(task):
    image, header = field()
    bad = np.zeros(image.shape, np.uint8)
    bad[240:250, 140:160] = 1
    mask_path = task.put(bad, name="custom_template_mask.fits")
    template = task.get(task.put(image, header), mask_path=mask_path)
    assert 10 * 20 * 0.8**2 < template.mask.sum() < 16 * 26 * 0.8**2
    x, y = TARGET.all_world2pix(*tan(0.8, image.shape).all_pix2world(150, 245, 0), 0)
    assert template.mask[round(float(y)), round(float(x))]
    assert f"{100 * template.coverage:.1f} % of the image has a usable template" in task.lines[0]


def test_a_part_of_the_image_without_template_is_masked(task):
    image, header = field()
    header["CRVAL2"] += 150 / 3600
    template = task.get(task.put(image, header))
    assert 0.6 < template.coverage < 0.8
    assert template.mask[:70].all()
    assert np.isnan(template.image[:70]).all()


def test_another_band_is_a_warning(task):
    image, header = field()
    header["FILTER"] = "sdssg"
    task.get(task.put(image, header), band="R")
    assert task.lines[0].startswith("Warning: custom_template.fits is in g, the image in R")


def test_without_a_file(task):
    with pytest.raises(UsageError, match=r"The task has no custom_template.fits. Upload it"):
        task.get(None)


def test_not_fits(task):
    path = task.folder / "custom_template.fits"
    path.write_text("<html>")
    with pytest.raises(DataError, match=r"custom_template.fits cannot be used. It is not a FITS file"):
        task.get(path)


def test_truncated(task):
    path = task.put(*field())
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"custom_template.fits cannot be used. It is truncated"):
        task.get(path)


def test_without_wcs(task):
    with pytest.raises(DataError, match=r"custom_template.fits has no usable WCS") as caught:
        task.get(task.put(field()[0]))
    assert caught.value.code == "no_template_wcs"


@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(151.0, 35.0), (330.0, -35.0)])
def test_elsewhere(task, ra_deg, dec_deg):
    image, header = field()
    header["CRVAL1"], header["CRVAL2"] = ra_deg, dec_deg
    there = re.escape(f"(around RA {ra_deg:.4f}, Dec {dec_deg:+.4f}")
    with pytest.raises(UsageError, match=rf"{there}.*image \(around RA 150.0000, Dec \+35.0000"):
        task.get(task.put(image, header))


def test_nothing_but_bad_pixels(task):
    image, header = field()
    with pytest.raises(UsageError, match="no usable pixel on the image"):
        task.get(task.put(image, header), saturation=1.0)


def test_a_mask_of_another_size(task):
    mask_path = task.put(np.zeros((10, 10), np.uint8), name="custom_template_mask.fits")
    with pytest.raises(DataError, match=r"custom_template_mask.fits and custom_template.fits have different sizes"):
        task.get(task.put(*field()), mask_path=mask_path)


def test_without_a_star_the_fwhm_must_be_given(task):
    _, header = field()
    path = task.put(np.full((487, 487), 100, np.float32), header)
    with pytest.raises(UsageError, match="Set template_fwhm_override"):
        task.get(path)
    assert task.get(path, fwhm_pix=3.0).fwhm_pix == 3.0


def test_asinh_scaling_is_undone(task):
    image, header = field(scale=1.0)
    coded = 2.5 * np.log10(np.e) * np.arcsinh((image - 5.0) / (2 * 30.0))
    header["BSOFTEN"], header["BOFFSET"] = 30.0, 5.0
    template = task.get(task.put(coded.astype(np.float32), header))
    assert np.median(template.image) == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize("kind", ["int16", "uint16", "int32", "float32"])
def test_mask_bits_of_any_type(tmp_path, kind):
    bits = np.zeros((6, 8), np.uint16)
    bits[1, 2], bits[3, 4], bits[5, 6] = 0x8000, 0x4000, 0x0008
    fits.PrimaryHDU(bits.view(np.int16) if kind == "int16" else bits.astype(kind)).writeto(tmp_path / "bits.fits")
    bad = read_bad(tmp_path / "bits.fits", (6, 8), slice(1, 6), slice(0, 8), 0xC000)
    assert np.argwhere(bad).tolist() == [[0, 2], [2, 4]]
