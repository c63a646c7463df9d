"""Small fields of stars for the difference engines: an image, a template on its grid, and what was put in."""

from dataclasses import dataclass, field

import numpy as np

from shared.science.difference import Pair

BETA = 3.0


@dataclass(frozen=True)
class Shape:
    """Moffat stars: width along the long axis, axis ratio, and angle of the long axis from x."""

    fwhm_pix: float
    ratio: float = 1.0
    angle_deg: float = 0.0

    def values(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Evaluate the shape, of the sum 1."""
        alpha = self.fwhm_pix / (2 * np.sqrt(2 ** (1 / BETA) - 1))
        angle = np.deg2rad(self.angle_deg)
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = (dy * np.cos(angle) - dx * np.sin(angle)) / self.ratio
        norm = (BETA - 1) / (np.pi * alpha**2 * self.ratio)
        return norm * (1 + (along**2 + across**2) / alpha**2) ** -BETA

    def enclosed(self, radius_pix: float) -> float:
        """Give the flux within a circle, for a round shape."""
        alpha = self.fwhm_pix / (2 * np.sqrt(2 ** (1 / BETA) - 1))
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


def render(size: int, rows: np.ndarray, shape: Shape) -> np.ndarray:
    """Draw stars of x, y, flux, integrated over the pixels."""
    plane = np.zeros((size, size))
    nodes, weights = np.array([-0.3873, 0.0, 0.3873]), np.array([5, 8, 5]) / 18
    half = 30
    for x, y, flux in rows:
        left, top = max(int(x) - half, 0), max(int(y) - half, 0)
        box = slice(top, int(y) + half + 1), slice(left, int(x) + half + 1)
        grid_y, grid_x = np.mgrid[box][:, : max(size - top, 0), : max(size - left, 0)].astype(float)
        for node_y, weight_y in zip(nodes, weights, strict=True):
            for node_x, weight_x in zip(nodes, weights, strict=True):
                plane[box] += flux * weight_x * weight_y * shape.values(grid_x + node_x - x, grid_y + node_y - y)
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
