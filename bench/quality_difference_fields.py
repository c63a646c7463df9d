"""Simulated pairs of image and template with known truth, for the scoreboard of difference images."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from astropy.wcs import WCS
from scipy import ndimage

from shared.science.cosmics import cosmic_rays
from shared.science.detection import background
from shared.science.difference import Pair
from shared.science.templates import pixel_map, reproject

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.difference import Shape, Sky, render

SATURATION = 58_000.0
TEMPLATE_SATURATION = 300_000.0
ZERO_POINT = 28.0
BRIGHT_MAG = 16.0
GALAXIES_PER_PIXEL = 250 / 1024**2
HOSTS_PER_PIXEL = 90 / 1024**2
TRANSIENTS_PER_PIXEL = 230 / 1024**2
ASTEROIDS_PER_PIXEL = 8 / 1024**2
APART_PER_FWHM = 14.0
SN_BINS = (5.0, 7.0, 10.0, 20.0, 40.0, 100.0)


@dataclass(frozen=True)
class Case:
    """A kind of field.

    Parameters
    ----------
    image, template
        How both are taken; the shape of the template is in its own pixels.
    stars_per_deg2
        To r = 20, on pixels of one arcsecond.
    depth_mag
        Zero point of the template above that of the image, of the same gain in depth when its noise is equal.
    shift_pix
        Error of the template's astrometry in x and y.
    """

    name: str
    image: Sky
    template: Sky
    stars_per_deg2: float = 9_000.0
    depth_mag: float = 2.0
    shift_pix: tuple[float, float] = (0.0, 0.0)


USUAL = Sky(Shape(3.0), level=800.0, gain=1.6, read_noise=6.0, slope=0.05)
DEEP = Sky(Shape(2.3), level=60.0, gain=20.0, read_noise=150.0, slope=-0.05)
"""As a survey's: its sky is mostly taken off, its noise 11 units of a zero point that is 2 mag higher."""

CASES = (
    Case("standard", USUAL, DEEP),
    Case("sparse", USUAL, DEEP, stars_per_deg2=1_500),
    Case("crowded", USUAL, DEEP, stars_per_deg2=70_000),
    Case("elongated", replace(USUAL, shape=Shape(3.8, 0.75, 35)), DEEP),
    Case("good seeing", replace(USUAL, shape=Shape(2.2)), replace(DEEP, shape=Shape(3.2))),
    Case("bad seeing", replace(USUAL, shape=Shape(5.5)), DEEP),
    Case("gradient", replace(USUAL, slope=0.4), replace(DEEP, slope=-0.4)),
    Case("shallow template", USUAL, replace(USUAL, shape=Shape(2.6), level=1600.0), depth_mag=0.0),
    Case("misaligned", USUAL, DEEP, shift_pix=(0.4, -0.3)),
)


@dataclass(frozen=True)
class Scene:
    """A pair and its truth; positions are 0-based pixels of the image, fluxes ADU.

    Parameters
    ----------
    truth
        Columns `kind` (star galaxy transient transient_g variable asteroid), `x y flux mag`, `sn` of aperture
        photometry within one FWHM of the wider star, `change` of the flux, `extent` in pixels: the half-light radius of
        galaxies, the length of trails.
    variance
        True variance of a pixel of image minus matched template, which smoothing does not change in sums.
    quiet
        Pixels without sources.
    """

    case: Case
    pair: Pair
    template_own: tuple[np.ndarray, np.ndarray, WCS, WCS] = field(repr=False)
    truth: np.ndarray
    scale: float
    variance: np.ndarray = field(repr=False)
    quiet: np.ndarray = field(repr=False)


TRUTH = np.dtype([("kind", "U12")] + [(name, float) for name in ("x", "y", "flux", "mag", "sn", "change", "extent")])


