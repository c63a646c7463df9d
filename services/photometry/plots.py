"""Plots of the photometry step. Each function writes one PNG; points are thinned where there are very many."""

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from shared.science.limits import signal_to_noise
from shared.science.shapes import FLAG_ODD_SHAPE
from shared.science.zeropoint import Fit, ZeroPoint

Floats = NDArray[np.float64]

_DPI: Final = 80
_MAX_POINTS: Final = 5000
_PREVIEW_PIX: Final = 512
_BINS: Final = 16
_RANGE: Final = (1.0, 99.0)


def figure(columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Make an empty figure with panels side by side."""
    result = Figure(figsize=(8 if columns == 1 else 12, 6), dpi=_DPI)
    FigureCanvasAgg(result)
    panels = [result.add_subplot(1, columns, index + 1) for index in range(columns)]
    result.subplots_adjust(left=0.09, right=0.97, bottom=0.1, top=0.92, wspace=0.22)
    return result, panels


def save(made: Figure, path: Path) -> None:
    """Write a figure; few ticks and little compression, because most of the time goes there and it is waited for."""
    for panel in made.axes:
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_minor_locator(NullLocator())
    made.savefig(path, format="png", pil_kwargs={"compress_level": 2})


def _points(panel: Axes, x: Floats, y: Floats, **style: Any) -> None:
    """Plot dots, at most some thousands, dropping what is not finite."""
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if finite.size > _MAX_POINTS:
        finite = finite[:: -(-finite.size // _MAX_POINTS)]
    panel.plot(x[finite], y[finite], ".", markersize=3, **{"alpha": 0.5, **style})


def _legend(panel: Axes, place: Literal["upper left", "upper right"]) -> None:
    """Add a legend whose dots can be told apart; those of the data are small because there are thousands."""
    for handle in panel.legend(loc=place, markerscale=3).legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _limits(values: Floats, low: float = _RANGE[0], high: float = _RANGE[1]) -> tuple[float, float] | None:
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    lower, upper = np.percentile(values, (low, high))
    margin = 0.1 * (upper - lower) or 0.05
    return float(lower - margin), float(upper + margin)


def _column(table: Table, name: str) -> Floats:
    return np.asarray(table[name], np.float64)


def _map(path: Path, x: Floats, y: Floats, values: Floats, shape: tuple[int, int], *, title: str, label: str) -> None:
    """Draw the median of values in cells of the field."""
    made, (panel,) = figure()
    rows, columns = shape
    cells = np.full(_BINS * _BINS, np.nan)
    good = np.isfinite(values) & np.isfinite(x) & np.isfinite(y)
    ix = np.clip((x[good] + 0.5) / columns * _BINS, 0, _BINS - 1).astype(int)
    iy = np.clip((y[good] + 0.5) / rows * _BINS, 0, _BINS - 1).astype(int)
    index = iy * _BINS + ix
    order = np.argsort(index, kind="stable")
    groups, starts = np.unique(index[order], return_index=True)
    for group, part in zip(groups, np.split(values[good][order], starts[1:]), strict=False):
        cells[group] = np.median(part)
    span = _limits(cells) or (0.0, 1.0)
    drawn = panel.imshow(
        cells.reshape(_BINS, _BINS),
        origin="lower",
        extent=(-0.5, columns - 0.5, -0.5, rows - 0.5),
        vmin=span[0],
        vmax=span[1],
        interpolation="nearest",
    )
    made.colorbar(drawn, ax=panel, label=label)
    panel.set(title=title, xlabel="x, pixels", ylabel="y, pixels")
    save(made, path)


def draw_objects(path: Path, image: NDArray[np.float32], table: Table) -> None:
    """Draw the image with the detected objects."""
    made, (panel,) = figure()
    rows, columns = image.shape
    step = max(max(rows, columns) // _PREVIEW_PIX, 1)
    preview = image[::step, ::step]
    low, high = _limits(preview.ravel()[::7].astype(float), 0.5, 99.5) or (0.0, 1.0)
    panel.imshow(
        preview, origin="lower", cmap="Blues_r", vmin=low, vmax=high, extent=(-0.5, columns - 0.5, -0.5, rows - 0.5)
    )
    clean = np.asarray(table["flags"]) == 0
    x, y = _column(table, "x"), _column(table, "y")
    _points(panel, x[clean], y[clean], color="tab:red", label="unflagged")
    _points(panel, x[~clean], y[~clean], color="gold", label="flagged")
    _legend(panel, "upper right")
    panel.set(title=f"{len(table)} objects, {clean.sum()} unflagged", xlabel="x, pixels", ylabel="y, pixels")
    save(made, path)


def draw_fwhm(path: Path, table: Table, shape: tuple[int, int]) -> None:
    """Draw the FWHM over the field."""
    good = np.asarray(table["flags"]) == 0
    width = np.where(good, 2 * _column(table, "FLUX_RADIUS"), np.nan)
    _map(path, _column(table, "x"), _column(table, "y"), width, shape, title="FWHM, 2 × FLUX_RADIUS", label="pixels")


def draw_fwhm_mag(path: Path, table: Table, fwhm_pix: float) -> None:
    """Draw the FWHM against the instrumental magnitude."""
    made, (panel,) = figure()
    clean = np.asarray(table["flags"]) == 0
    width, mag = 2 * _column(table, "FLUX_RADIUS"), _column(table, "mag")
    _points(panel, width[~clean], mag[~clean], color="silver", label="flagged")
    _points(panel, width[clean], mag[clean], color="tab:blue", label="unflagged")
    panel.axvline(fwhm_pix, color="tab:red", label=f"FWHM {fwhm_pix:.2f} pixels")
    panel.invert_yaxis()
    panel.set(xlim=(0, 4 * fwhm_pix), title="FWHM against magnitude", xlabel="2 × FLUX_RADIUS, pixels")
    panel.set_ylabel("instrumental magnitude")
    _legend(panel, "upper right")
    save(made, path)


def draw_prefilter(path: Path, table: Table) -> None:
    """Draw what the shape filter rejects."""
    made, panels = figure(2)
    odd = (np.asarray(table["flags"]) & FLAG_ODD_SHAPE) != 0
    mag = _column(table, "MAG_AUTO")
    with np.errstate(all="ignore"):
        peak = np.log10(_column(table, "FLUX_MAX") / _column(table, "FLUX_AUTO"))
        width = np.log10(_column(table, "FLUX_RADIUS"))
    for panel, values, label in ((panels[0], width, "log FLUX_RADIUS"), (panels[1], peak, "log FLUX_MAX/FLUX_AUTO")):
        _points(panel, mag[~odd], values[~odd], color="tab:blue", label="kept")
        _points(panel, mag[odd], values[odd], color="tab:red", label="odd")
        panel.set(xlabel="MAG_AUTO", ylabel=label, xlim=_limits(mag), ylim=_limits(values, 0.2, 99.8))
        _legend(panel, "upper left")
    panels[0].set_title(f"Shape filter: {odd.sum()} of {odd.size} are odd")
    save(made, path)


def draw_photometry(path: Path, fit: Fit, color_name: str, *, everything: bool) -> None:
    """Draw residuals of the zero-point model against magnitude and colour.

    Parameters
    ----------
    everything
        Show pairs that took no part in the fit as well.
    """
    made, panels = figure(2)
    pairs = fit.pairs
    residual = pairs.zero - fit.values
    for panel, values, label in (
        (panels[0], pairs.cat_mag, "catalogue magnitude"),
        (panels[1], pairs.color, color_name),
    ):
        if everything:
            _points(panel, values[~fit.used], residual[~fit.used], color="silver", label="not used")
        _points(panel, values[fit.used], residual[fit.used], color="tab:blue", label="used")
        panel.axhline(0, color="black", linewidth=0.8)
        shown = residual if everything else residual[fit.used]
        panel.set(xlabel=label, ylabel="catalogue - model, mag", ylim=_limits(shown))
        _legend(panel, "upper left")
    panels[0].set_title(f"{fit.model.used} stars used, scatter {fit.model.scatter:.3f} mag")
    panels[1].set_title(f"Colour term {fit.model.color_term:+.3f} ± {fit.model.color_term_err:.3f}")
    save(made, path)


def draw_zero_points(path: Path, fit: Fit, shape: tuple[int, int]) -> None:
    """Draw measured zero points, colour taken out, over the field."""
    pairs, used = fit.pairs, fit.used
    color = np.where(np.isfinite(pairs.color), pairs.color, 0.0) * fit.model.color_term
    zero = np.where(used, pairs.zero - color, np.nan)
    _map(path, pairs.x, pairs.y, zero, shape, title="Zero points", label="mag")


def draw_model(path: Path, model: ZeroPoint, shape: tuple[int, int]) -> None:
    """Draw the zero-point model over the field."""
    rows, columns = shape
    middles = (np.arange(_BINS) + 0.5) / _BINS
    x, y = np.tile(middles * columns - 0.5, _BINS), np.repeat(middles * rows - 0.5, _BINS)
    _map(
        path,
        x,
        y,
        model.evaluate(x, y),
        shape,
        title=f"Zero-point model, order {model.terms.spatial_order}",
        label="mag",
    )


def draw_residuals(path: Path, fit: Fit, shape: tuple[int, int]) -> None:
    """Draw what the model leaves over the field."""
    residual = np.where(fit.used, fit.pairs.zero - fit.values, np.nan)
    _map(path, fit.pairs.x, fit.pairs.y, residual, shape, title="Catalogue - model", label="mag")


def draw_astrometry(path: Path, fit: Fit, radius_arcsec: float, rms_arcsec: float | None) -> None:
    """Draw the distances between objects and catalogue stars."""
    made, (panel,) = figure()
    bins = np.linspace(0, radius_arcsec, 51).tolist()
    panel.hist(fit.pairs.distance_arcsec, bins=bins, histtype="step", color="silver", label="all matches")
    panel.hist(fit.pairs.distance_arcsec[fit.used], bins=bins, histtype="step", color="tab:blue", label="calibrators")
    title = "Distances to the catalogue"
    panel.set(
        title=title if rms_arcsec is None else f"{title}, rms of the solution {1000 * rms_arcsec:.1f} mas",
        xlabel="distance, arcsec",
        ylabel="stars",
    )
    _legend(panel, "upper right")
    save(made, path)


def draw_limit_histogram(path: Path, table: Table, catalog_mag: Floats, limit_mag: float | None) -> None:
    """Draw how many objects and catalogue stars there are by magnitude."""
    made, (panel,) = figure()
    mag = _column(table, "mag_calib")
    span = _limits(np.concatenate([mag, catalog_mag]), 0.1, 99.9) or (0.0, 1.0)
    bins = np.linspace(*span, 51).tolist()
    panel.hist(catalog_mag[np.isfinite(catalog_mag)], bins=bins, histtype="step", color="silver", label="catalogue")
    panel.hist(mag[np.isfinite(mag)], bins=bins, histtype="step", color="tab:blue", label="objects")
    if limit_mag is not None:
        panel.axvline(limit_mag, color="tab:red", label=f"limit {limit_mag:.2f}")
    panel.set(title="Magnitudes", xlabel="magnitude", ylabel="number", yscale="log")
    _legend(panel, "upper left")
    save(made, path)


def draw_limit_sn(
    path: Path, table: Table, noise_adu: float, gain: float, *, zp_mag: float, limits: dict[float, float]
) -> None:
    """Draw signal to noise against magnitude, with the limits."""
    made, (panel,) = figure()
    mag = _column(table, "mag_calib")
    with np.errstate(all="ignore"):
        ratio = _column(table, "flux") / _column(table, "fluxerr")
    _points(panel, mag, np.where(ratio > 0, ratio, np.nan), color="tab:blue")
    span = _limits(mag, 0.0, 100.0) or (10.0, 20.0)
    if np.isfinite(noise_adu):
        curve = np.linspace(span[0], span[1] + 1, 100)
        panel.plot(curve, signal_to_noise(10 ** (-0.4 * (curve - zp_mag)), noise_adu, gain), color="black")
    for level, value in limits.items():
        panel.axvline(value, color="tab:red", linewidth=0.8)
        panel.axhline(level, color="tab:red", linewidth=0.8, linestyle=":")
    words = ", ".join(f"S/N {level:g}: {value:.2f}" for level, value in limits.items())
    panel.set(yscale="log", title=f"Limits: {words or 'unknown'}", xlabel="magnitude", ylabel="S/N")
    save(made, path)


def draw_color_diagnosis(path: Path, rows: list[tuple[str, float, float]]) -> None:
    """Draw colour terms and scatter of fits against every band of the catalogue."""
    made, panels = figure(2)
    names = [name for name, _, _ in rows]
    places = np.arange(len(rows))
    for panel, values, label in (
        (panels[0], [abs(term) for _, term, _ in rows], "absolute colour term"),
        (panels[1], [scatter for _, _, scatter in rows], "scatter, mag"),
    ):
        panel.bar(places, values, color="tab:blue")
        panel.set_xticks(places, names)
        panel.set_ylabel(label)
    panels[0].set_title("The band with the smallest term is the likely filter")
    save(made, path)
