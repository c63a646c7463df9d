"""SFFT as users of STDPipe run it, for comparison with our engines."""

from pathlib import Path

import numpy as np
import sep
from quality_difference_fields import Scene
from quality_difference_measure import save
from stdpipe import sfft as stdpipe_sfft
from stdpipe import subtraction as stdpipe_subtraction

from shared.science.difference import Difference

KERNEL = (9, 9)


def keep(scene: Scene, found: dict[str, np.ndarray | float], out: Path) -> None:
    """Keep what STDPipe made as a difference of ours."""
    bad = found["bad"]
    planes = {name: found[name].astype(np.float32) for name in ("difference", "convolved", "noise")}
    planes["noise"][~(planes["noise"] > 0)] = np.median(planes["noise"])
    planes["difference"][bad] = 0
    save(
        Difference(
            **planes,
            significance=planes["difference"] / planes["noise"],
            mask=bad,
            scale=found["scale"],
            scale_error=np.nan,
            scale_scatter=np.nan,
            fwhm_pix=scene.case.image.shape.fwhm_pix,
            convolved_side="template",
            stars=0,
        ),
        out,
    )


def without_sky(plane: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Take off the background as STDPipe's users do."""
    return np.asarray(plane - sep.Background(plane, mask=bad).back())


def sfft(
    scene: Scene, image: tuple[np.ndarray, np.ndarray], template: tuple[np.ndarray, np.ndarray], reweighted: bool
) -> dict[str, np.ndarray | float]:
    """Run STDPipe's SFFT on pixels and masks."""
    difference, convolved, noise, found = stdpipe_subtraction.run_sfft(
        image[0],
        template[0],
        mask=image[1],
        template_mask=template[1],
        err=True,
        template_err=True if reweighted else None,
        image_gain=scene.pair.gain,
        template_gain=scene.pair.template_gain,
        kernel_shape=KERNEL,
        kernel_poly_order=0,
        bg_poly_order=0,
        flux_poly_order=0,
        get_convolved=True,
        get_noise=True,
        get_kernel=True,
    )
    rows, columns = image[0].shape
    return {
        "difference": difference,
        "convolved": convolved,
        "noise": noise,
        "bad": image[1] | template[1] | found.dmask,
        "scale": float(stdpipe_sfft.evaluate_flux_scale(found, columns / 2, rows / 2, (rows, columns))),
    }