def simulate(case: Case, size: int, seed: int) -> Scene:
    """Simulate a field of `size` pixels a side; the same seed gives the same."""
    rng = np.random.default_rng([seed, size, [one.name for one in CASES].index(case.name)])
    scale = 10 ** (-0.4 * case.depth_mag)
    wcs, template_wcs, template_size = grids(size)
    stars = _stars(case, size, rng)
    galaxies, points = _galaxies(size, rng)
    static = np.vstack([_rows(stars, "flux"), points])
    template, template_bad, template_variance = _take_template(
        case, static, size, template_size, (wcs, template_wcs), scale=scale, rng=rng
    )
    light = render(size, static, case.image.shape)
    wide = max((case.image.shape, case.template.shape), key=lambda one: one.fwhm_pix)
    base = (light + case.image.level) / case.image.gain + (case.image.read_noise / case.image.gain) ** 2
    variance = base + scale**2 * template_variance
    avoided = ndimage.binary_dilation(light > 0.9 * SATURATION - case.image.level, iterations=8)
    places = _new(stars, galaxies, light, avoided, float(np.sqrt(np.median(variance))), case=case, rng=rng)
    new = _with_fluxes(places, variance, wide, case.image.gain)
    moving, changed = _moving(size, avoided, rng), _changed(stars)
    rows = np.vstack([_rows(new, "flux"), moving[1], _rows(changed, "change")])
    light += render(size, rows, case.image.shape)
    image = _expose(light, case.image, rng)
    own = (template, template_bad, template_wcs, wcs)
    there, there_bad = reproject(template, template_bad, pixel_map(wcs, (size, size), template_wcs))
    image_bad = _mask(image, case.image)
    pair = Pair(image, there, image_bad, there_bad, gain=case.image.gain, template_gain=case.template.gain)
    variance += render(size, rows, case.image.shape) / case.image.gain
    quiet = ndimage.gaussian_filter(light, 2) < 0.15 * np.sqrt(np.median(variance))
    truth = np.concatenate([stars, galaxies, new, moving[0]])
    return Scene(case, pair, own, truth, scale, variance.astype(np.float32), quiet)


def grids(size: int) -> tuple[WCS, WCS, int]:
    """Give solutions of image and template (0.95 arcsec, turned by 0.3 degrees), and the template's size."""
    own, other = WCS(naxis=2), WCS(naxis=2)
    template_size = int(1.12 * size) + 40
    for wcs, side, scale, turn in ((own, size, 1.0, 12.0), (other, template_size, 0.95, 12.3)):
        angle = np.radians(turn)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [120.0, 35.0]
        wcs.wcs.crpix = [(side + 1) / 2, (side + 1) / 2]
        wcs.wcs.cd = scale / 3600 * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        wcs.wcs.set()
    return own, other, template_size


def _rows(some: np.ndarray, flux: str) -> np.ndarray:
    return np.column_stack([some["x"], some["y"], some[flux]]).reshape(-1, 3)


