"""What a difference image of a simulated field is worth: figures of one engine on one field."""

from pathlib import Path
from dataclasses import replace
from typing import Any

import numpy as np
from quality_difference_fields import BRIGHT_MAG, Scene, aperture_share
from scipy import ndimage
from scipy.spatial import cKDTree

from shared.science.aperture import measure
from shared.science.difference import Difference, Options, subtract

MATCH_PIX = 3.0
NEAR_STAR_PIX = 5.0
EMPTY_PLACES = 3000
THRESHOLD = 5.0


def run(engine: str, scene: Scene, out: Path) -> None:
    """Subtract with one core and keep the result."""
    found = subtract(engine, scene.pair, Options(threads=1))
    planes = {name: getattr(found, name) for name in ("difference", "convolved", "noise", "significance", "mask")}
    numbers = {
        name: getattr(found, name) for name in ("scale", "scale_error", "scale_scatter", "fwhm_pix", "convolved_side")
    }
    scores = {} if found.scores is None else {"flux": found.scores.flux, "flux_error": found.scores.flux_error}
    np.savez(out, **planes, **numbers, **scores, stars=found.stars)


def judge(scene: Scene, kept: dict[str, Any]) -> dict[str, Any]:
    """Compare with the truth."""
    difference, noise, bad = kept["difference"], kept["noise"], kept["mask"]
    ratio = difference / noise
    truth = scene.truth
    new = truth[np.isin(truth["kind"], ("transient", "transient_g"))]
    real = truth[truth["change"] != 0]
    off = scene.quiet & ~bad
    on = near(truth[(truth["kind"] == "star") & (truth["mag"] < BRIGHT_MAG)], bad.shape, NEAR_STAR_PIX) & ~bad
    on &= ~near(real, bad.shape, 15)
    flux, error = fluxes(scene, kept, new)
    x, y, strength = peaks(scene, kept)
    tree = cKDTree(np.column_stack([x, y]).reshape(-1, 2))
    distance, _ = tree.query(np.column_stack([new["x"], new["y"]]))
    all_distance, _ = tree.query(np.column_stack([real["x"], real["y"]]))
    ours = cKDTree(np.column_stack([real["x"], real["y"]]))
    wrong = ours.query(np.column_stack([x, y]))[0] > np.maximum(MATCH_PIX, 1.5 * float(kept["fwhm_pix"]))
    masked = bad[np.rint(new["y"]).astype(int), np.rint(new["x"]).astype(int)]
    return {
        "off": float(ratio[off].std()),
        "off_mean": float(ratio[off].mean()),
        "on": float(ratio[on].std()) if on.sum() > 100 else float("nan"),
        "masked": float(bad.mean()),
        "scale": float(kept["scale"]) / scene.scale - 1,
        "fwhm": float(kept["fwhm_pix"]),
        "false": int(wrong.sum()),
        "false_at": np.round(np.column_stack([x, y, strength])[wrong], 1).tolist(),
        "kind": new["kind"].tolist(),
        "sn": new["sn"].round(2).tolist(),
        "mag": new["mag"].round(2).tolist(),
        "found": (distance < MATCH_PIX).tolist(),
        "masked_there": masked.tolist(),
        "flux": (flux / new["flux"]).round(5).tolist(),
        "pull": ((flux - new["flux"]) / error).round(4).tolist(),
        "others": [[kind, bool(d < 6)] for kind, d in zip(real["kind"].tolist(), all_distance, strict=True)
                   if kind in {"asteroid", "variable"}],
    }  # fmt: skip


def near(some: np.ndarray, shape: tuple[int, int], radius_pix: float) -> np.ndarray:
    """Mark what lies near some sources."""
    marked = np.zeros(shape, bool)
    half = int(radius_pix) + 1
    for x, y in zip(some["x"], some["y"], strict=True):
        top, left = max(round(y) - half, 0), max(round(x) - half, 0)
        box = slice(top, max(round(y) + half + 1, 0)), slice(left, max(round(x) + half + 1, 0))
        part = marked[box]
        v, u = np.mgrid[: part.shape[0], : part.shape[1]]
        part |= np.hypot(v + top - y, u + left - x) <= radius_pix
    return marked


def fluxes(scene: Scene, kept: dict[str, Any], new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the transients: aperture of one FWHM, in ZOGY the fluxes that it gives."""
    if "flux" in kept:
        v, u = np.rint(new["y"]).astype(int), np.rint(new["x"]).astype(int)
        return interpolated(kept["flux"], new), kept["flux_error"][v, u]
    image, template = scene.case.image.shape, scene.case.template.shape
    shape = image if str(kept["convolved_side"]) == "template" else replace(template, fwhm_pix=0.95 * template.fwhm_pix)
    radius = shape.fwhm_pix
    sums = {"radius_pix": radius, "annulus_pix": (4 * radius, 6 * radius), "gain": 1e12}
    found = measure(kept["difference"], kept["noise"], kept["mask"], new["x"], new["y"], **sums)
    rng = np.random.default_rng(1)
    quiet = ndimage.binary_erosion(scene.quiet & ~kept["mask"], iterations=int(radius) + 1)
    rows, columns = np.nonzero(quiet)
    some = rng.integers(0, rows.size, EMPTY_PLACES)
    empty = measure(
        kept["difference"], kept["noise"], kept["mask"], columns[some] * 1.0, rows[some] * 1.0, **sums
    )
    spread = np.percentile(empty.flux / empty.fluxerr, (15.865, 84.135))
    share = aperture_share(shape, radius)
    return found.flux / share, found.fluxerr * (spread[1] - spread[0]) / 2 / share


def interpolated(plane: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Give values between pixels."""
    return np.asarray(ndimage.map_coordinates(plane, [new["y"], new["x"]], order=3))


def peaks(scene: Scene, kept: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find peaks of the difference smoothed to the width of a star, above five times the noise of that."""
    sigma = float(kept["fwhm_pix"]) / 2.3548
    smooth = ndimage.gaussian_filter(kept["difference"], sigma)
    size = ndimage.gaussian_filter(kept["noise"] ** 2, sigma / np.sqrt(2))
    score = smooth / np.sqrt(size)
    good = ~ndimage.binary_dilation(kept["mask"], iterations=2)
    low, high = np.percentile(score[scene.quiet & good], (15.865, 84.135))
    score /= (high - low) / 2
    score[~good] = 0
    side = 2 * int(np.ceil(float(kept["fwhm_pix"]))) + 1
    magnitude = np.abs(score)
    top = (magnitude == ndimage.maximum_filter(magnitude, side)) & (magnitude > THRESHOLD)
    y, x = np.nonzero(top)
    positive = score[y, x] > 0
    return x[positive], y[positive], score[y, x][positive]


__all__ = ["Difference", "judge", "run"]
