"""The plain sequence of public STDPipe calls that the photometry step is measured against."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from stdpipe import artefacts, astrometry, photometry, pipeline, plots


def plain_photometry(
    image_path: Path, mask_path: Path, catalog: Callable[[float, float, float], Table], folder: Path, *, gain: float
) -> tuple[Table, WCS]:
    """Detect, filter, measure, refine the WCS with SCAMP, calibrate, and plot, as the old system did."""
    image, header = fits.getdata(image_path).astype(np.double), fits.getheader(image_path)
    mask = fits.getdata(mask_path) > 0
    wcs = WCS(header)
    obj, _, _, background, _ = photometry.get_objects_sextractor(
        image,
        header=header,
        mask=mask,
        aper=3.0,
        gain=gain,
        minarea=5,
        bg_size=256,
        sn=5,
        wcs=wcs,
        checkimages=["SEGMENTATION", "FILTERED", "BACKGROUND", "BACKGROUND_RMS"],
        extra_params=["NUMBER", "FLUX_RADIUS", "MAG_AUTO", "FLUX_AUTO", "FLUX_MAX"],
    )
    detected = obj.copy()
    good = artefacts.filter_sextractor_detections(obj, verbose=False)
    obj["flags"][~good] |= 0x4000
    best = (obj["flags"] == 0) & (obj["magerr"] < 1 / 20)
    fwhm = float(np.median(2 * obj["FLUX_RADIUS"][best]))
    obj = photometry.measure_objects(
        obj, image, mask=mask, fwhm=fwhm, aper=1, bkgann=(5, 7), gain=gain, bg=background, err=None, sn=5
    )
    ra, dec, radius = astrometry.get_frame_center(wcs=wcs, width=image.shape[1], height=image.shape[0])
    cat = catalog(ra, dec, radius)
    refined = astrometry.refine_wcs_scamp(
        obj, cat, wcs=wcs, sr=10 / 3600, order=3, cat_col_mag="rmag", cat_col_mag_err="e_rmag", verbose=False
    )
    wcs = refined if refined is not None else wcs
    obj["ra"], obj["dec"] = wcs.all_pix2world(obj["x"], obj["y"], 0)
    pixscale = astrometry.get_pixscale(wcs=wcs)
    match = pipeline.calibrate_photometry(
        obj,
        cat,
        sr=0.5 * fwhm * pixscale,
        pixscale=pixscale,
        order=2,
        cat_col_mag="rmag",
        cat_col_mag_err="e_rmag",
        cat_col_mag1="gmag",
        cat_col_mag2="rmag",
        max_intrinsic_rms=0.01,
        robust=True,
        scale_noise=True,
        verbose=False,
    )
    rng = np.random.default_rng(1)
    order = np.arange(len(match["cmag"]))
    for _ in range(10_000):  # the old system's test of whether the magnitudes correlate
        rng.shuffle(order)
        np.corrcoef(match["omag"][order], match["cmag"])
    for sn in (10, 5, 3, 5):
        pipeline.get_detection_limit(obj, sn=sn, verbose=False)
    _plots(image, mask, detected=detected, obj=obj, cat=cat, match=match, fwhm=fwhm, folder=folder)
    return obj, wcs


def _plots(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    detected: Table,
    obj: Table,
    cat: Table,
    match: dict[str, Any],
    fwhm: float,
    folder: Path,
) -> None:
    """Draw the thirteen plots."""
    size = {"figsize": (8, 6)}

    def saver(name: str) -> Any:
        return plots.figure_saver(str(folder / f"baseline_{name}.png"), **size)

    with saver("objects") as figure:
        panel = figure.add_subplot(1, 1, 1)
        plots.imshow(image, mask=mask, ax=panel)
        panel.plot(detected["x"], detected["y"], ".")
    clean = obj["flags"] == 0
    with saver("fwhm") as figure:
        panel = figure.add_subplot(1, 1, 1)
        plots.binned_map(obj["x"][clean], obj["y"][clean], obj["fwhm"][clean], bins=8, ax=panel)
    with saver("fwhm_mag") as figure:
        panel = figure.add_subplot(1, 1, 1)
        panel.plot(2 * obj["FLUX_RADIUS"], obj["mag"], ".", alpha=0.3)
        panel.axvline(fwhm)
    with saver("prefilter") as figure:
        for number, name in enumerate(("FLUX_RADIUS", "fwhm", "FLUX_MAX"), start=1):
            figure.add_subplot(1, 3, number).plot(obj["MAG_AUTO"], obj[name], ".", alpha=0.3)
    for name, modes, options in (
        ("photometry", ("mag", "color"), {"show_masked": False}),
        ("photometry_unmasked", ("mag", "normed"), {}),
    ):
        with saver(name) as figure:
            for number, mode in enumerate(modes, start=1):
                plots.plot_photometric_match(match, ax=figure.add_subplot(2, 1, number), mode=mode, **options)
    for name, mode in (
        ("photometry_zeropoint", "zero"),
        ("photometry_model", "model"),
        ("photometry_residuals", "residuals"),
        ("astrometry_dist", "dist"),
    ):
        with saver(name) as figure:
            plots.plot_photometric_match(match, ax=figure.add_subplot(1, 1, 1), mode=mode, bins=8)
    with saver("limit_hist") as figure:
        plots.plot_mag_histogram(obj, cat, cat_col_mag="rmag", sn=5, ax=figure.add_subplot(1, 1, 1))
    with saver("limit_sn") as figure:
        plots.plot_detection_limit(obj, sn=5, mag_name="r", ax=figure.add_subplot(1, 1, 1))
    with saver("catalog") as figure:
        figure.add_subplot(1, 1, 1).plot(cat["RAJ2000"], cat["DEJ2000"], ".")