def _table(kind: str, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> np.ndarray:
    made = np.zeros(len(x), TRUTH)
    made["kind"], made["x"], made["y"], made["flux"] = kind, x, y, flux
    with np.errstate(divide="ignore"):
        made["mag"] = ZERO_POINT - 2.5 * np.log10(made["flux"])
    return made


def _stars(case: Case, size: int, rng: np.random.Generator) -> np.ndarray:
    mag = np.arange(10.5, 23.01, 0.01)
    density = np.where(mag < 17, 10 ** (0.30 * (mag - 17)), 10 ** (0.18 * (mag - 17)))
    total = np.cumsum(density)
    margin = 20
    area_deg2 = ((size + 2 * margin) / 3600) ** 2
    count = rng.poisson(case.stars_per_deg2 * area_deg2 * total[-1] / total[np.searchsorted(mag, 20)])
    drawn = np.interp(rng.random(count), total / total[-1], mag)
    x, y = rng.uniform(-margin, size + margin, (2, count))
    stars = _table("star", x, y, 10 ** (-0.4 * (drawn - ZERO_POINT)))
    inside = (x > 30) & (y > 30) & (x < size - 30) & (y < size - 30)
    usual = np.flatnonzero(inside & (drawn > 18.3) & (drawn < 19.5))
    some = rng.choice(usual, min(10, usual.size // 4), replace=False)
    stars["kind"][some] = "variable"
    stars["change"][some] = stars["flux"][some] * rng.choice([-0.7, 1.0, 2.0, 4.0], some.size)
    return stars


def _galaxies(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give galaxies and the points of light that they are drawn of: exponential discs."""
    count = int(GALAXIES_PER_PIXEL * size**2)
    mag = np.clip(20.5 + np.log10(rng.random(count)) / 0.45, 15.5, None)
    x, y = rng.uniform(0, size, (2, count))
    galaxies = _table("galaxy", x, y, 10 ** (-0.4 * (mag - ZERO_POINT)))
    radius = np.clip(10 ** (0.35 - 0.16 * (mag - 19)) * rng.lognormal(0, 0.3, count), 0.5, 10)
    galaxies["extent"] = radius
    points = []
    steps = np.linspace(0, 9, 300)
    enclosed = 1 - (1 + steps) * np.exp(-steps)
    for one, half_light in zip(galaxies, radius, strict=True):
        number = int(np.clip(12 * half_light**2, 60, 900))
        r = np.interp((np.arange(number) + 0.5) / number, enclosed, steps) * half_light / 1.678
        turn = np.arange(number) * np.pi * (3 - np.sqrt(5))
        ratio, angle = rng.uniform(0.35, 1), rng.uniform(0, np.pi)
        u, v = r * np.cos(turn), r * np.sin(turn) * ratio
        points.append(
            np.column_stack(
                [
                    one["x"] + u * np.cos(angle) - v * np.sin(angle),
                    one["y"] + u * np.sin(angle) + v * np.cos(angle),
                    np.full(number, one["flux"] / number),
                ]
            )
        )
    return galaxies, np.vstack(points)


def _take_template(
    case: Case,
    rows: np.ndarray,
    size: int,
    template_size: int,
    solutions: tuple[WCS, WCS],
    *,
    scale: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the template on its own grid, its mask, and its variance on the grid of the image."""
    wcs, template_wcs = solutions
    sky = case.template
    place = template_wcs.all_world2pix(*wcs.all_pix2world(rows[:, 0], rows[:, 1], 0), 0)
    there = np.column_stack([place[0] + case.shift_pix[0], place[1] + case.shift_pix[1], rows[:, 2] / scale])
    light = render(template_size, there, sky.shape)
    ramp = 1 + sky.slope * (np.arange(template_size) / template_size - 0.5)
    counts = rng.poisson((light + sky.level * ramp) * sky.gain) + rng.normal(0, sky.read_noise, light.shape)
    pixels = np.minimum(counts / sky.gain, TEMPLATE_SATURATION).astype(np.float32)
    variance = ((light + sky.level * ramp) / sky.gain + (sky.read_noise / sky.gain) ** 2).astype(np.float32)
    bad = pixels > 0.95 * TEMPLATE_SATURATION
    # a sum over an aperture of the image has 1 / 0.95^2 times as many pixels of the template
    on_image, _ = reproject(variance, np.zeros(bad.shape, bool), pixel_map(wcs, (size, size), template_wcs))
    return pixels, bad, np.nan_to_num(on_image, nan=float(np.median(variance)))


def _new(
    stars: np.ndarray,
    galaxies: np.ndarray,
    light: np.ndarray,
    avoided: np.ndarray,
    noise: float,
    *,
    case: Case,
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose places and S/N of transients: isolated in the field, and on galaxies."""
    size = light.shape[0]
    taken = _rows(stars[stars["kind"] == "variable"], "flux")[:, :2].tolist()
    edge = 32
    apart_pix = APART_PER_FWHM * max(case.image.shape.fwhm_pix, case.template.shape.fwhm_pix)
    kinds, places = [], []
    bright = galaxies[galaxies["mag"] < 20]

    def free(x: float, y: float) -> bool:
        near = edge < x < size - edge and edge < y < size - edge and not avoided[round(y), round(x)]
        return near and (not taken or np.hypot(*(np.array(taken) - (x, y)).T).min() > apart_pix)

    for host in rng.permutation(bright)[: 3 * int(HOSTS_PER_PIXEL * size**2)]:
        angle, r = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 2) * host["extent"]
        x, y = host["x"] + r * np.cos(angle), host["y"] + r * np.sin(angle)
        if free(x, y) and kinds.count("transient_g") < int(HOSTS_PER_PIXEL * size**2):
            taken.append([x, y])
            places.append([x, y])
            kinds.append("transient_g")
    limit = (2.0 if case.stars_per_deg2 > 50_000 else 0.5) * noise
    reach = int(1.5 * max(case.image.shape.fwhm_pix, case.template.shape.fwhm_pix))
    smooth = ndimage.maximum_filter(light, size=2 * reach + 1)
    for _ in range(40 * int(TRANSIENTS_PER_PIXEL * size**2)):
        x, y = rng.uniform(edge, size - edge, 2)
        if smooth[round(y), round(x)] < limit and free(x, y):
            taken.append([x, y])
            places.append([x, y])
            kinds.append("transient")
            if kinds.count("transient") >= int(TRANSIENTS_PER_PIXEL * size**2):
                break
    at = np.array(places).reshape(-1, 2)
    made = _table("transient", at[:, 0], at[:, 1], np.ones(len(at)))
    made["kind"] = kinds
    first = rng.integers(0, len(SN_BINS) - 1, len(at))
    low, high = (np.log(np.array(SN_BINS)[first + step]) for step in (0, 1))
    made["sn"] = np.exp(rng.uniform(low, high))
    return made


def _with_fluxes(made: np.ndarray, variance: np.ndarray, wide: Shape, gain: float) -> np.ndarray:
    """Give the transients the fluxes of their S/N, within one FWHM of the wider star."""
    radius = wide.fwhm_pix
    disc = np.hypot(*np.mgrid[-20:21, -20:21]) <= radius
    summed = ndimage.convolve(variance, disc.astype(np.float32), mode="nearest")
    share = aperture_share(wide, radius)
    for one in made:
        noise2 = float(summed[round(one["y"]), round(one["x"])])
        # S/N^2 (noise^2 + f / gain) = f^2, for the flux f within the aperture
        half = one["sn"] ** 2 / gain / 2
        one["flux"] = (half + np.sqrt(half**2 + one["sn"] ** 2 * noise2)) / share
    made["change"] = made["flux"]
    made["mag"] = ZERO_POINT - 2.5 * np.log10(made["flux"])
    return made


def aperture_share(shape: Shape, radius_pix: float) -> float:
    """Give the share of a star's flux in an aperture, sums of exact areas, by a star drawn ten times finer."""
    fine = 11
    half = int(3 * shape.fwhm_pix) + 4
    side = (2 * half + 1) * fine
    middle = (side - 1) / 2
    flux = 1e9  # stars are drawn to a level
    drawn = render(side, np.array([[middle, middle, flux]]), replace(shape, fwhm_pix=shape.fwhm_pix * fine)) / flux
    # by the detector's pixel, and by the pixels that are shared at the rim
    blurred = ndimage.uniform_filter(ndimage.uniform_filter(drawn, fine), fine)
    y, x = np.mgrid[:side, :side] - middle
    inside = np.hypot(x, y) <= radius_pix * fine
    return float(blurred[inside].sum())


def _moving(size: int, avoided: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give asteroids and the points of their trails, of up to 8 pixels."""
    count = int(ASTEROIDS_PER_PIXEL * size**2)
    table = _table("asteroid", *rng.uniform(40, size - 40, (2, count)), 10 ** rng.uniform(3.9, 4.7, count))
    table["extent"] = rng.uniform(0.5, 8, count)
    table = table[~avoided[table["y"].astype(int), table["x"].astype(int)]]
    table["change"] = table["flux"]
    points = []
    for one in table:
        angle = rng.uniform(0, 2 * np.pi)
        along = np.linspace(-0.5, 0.5, 25) * one["extent"]
        points += [(one["x"] + d * np.cos(angle), one["y"] + d * np.sin(angle), one["flux"] / 25) for d in along]
    return table, np.array(points).reshape(-1, 3)


def _changed(stars: np.ndarray) -> np.ndarray:
    return stars[stars["change"] != 0]


def _expose(light: np.ndarray, sky: Sky, rng: np.random.Generator) -> np.ndarray:
    """Take the image, with cosmic rays."""
    size = light.shape[0]
    ramp = 1 + sky.slope * (np.arange(size) / size - 0.5)
    counts = rng.poisson(np.maximum(light + sky.level * ramp, 0) * sky.gain)
    image = (counts + rng.normal(0, sky.read_noise, light.shape)) / sky.gain
    hit = np.zeros(light.shape, bool)
    for _ in range(int(400 * (size / 2048) ** 2)):
        length, angle, strength = 1 + rng.exponential(4), rng.uniform(0, np.pi), 300 * 10 ** rng.uniform(0, 1.6)
        x, y = rng.uniform(5, size - 5, 2)
        steps = np.arange(0, length, 0.5)
        rows, columns = (y + steps * np.sin(angle)).astype(int), (x + steps * np.cos(angle)).astype(int)
        inside = (rows >= 0) & (columns >= 0) & (rows < size) & (columns < size)
        hit_now = np.zeros_like(hit)
        hit_now[rows[inside], columns[inside]] = True
        image[hit_now & ~hit] += strength * rng.uniform(0.6, 1.2, int((hit_now & ~hit).sum()))
        hit |= hit_now
    return np.clip(np.round(image), 0, SATURATION).astype(np.float32)


def _mask(image: np.ndarray, sky: Sky) -> np.ndarray:
    """Mask saturated pixels and the cosmic rays that the project's own search finds."""
    saturated = image >= 0.95 * SATURATION
    levels = background(image, saturated, 128)
    noise = np.sqrt(levels.rms**2 + np.maximum(image - levels.level, 0) / np.float32(sky.gain))
    found = cosmic_rays(image, saturated, levels.level, noise.astype(np.float32), sky.gain)
    return np.asarray(saturated | found)
