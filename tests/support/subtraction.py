"""Running `subtraction` in a folder, without broker, runtime and photometry: its files are made from what is true."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from services.subtraction.subtraction import subtraction
from shared.contracts.params import SubtractionParams
from shared.science.tables import write_parquet
from shared.science.wcs import wcs_header
from shared.science.zeropoint import Terms, ZeroPoint
from shared.worker.step import Resources, StepContext
from tests.support.difference import Shape, Sky, observe, render
from tests.support.reprojection import tan

ZERO_POINT = 25.0
SCALE_ARCSEC = 1.0
HALF_LIGHT = np.sqrt(np.sqrt(2.0) - 1)
"""Radius that holds half of the light of a Moffat profile of beta 3, in units of its core radius."""
SATURATION = 55_000.0


@dataclass
class Task:
    """One task folder after photometry; `lines` collects the log.

    Parameters
    ----------
    new
        x, y, and flux (ADU, in the aperture of photometry) of what the template does not have.
    wcs
        Of the image.
    """

    folder: Path
    wcs: WCS
    stars: np.ndarray
    new: np.ndarray
    config: dict[str, Any]
    threads: int = 1
    cache_dir: Path | None = None
    lines: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def work(self) -> Path:
        """Where the last run wrote."""
        return self.folder / f"work{self.runs}"

    def run(self, **options: Any) -> Path:
        """Run the step and give the folder of its files."""
        self.runs += 1
        self.work.mkdir()
        self.lines.clear()
        config = self.config | options
        context = StepContext(
            task_id=1,
            params=SubtractionParams.of(config),
            config=config,
            work=self.work,
            resources=Resources(cache_dir=self.cache_dir or self.folder / "cache", threads=self.threads),
            find=lambda name: path if (path := self.folder / name).exists() else None,
            say=self.lines.append,
            show=lambda fraction, phase: None,
        )
        assert subtraction(context) == {}
        return self.work

    def at_targets(self, **options: Any) -> Table:
        """Run with what is new as targets, and give their table."""
        lines = "\n".join(f"x={x:.3f} y={y:.3f}" for x, y, _ in self.new)
        return Table.read(self.run(target=lines, **options) / "sub_target.vot")

    def plane(self, name: str) -> np.ndarray:
        """Read an image of the last run, as floats."""
        with fits.open(self.work / f"sub_{name}.fits") as hdus:
            return np.asarray(hdus[0].data, float)


@dataclass(frozen=True)
class Grid:
    """Pixels of a template: its scale, its parity, its turn, its size, and flux in it over flux in the image."""

    scale_arcsec: float = SCALE_ARCSEC
    flipped: bool = False
    rotation_deg: float = 0.0
    size: int | None = None
    flux: float = 4.0
    ra_deg: float = 150.0


def make_task(
    folder: Path,
    *,
    image: Sky | None = None,
    template: Sky | None = None,
    grid: Grid | None = None,
    size: int = 320,
    stars: int = 120,
    new: int = 9,
    new_flux: tuple[float, float] = (20_000.0, 20_000.0),
    extended: np.ndarray | None = None,
    template_filter: str = "r",
    seed: int = 1,
) -> Task:
    """Make a task with a custom template.

    Parameters
    ----------
    new
        How many new stars, on a grid; a square.
    new_flux
        Range of their whole fluxes, ADU.
    extended
        x, y, flux of further points in both, drawn and in no table: galaxies are made of many of them.
    """
    image, template, grid = image or Sky(Shape(3.2)), template or Sky(Shape(2.4), 50, 20, 2), grid or Grid()
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    wcs = tan(SCALE_ARCSEC, (size, size))
    side = round(np.sqrt(new))
    at = (np.arange(side) + 0.5) * size / max(side, 1)
    found = np.array([(x, y) for y in at for x in at]).reshape(-1, 2) + rng.uniform(-2, 2, (side**2, 2))
    places: list[np.ndarray] = []
    while len(places) < stars:
        place = rng.uniform(4, size - 4, 2)
        if not len(found) or np.hypot(*(found - place).T).min() > 14:
            places.append(place)
    known = np.column_stack([places, 1500 * 10 ** rng.uniform(0, 2, stars)]) if stars else np.zeros((0, 3))
    fresh = np.column_stack([found, np.geomspace(*new_flux, len(found))]) if len(found) else np.zeros((0, 3))
    both = known if extended is None else np.vstack([known, extended])
    fits.writeto(
        folder / "image.fits",
        observe(size, np.vstack([both, fresh]), image, rng),
        _header(wcs, image),
    )
    other = tan(
        grid.scale_arcsec, 2 * (grid.size or size,), rotation_deg=grid.rotation_deg, flipped=grid.flipped,
        ra_deg=grid.ra_deg,
    )  # fmt: skip
    sky = wcs.all_pix2world(both[:, :2], 0) if len(both) else np.zeros((0, 2))
    there = np.column_stack([other.all_world2pix(sky, 0), grid.flux * both[:, 2]]) if len(both) else both
    near = (np.abs(there[:, :2] - (grid.size or size) / 2) < size).all(axis=1)
    fits.writeto(
        folder / "custom_template.fits",
        observe(grid.size or size, there[near], template, rng),
        fits.Header([*other.to_header().cards, ("FILTER", template_filter)]),
    )
    fwhm = 2 * HALF_LIGHT * image.shape.alpha_pix
    fraction = _enclosed(image.shape, fwhm)
    fresh[:, 2] *= fraction
    _write_photometry(folder, wcs, size, stars=known * (1, 1, fraction), image=image, fwhm=fwhm)
    config = {
        "fwhm": fwhm,
        "gain": image.gain,
        "template": "custom",
        "custom_template_gain": template.gain,
        "time": "2026-11-02T21:35:40",
    }
    return Task(folder, wcs, known, fresh, config)


def _enclosed(shape: Shape, radius_pix: float) -> float:
    """Give the part of a star's light in a circle; pixels make stars a little wider than their profile."""
    middle = 40
    star = render(2 * middle + 1, np.array([[middle, middle, 1e7]]), shape) / 1e7
    fine = 10
    y, x = (np.mgrid[: fine * len(star), : fine * len(star)] + 0.5) / fine - 0.5 - middle
    inside = (np.hypot(x, y) < radius_pix).reshape(len(star), fine, len(star), fine).mean(axis=(1, 3))
    return float((star * inside).sum())


