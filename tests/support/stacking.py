"""Simulated exposures of one sky for stacks, and the step run in a folder, without a worker."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from services.subtraction.stack import stack
from shared.contracts.params import StackParams
from shared.science.images import quiet_fits
from shared.worker.step import Resources, StepContext

SCALE_DEG = 1 / 3600
CENTRE = (150.0, 20.0)
GAIN = 2.0
SKY = 400.0
SATURATION = 50_000.0
BETA = 3.0


@dataclass(frozen=True)
class Sky:
    """Stars at positions in degrees, with their fluxes in ADU in an exposure of unit scale."""

    ra: NDArray
    dec: NDArray
    flux: NDArray


def sky(stars: int = 60, seed: int = 1, reach_deg: float = 200 / 3600, apart: float = 14.0) -> Sky:
    """Stars at least `apart` arcseconds from one another, within `reach_deg` of the centre."""
    random = np.random.default_rng(seed)
    places: list[NDArray] = []
    while len(places) < stars:
        place = random.uniform(-reach_deg, reach_deg, 2)
        if all(np.hypot(*(place - other)) > apart / 3600 for other in places):
            places.append(place)
    xi, eta = np.array(places).T
    flux = 10 ** random.uniform(4.0, 5.3, stars)
    plane = WCS(header((1, 1), 0.0, crpix=(1.0, 1.0)))
    ra, dec = plane.all_pix2world(-xi / SCALE_DEG, eta / SCALE_DEG, 0)
    return Sky(ra, dec, flux)


def header(
    shape: tuple[int, int],
    angle_deg: float = 0.0,
    scale: float = 1.0,
    *,
    mirrored: bool = False,
    crpix: tuple[float, float] | None = None,
) -> fits.Header:
    """TAN header whose reference pixel, `crpix` or the middle, is at the centre of the sky; `scale` in arcsec/pixel."""
    angle = np.deg2rad(angle_deg)
    one = fits.Header()
    one["CTYPE1"], one["CTYPE2"] = "RA---TAN", "DEC--TAN"
    one["CRVAL1"], one["CRVAL2"] = CENTRE
    one["CRPIX1"], one["CRPIX2"] = crpix or ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    matrix = scale * SCALE_DEG * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        matrix[:, 0] *= -1
    for i in (0, 1):
        for j in (0, 1):
            one[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
    return one


@dataclass
class Exposure:
    """How an image of the sky is taken."""

    shape: tuple[int, int] = (320, 320)
    angle_deg: float = 0.0
    scale: float = 1.0
    mirrored: bool = False
    shift: tuple[float, float] = (0.0, 0.0)
    flux_scale: float = 1.0
    sky: float = SKY
    fwhm_arcsec: float = 3.2
    noise: bool = True
    seed: int = 0
    cosmics: int = 0
    cards: dict[str, Any] = field(default_factory=dict)

    def header(self) -> fits.Header:
        crpix = ((self.shape[1] + 1) / 2 + self.shift[0], (self.shape[0] + 1) / 2 + self.shift[1])
        one = header(self.shape, self.angle_deg, self.scale, mirrored=self.mirrored, crpix=crpix)
        one["GAIN"], one["SATURATE"], one["EXPTIME"], one["FILTER"] = GAIN, SATURATION, 30.0, "r"
        one["DATE-OBS"] = f"2026-10-15T22:{self.seed % 60:02d}:00.000"
        for key, value in self.cards.items():
            if value is None:
                one.remove(key, ignore_missing=True)
            else:
                one[key.replace("__", "-")] = value
        return one

    def pixels(self, stars: Sky) -> NDArray[np.float32]:
        """Draw the stars, each pixel the mean of 3×3 points; Moffat profiles."""
        rows, columns = self.shape
        wcs = WCS(header(self.shape, self.angle_deg, self.scale, mirrored=self.mirrored, crpix=self._crpix()))
        x, y = wcs.all_world2pix(stars.ra, stars.dec, 0)
        image = np.zeros(self.shape)
        fwhm = self.fwhm_arcsec / self.scale
        core = fwhm / (2 * np.sqrt(2 ** (1 / BETA) - 1))
        reach = int(8 * fwhm)
        points = (np.arange(3) - 1) / 3
        for xs, ys, flux in zip(x, y, stars.flux * self.flux_scale, strict=True):
            left, bottom = max(round(xs) - reach, 0), max(round(ys) - reach, 0)
            right, top = min(round(xs) + reach + 1, columns), min(round(ys) + reach + 1, rows)
            if left >= right or bottom >= top:
                continue
            box_y, box_x = np.mgrid[bottom:top, left:right]
            for dx in points:
                for dy in points:
                    square = (box_x + dx - xs) ** 2 + (box_y + dy - ys) ** 2
                    profile = (BETA - 1) / (np.pi * core**2) * (1 + square / core**2) ** -BETA
                    image[bottom:top, left:right] += flux * profile / 9
        image += self.sky
        if self.noise:
            random = np.random.default_rng(1000 + self.seed)
            image = random.normal(image, np.sqrt(np.maximum(image, 1) / GAIN))
            for _ in range(self.cosmics):
                row, column = random.integers(5, rows - 8), random.integers(5, columns - 8)
                image[row : row + random.integers(1, 3), column : column + random.integers(1, 4)] += 3000
        return image.astype(np.float32)

    def _crpix(self) -> tuple[float, float]:
        return ((self.shape[1] + 1) / 2 + self.shift[0], (self.shape[0] + 1) / 2 + self.shift[1])

    def write(self, path: Path, stars: Sky) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.PrimaryHDU(self.pixels(stars), self.header()).writeto(path, overwrite=True)
        return path


@dataclass
class Stacking:
    work: Path
    log: list[str] = field(default_factory=list)

    def says(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.log)

    @property
    def image(self) -> NDArray:
        return np.asarray(fits.getdata(self.work / "image.fits"), float)

    @property
    def header(self) -> fits.Header:
        return fits.getheader(self.work / "image.fits")

    @property
    def coverage(self) -> NDArray:
        return np.asarray(fits.getdata(self.work / "coverage.fits"))


def run_stack(folder: Path, *names: str, **config: Any) -> Stacking:
    """Stack files of `folder`/data; the log of a failure is in `stacking` below."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    for old in work.iterdir():
        old.unlink()
    config = {"stack_filenames": list(names), **config} if names else config
    result = Stacking(work)
    ctx = StepContext(
        task_id=1,
        params=StackParams.of(config),
        config=config,
        work=work,
        resources=Resources(cache_dir=folder / "cache", data_dir=folder),
        find=lambda _name: None,
        say=result.log.append,
        show=lambda _fraction, _phase: None,
    )
    stack(ctx)
    return result


