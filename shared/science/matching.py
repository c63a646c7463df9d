"""Pairing of positions on the sky, blends, and whether two lists of magnitudes belong together."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

Floats = NDArray[np.float64]


def match_sky(
    ra_deg: ArrayLike, dec_deg: ArrayLike, ra2_deg: ArrayLike, dec2_deg: ArrayLike, radius_deg: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Pair positions one to one, the closest first.

    Returns
    -------
    Indices into the first and the second list, and distances in degrees.
    """
    first, second = unit_vectors(ra_deg, dec_deg), unit_vectors(ra2_deg, dec2_deg)
    none = np.zeros(0, np.intp)
    finite1, finite2 = np.flatnonzero(np.isfinite(first[:, 0])), np.flatnonzero(np.isfinite(second[:, 0]))
    if not finite1.size or not finite2.size:
        return none, none, np.zeros(0)
    chord = 2 * np.sin(np.deg2rad(min(radius_deg, 90.0)) / 2)
    distance, index = cKDTree(second[finite2]).query(first[finite1], distance_upper_bound=chord)
    near = np.flatnonzero(np.isfinite(distance))
    near = near[np.argsort(distance[near], kind="stable")]
    _, once = np.unique(index[near], return_index=True)
    near = near[np.sort(once)]
    return finite1[near], finite2[index[near]], np.rad2deg(2 * np.arcsin(distance[near] / 2))


def all_pairs(
    ra_deg: ArrayLike, dec_deg: ArrayLike, ra2_deg: ArrayLike, dec2_deg: ArrayLike, radius_deg: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """List every pair of positions within a radius, as indices into the first and the second list."""
    first, second = unit_vectors(ra_deg, dec_deg), unit_vectors(ra2_deg, dec2_deg)
    none = np.zeros(0, np.intp)
    finite1, finite2 = np.flatnonzero(np.isfinite(first[:, 0])), np.flatnonzero(np.isfinite(second[:, 0]))
    if not finite1.size or not finite2.size:
        return none, none
    chord = 2 * np.sin(np.deg2rad(min(radius_deg, 90.0)) / 2)
    near = cKDTree(second[finite2]).query_ball_point(first[finite1], chord, return_sorted=True)
    counts = np.array([len(found) for found in near], np.intp)
    partners = np.array([index for found in near for index in found], np.intp)
    return np.repeat(finite1, counts), finite2[partners]


def unit_vectors(ra_deg: ArrayLike, dec_deg: ArrayLike) -> Floats:
    """Give positions on the sphere as unit vectors, one a row."""
    ra, dec = np.deg2rad(np.asarray(ra_deg, float)), np.deg2rad(np.asarray(dec_deg, float))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def blended(
    ra_deg: ArrayLike, dec_deg: ArrayLike, mag: ArrayLike, radius_deg: float, ratio: float
) -> NDArray[np.bool_]:
    """Tell which stars have neighbours within a radius whose summed flux exceeds `ratio` of their own."""
    points = unit_vectors(ra_deg, dec_deg)
    brightness = np.where(np.isfinite(np.asarray(mag, float)), 10 ** (-0.4 * np.asarray(mag, float)), 0.0)
    if len(points) < 2:  # noqa: PLR2004  nothing to blend with
        return np.zeros(len(points), bool)
    pairs = cKDTree(points).query_pairs(2 * np.sin(np.deg2rad(radius_deg) / 2), output_type="ndarray")
    neighbours = np.zeros(len(points))
    np.add.at(neighbours, pairs[:, 0], brightness[pairs[:, 1]])
    np.add.at(neighbours, pairs[:, 1], brightness[pairs[:, 0]])
    return neighbours > ratio * brightness


def correlation_p_value(first: Floats, second: Floats) -> float:
    """Give the one-sided probability that unrelated magnitudes agree in order this well (Spearman, t distribution).

    1 when there are fewer than five pairs, which tell nothing.
    """
    if len(first) < 5 or np.ptp(first) == 0 or np.ptp(second) == 0:  # noqa: PLR2004  see above
        return 1.0
    return float(spearmanr(first, second, alternative="greater").pvalue)