def _header(wcs: WCS, image: Sky) -> fits.Header:
    header = wcs.to_header()
    header["CRPIX1"] += 20  # a rough one: that of photometry counts
    header.update({"GAIN": image.gain, "FILTER": "r", "SATURATE": SATURATION, "OBJECT": "FIELD", "CD1_2": 5.0})
    return header


def _write_photometry(folder: Path, wcs: WCS, size: int, *, stars: np.ndarray, image: Sky, fwhm: float) -> None:
    ra, dec = wcs.all_pix2world(stars[:, 0], stars[:, 1], 0) if len(stars) else (np.zeros(0), np.zeros(0))
    flux = stars[:, 2]
    error = np.sqrt(flux / image.gain + np.pi * fwhm**2 * (image.level / image.gain))
    objects = Table({"x": stars[:, 0], "y": stars[:, 1], "ra": ra, "dec": dec, "flux": flux, "fluxerr": error})
    objects["mag_calib"] = ZERO_POINT - 2.5 * np.log10(flux)
    objects["mag_calib_err"] = 1.0857 * error / flux
    objects["flags"] = np.zeros(len(stars), int)
    objects["FLUX_RADIUS"] = np.full(len(stars), fwhm / 2)
    write_parquet(objects, folder / "objects.parquet")
    model = ZeroPoint(
        Terms(0, None, nonlin=False, color=False), size / 2, size / 2, size / 2, -10.0,
        (ZERO_POINT,), ((1e-8,),), 0.0, 0.0, 0.0, 0.01, 100,
    )  # fmt: skip
    solution = model.to_json() | {
        "filter": "r",
        "catalog": "ps1",
        "cat_col_color_mag1": "gmag",
        "cat_col_color_mag2": "rmag",
    }
    (folder / "photometry.json").write_text(json.dumps(solution))
    wcs = wcs.deepcopy()
    wcs.pixel_shape = (size, size)
    header = wcs_header(wcs)
    header["IMAGEW"], header["IMAGEH"] = size, size
    fits.PrimaryHDU(header=header).writeto(folder / "image.wcs", output_verify="silentfix+ignore")
    with fits.open(folder / "image.fits") as hdus:
        fits.writeto(folder / "mask.fits", (hdus[0].data >= SATURATION).astype(np.uint8))


def galaxies(
    places: np.ndarray, rng: np.random.Generator, flux: float = 30_000.0, scale_pix: float = 4.0
) -> np.ndarray:
    """Give the points of exponential discs around places; x, y, flux."""
    points = []
    for x, y in places:
        radius = rng.gamma(2, scale_pix, 400)
        angle = rng.uniform(0, 2 * np.pi, 400)
        points.append(
            np.column_stack([x + radius * np.cos(angle), y + 0.6 * radius * np.sin(angle), np.full(400, flux / 400)])
        )
    return np.vstack(points)