def wcs_of(cards: fits.Header) -> WCS:
    """Read the coordinates of a header without astropy's remarks on its dates."""
    with quiet_fits():
        return WCS(cards)


def fluxes(image: NDArray, wcs: WCS, stars: Sky, radius_pix: float) -> tuple[NDArray, NDArray]:
    """Sums in apertures around the true positions, above the median of the frame, and which of them are whole."""
    x, y = wcs.all_world2pix(stars.ra, stars.dec, 0)
    good = np.isfinite(image)
    clean = np.ascontiguousarray(np.where(good, image, 0))
    inside = (x > 25) & (x < image.shape[1] - 26) & (y > 25) & (y < image.shape[0] - 26)
    flux, _, flags = sep.sum_circann(clean, x, y, 0, radius_pix, mask=~good, subpix=5)
    levels = [_level(image, *place) for place in zip(x, y, strict=True)]
    return flux - np.pi * radius_pix**2 * np.array(levels), inside & (flags == 0)


def _level(image: NDArray, x: float, y: float) -> float:
    rows, columns = np.indices(image.shape, sparse=True)
    distance = np.hypot(columns - x, rows - y)
    ring = image[(distance > 12) & (distance < 18) & np.isfinite(image)]
    return float(np.median(ring)) if ring.size else np.nan
