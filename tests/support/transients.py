"""Running `simple_transients` in a folder, without broker and runtime, on a field with stars that no catalogue has."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy.spatial import cKDTree

from services.transients.run import run
from shared.contracts.params import SimpleTransientsParams
from shared.worker.step import Resources, StepContext
from stdweb.sky import Observation
from stdweb.sky.render import draw_stars

ALONE_PIX = 20.0
EDGE_PIX = 40.0


@dataclass
class Search:
    """One task folder after photometry; `lines` collects the log.

    Parameters
    ----------
    config
        Asked and computed keys of the steps before.
    injected
        `x y m_nat` of the new stars.
    others
        Folders of other tasks, by their ids.
    """

    folder: Path
    work: Path
    config: dict[str, Any]
    injected: Table
    mirror_dir: Path | None = None
    cache_dir: Path | None = None
    others: dict[int, Path] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def candidates(self) -> Table:
        return Table.read(self.work / "candidates_simple.vot")

    def run(self, **options: Any) -> Table:
        """Run the step, and give the candidates."""
        self.work.mkdir(exist_ok=True)
        self.lines.clear()
        config = self.config | options
        context = StepContext(
            task_id=1,
            params=SimpleTransientsParams.of(config),
            config=config,
            work=self.work,
            resources=Resources(cache_dir=self.cache_dir or self.work / "cache", mirror_dir=self.mirror_dir),
            find=self._find,
            say=self.lines.append,
            show=lambda fraction, phase: None,
            open_of=self._open_of,
        )
        assert run(context) == {}
        return self.candidates

    def _find(self, name: str) -> Path | None:
        places = [self.work.parent / "own" / name, self.folder / name]
        return next((path for path in places if path.exists() and name not in self.missing), None)

    def replace(self, name: str, content: bytes) -> None:
        """Put a file into the task that hides what photometry wrote."""
        (self.work.parent / "own").mkdir(exist_ok=True)
        (self.work.parent / "own" / name).write_bytes(content)

    def _open_of(self, task_id: int, name: str) -> BinaryIO | None:
        path = self.others.get(task_id, Path("/nonexistent")) / name
        return path.open("rb") if path.exists() else None

    def found(self, candidates: Table) -> np.ndarray:
        """Tell which of the new stars are among the candidates."""
        if not len(candidates):
            return np.zeros(len(self.injected), bool)
        distance, _ = cKDTree(np.c_[candidates["x"], candidates["y"]]).query(
            np.c_[self.injected["x"], self.injected["y"]]
        )
        return distance < 1.5  # pixels

    def false(self, candidates: Table) -> Table:
        """Give the candidates that are none of the new stars."""
        if not len(candidates):
            return candidates
        distance, _ = cKDTree(np.c_[self.injected["x"], self.injected["y"]]).query(
            np.c_[candidates["x"], candidates["y"]]
        )
        return candidates[distance > 1.5]


def inject(sky: Observation, path: Path, mags: np.ndarray, seed: int = 3) -> Table:
    """Write the image of a simulation with new stars, far from its own and from each other."""
    rng = np.random.default_rng(seed)
    with fits.open(sky.image) as hdus:
        image, header = hdus[0].data.astype(float), hdus[0].header
    size = image.shape[0]
    bright = sky.truth[np.asarray(sky.truth["m_nat"]) < 22]
    taken = np.c_[bright["x"], bright["y"]]
    places = np.zeros((0, 2))
    while len(places) < len(mags):
        place = rng.uniform(EDGE_PIX, size - EDGE_PIX, (1, 2))
        if cKDTree(np.r_[taken, places]).query(place)[0][0] > ALONE_PIX:
            places = np.r_[places, place]
    light = np.zeros_like(image)
    fluxes = 10 ** (-0.4 * (mags - sky.zero_point_mag))
    draw_stars(light, places[:, 0], places[:, 1], fluxes, sky.fwhm_pix)
    image = np.clip(np.round(image + light), 0, 65535).astype(np.uint16)
    fits.writeto(path, image, header, overwrite=True)
    return Table({"x": places[:, 0], "y": places[:, 1], "m_nat": mags})
