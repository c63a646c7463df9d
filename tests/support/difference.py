"""Small fields of stars for the difference engines: an image, a template on its grid, and what was put in."""

from dataclasses import dataclass, field

import numba
import numpy as np

from shared.science.difference import Pair

BETA = 3.0
_FAINTEST_LEVEL = 0.05
_LARGEST_REACH_PIX = 300.0
"""Stars are drawn to where they fall below this level, or end."""


@dataclass(frozen=True)
class Shape:
    """Moffat stars: width along the long axis, axis ratio, and angle of the long axis from x."""

    fwhm_pix: float
    ratio: float = 1.0
    angle_deg: float = 0.0

    @property
    def alpha_pix(self) -> float:
        """Give the core radius along the long axis."""
        return self.fwhm_pix / (2 * np.sqrt(2 ** (1 / BETA) - 1))

    def values(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Evaluate the shape, of the sum 1."""
        alpha = self.alpha_pix
        angle = np.deg2rad(self.angle_deg)
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = (dy * np.cos(angle) - dx * np.sin(angle)) / self.ratio
        norm = (BETA - 1) / (np.pi * alpha**2 * self.ratio)
        return norm * (1 + (along**2 + across**2) / alpha**2) ** -BETA

    def enclosed(self, radius_pix: float) -> float:
        """Give the flux within a circle, for a round shape."""
        alpha = self.alpha_pix
        return 1 - (1 + (radius_pix / alpha) ** 2) ** (1 - BETA)


@dataclass(frozen=True)
class Field:
    """A simulated pair and its truth; positions are 0-based pixels, fluxes in units of the image."""

    pair: Pair
    stars: np.ndarray
    transients: np.ndarray
    scale: float
    quiet: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Sky:
    """How to simulate one of both."""

    shape: Shape
    level: float = 400.0
    gain: float = 1.5
    read_noise: float = 5.0
    slope: float = 0.0


@numba.njit(cache=True)
def _draw(plane: np.ndarray, rows: np.ndarray, alpha: float, ratio: float, angle: float) -> None:
    nodes = np.array([-0.3872983346, 0.0, 0.3872983346])  # Gauss and Legendre's on a pixel of unit width
    weights = np.array([5.0, 8.0, 5.0]) / 18.0
    cosine, sine = np.cos(angle), np.sin(angle)
    for k in range(rows.shape[0]):
        x, y, peak = rows[k, 0], rows[k, 1], rows[k, 2] * (BETA - 1) / (np.pi * alpha**2 * ratio)
        reach = int(
            min(max(alpha * np.sqrt(max(abs(peak) / _FAINTEST_LEVEL, 1.0) ** (1 / BETA)), 20.0), _LARGEST_REACH_PIX)
        )
        near = (4 * alpha) ** 2
        for i in range(max(int(y) - reach, 0), min(int(y) + reach + 1, plane.shape[0])):
            for j in range(max(int(x) - reach, 0), min(int(x) + reach + 1, plane.shape[1])):
                total = 0.0
                inside = (i - y) ** 2 + (j - x) ** 2 < near
                for m in range(3 if inside else 1):
                    dy = i - y + (nodes[m] if inside else 0.0)
                    for n in range(3 if inside else 1):
                        dx = j - x + (nodes[n] if inside else 0.0)
                        along = dx * cosine + dy * sine
                        across = (dy * cosine - dx * sine) / ratio
                        shape = 1 + (along * along + across * across) / (alpha * alpha)
                        total += (weights[m] * weights[n] if inside else 1.0) / shape**BETA
                plane[i, j] += peak * total


def render(size: int, rows: np.ndarray, shape: Shape) -> np.ndarray:
    """Draw stars of x, y, flux, integrated over the pixels."""
    plane = np.zeros((size, size))
    stars = np.ascontiguousarray(rows, float)
    _draw(plane, stars, shape.alpha_pix, shape.ratio, float(np.deg2rad(shape.angle_deg)))
    return plane


def observe(size: int, rows: np.ndarray, sky: Sky, rng: np.random.Generator) -> np.ndarray:
    """Draw stars on a sky with photon and read noise."""
    ramp = 1 + sky.slope * (np.mgrid[:size, :size][1] / size - 0.5)
    expected = render(size, rows, sky.shape) + sky.level * ramp
    counts = rng.poisson(expected * sky.gain) + rng.normal(0, sky.read_noise, (size, size))
    return (counts / sky.gain).astype(np.float32)


def make_field(
    image: Sky,
    template: Sky,
    *,
    size: int = 320,
    stars: int = 160,
    scale: float = 0.25,
    transients: int = 9,
    transient_flux: float = 20_000.0,
    seed: int = 1,
) -> Field:
    """Simulate a pair with transients on a grid, away from stars.

    Parameters
    ----------
    scale
        Flux in the image over flux in the template.
    """
    rng = np.random.default_rng(seed)
    side = round(np.sqrt(transients))
    at = (np.arange(side) + 0.5) * size / max(side, 1)
    grid = np.array([(x, y) for y in at for x in at]).reshape(-1, 2) + rng.uniform(-0.5, 0.5, (side**2, 2))
    places: list[np.ndarray] = []
    while len(places) < stars:
        place = rng.uniform(4, size - 4, 2)
        if not len(grid) or np.hypot(*(grid - place).T).min() > 18:
            places.append(place)
    flux = 1500 * 10 ** rng.uniform(0, 2, stars)
    catalogue = np.column_stack([places, flux])
    found = np.column_stack([grid, np.full(side**2, transient_flux)])
    pixels = observe(size, np.vstack([catalogue, found]), image, rng)
    other = observe(size, catalogue / (1, 1, scale), template, rng)
    quiet = np.ones((size, size), bool)
    for x, y, _ in np.vstack([catalogue, found]):
        quiet[max(int(y) - 9, 0) : int(y) + 10, max(int(x) - 9, 0) : int(x) + 10] = False
    pair = Pair(pixels, other, gain=image.gain, template_gain=template.gain)
    return Field(pair, catalogue, found, scale, quiet)


def aperture_fluxes(plane: np.ndarray, rows: np.ndarray, shape: Shape, radius_pix: float = 8.0) -> np.ndarray:
    """Sum circles around positions, corrected for what lies outside, with the median of a ring taken off."""
    grid_y, grid_x = np.mgrid[: plane.shape[0], : plane.shape[1]]
    found = []
    for x, y, _ in rows:
        distance = np.hypot(grid_x - x, grid_y - y)
        share = np.clip(radius_pix + 0.5 - distance, 0, 1)
        ring = np.median(plane[(distance > 14) & (distance < 17)])
        found.append(((plane - ring) * share).sum() / shape.enclosed(radius_pix))
    return np.array(found)
