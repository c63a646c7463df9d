"""What a difference image of a simulated field is worth: figures of one engine on one field."""

from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from quality_difference_fields import BRIGHT_MAG, Scene, aperture_share
from scipy.spatial import cKDTree

from shared.science.difference import Difference, Options, Scores, subtract
from shared.science.difference_photometry import apertures, measure
from shared.science.difference_search import Options as Search
from shared.science.difference_search import find_candidates

MATCH_PIX = 3.0
SAME_PER_FWHM = 1.5
NEAR_STAR_PIX = 5.0
NEAR_CHANGE_PIX = 15.0
FWHM_OF_PHOTOMETRY = 1.27
"""Twice the half-light radius over the FWHM of a Moffat profile with the exponent 3."""
ANNULUS = (5.0, 7.0)
NO_SHAPES = "`filter_prefilter` off"
OTHER_SEARCHES = (
    (NO_SHAPES, False, True),
    ("`filter_adjust` off", True, False),
    ("both off", False, False),
)
"""Searches without some of the filters: by shape, and of what a mismatch explains."""


def run(engine: str, scene: Scene, out: Path) -> None:
    """Subtract with one core and keep the result."""
    save(subtract(engine, scene.pair, Options(threads=1)), out)


def save(found: Difference, out: Path) -> None:
    """Keep a difference in a file."""
    kept = {name: value for name, value in vars(found).items() if name != "scores"}
    scores = {} if found.scores is None else {f"score_{name}": value for name, value in vars(found.scores).items()}
    np.savez(out, **kept, **{name: value for name, value in scores.items() if value is not None})


def load(path: Path) -> Difference:
    """Read what `save` kept."""
    with np.load(path) as file:
        kept = {name: file[name] if file[name].ndim else file[name].item() for name in file.files}
    scores = {name.removeprefix("score_"): kept.pop(name) for name in list(kept) if name.startswith("score_")}
    return Difference(**kept, scores=Scores(**scores) if scores else None)


def judge(scene: Scene, found: Difference) -> dict[str, Any]:
    """Compare with the truth."""
    truth, bad = scene.truth, found.mask
    new = truth[np.isin(truth["kind"], ("transient", "transient_g"))]
    real = truth[truth["change"] != 0]
    off = scene.quiet & ~bad
    bright = truth[(truth["kind"] == "star") & (truth["mag"] < BRIGHT_MAG)]
    on = near(bright, bad.shape, NEAR_STAR_PIX) & ~bad & ~near(real, bad.shape, NEAR_CHANGE_PIX)
    fwhm = FWHM_OF_PHOTOMETRY * scene.case.image.shape.fwhm_pix
    annulus = (ANNULUS[0] * fwhm, ANNULUS[1] * fwhm)
    image, mask = scene.pair.image, scene.pair.mask
    how = apertures(found, image, mask, radius_pix=fwhm, annulus_pix=annulus)
    forced = measure(found, new["x"], new["y"], how)
    expected = new["flux"] * aperture_share(scene.case.image.shape, fwhm)
    table = find_candidates(found, image, mask, Search(fwhm, annulus), lambda *_: None, how=how).table
    places = _places(table)
    to_candidate, _ = cKDTree(places).query(_places(real))
    away, nearest = cKDTree(places).query(_places(new))
    found_new = away < MATCH_PIX
    off_x = places[nearest[found_new], 0] - new["x"][found_new]
    off_y = places[nearest[found_new], 1] - new["y"][found_new]
    xerr, yerr = (np.asarray(table[name], float)[nearest[found_new]] for name in ("xerr", "yerr"))
    from_real, _ = cKDTree(_places(real)).query(places)
    far = max(MATCH_PIX, SAME_PER_FWHM * found.fwhm_pix)
    wrong = from_real > far
    at = np.rint(new["y"]).astype(int), np.rint(new["x"]).astype(int)
    trails = real["kind"] == "asteroid"
    brighter = (real["kind"] == "variable") & (real["change"] > 0)
    others = {}
    for name, shapes, adjust in OTHER_SEARCHES:
        search = Search(fwhm, annulus, shapes=shapes, adjust=adjust)
        others[name] = _places(find_candidates(found, image, mask, search, lambda *_: None, how=how).table)
    return {
        "off": _sd(found.significance[off]),
        "off_mean": float(found.significance[off].mean()),
        "on": _sd(found.significance[on]),
        "masked": float(bad.mean()),
        "scale": found.scale / scene.scale - 1,
        "false": int(wrong.sum()),
        "false_at": np.round(places[wrong], 1).tolist(),
        "kind": new["kind"].tolist(),
        "sn": new["sn"].round(2).tolist(),
        "mag": new["mag"].round(2).tolist(),
        "found": found_new.tolist(),
        "position_sn": new["sn"][found_new].round(2).tolist(),
        "position_x": off_x.round(4).tolist(),
        "position_y": off_y.round(4).tolist(),
        "position_pull_x": (off_x / xerr).round(3).tolist(),
        "position_pull_y": (off_y / yerr).round(3).tolist(),
        "lost_to_mask": bad[at].tolist(),
        "clean": (forced.flags == 0).tolist(),
        "ratio": np.nan_to_num(forced.flux / expected, nan=-9).round(5).tolist(),
        "pull": np.nan_to_num((forced.flux - expected) / forced.fluxerr, nan=99).round(4).tolist(),
        "asteroids": (to_candidate[trails] < 2 * MATCH_PIX).tolist(),
        "asteroids_odd": _near(others[NO_SHAPES], real[trails], 2 * MATCH_PIX).tolist(),
        "asteroids_fwhm": (real["extent"][trails] / scene.case.image.shape.fwhm_pix).round(2).tolist(),
        "false_odd": _false(others[NO_SHAPES], real, far),
        "searches": {
            name: {
                "found": _near(there, new, MATCH_PIX).tolist(),
                "false": _false(there, real, far),
                "variables": int(_near(there, real[brighter], 2 * MATCH_PIX).sum()),
            }
            for name, there in others.items()
        },
        "variables": [int((to_candidate[brighter] < 2 * MATCH_PIX).sum()), int(brighter.sum())],
    }


def _sd(values: np.ndarray) -> float | None:
    return float(values.std()) if values.size > 100 else None


def _places(some: np.ndarray | Table) -> np.ndarray:
    return np.column_stack([some["x"], some["y"]]).reshape(-1, 2)


def _near(places: np.ndarray, some: np.ndarray, radius_pix: float) -> np.ndarray:
    """Tell which sources have one of the places near."""
    return np.asarray(cKDTree(places).query(_places(some))[0] < radius_pix)


def _false(places: np.ndarray, real: np.ndarray, radius_pix: float) -> int:
    """Count places where nothing has changed."""
    return int((cKDTree(_places(real)).query(places)[0] > radius_pix).sum())


def near(some: np.ndarray, shape: tuple[int, int], radius_pix: float) -> np.ndarray:
    """Mark what lies near some sources."""
    marked = np.zeros(shape, bool)
    half = int(radius_pix) + 1
    for x, y in zip(some["x"], some["y"], strict=True):
        top, left = max(round(y) - half, 0), max(round(x) - half, 0)
        part = marked[top : max(round(y) + half + 1, 0), left : max(round(x) + half + 1, 0)]
        v, u = np.mgrid[: part.shape[0], : part.shape[1]]
        part |= np.hypot(v + top - y, u + left - x) <= radius_pix
    return marked
