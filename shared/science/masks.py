"""The mask of an image: what no later step may look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import sep
from numpy.typing import NDArray

from ..errors import DataError
from .cosmics import cosmic_rays
from .images import read_mask

Log = Callable[..., None]

MAX_MASKED_FRACTION: Final = 0.95

_MESH_PIX: Final = 128
_MIN_MESH_PIX: Final = 8


def background_maps(
    image: NDArray[np.float32], mask: NDArray[np.bool_], mesh_pix: int = _MESH_PIX
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Estimate the background and its root mean square at each pixel.

    Parameters
    ----------
    image
        The image.
    mask
        True where a pixel is to be ignored.
    mesh_pix
        Side of the mesh cells; smaller on small images.

    Returns
    -------
    background, rms
        In the unit of the image.
    """
    mesh = int(max(min(mesh_pix, *(side // 2 for side in image.shape)), _MIN_MESH_PIX))
    # values that are masked still count in sums inside sep, where a NaN would spread
    clean = np.where(mask, np.float32(0), image) if mask.any() else image
    background = sep.Background(clean, mask=mask, bw=mesh, bh=mesh)
    return background.back(dtype=np.float32), background.rms(dtype=np.float32)


def build_mask(
    image: NDArray[np.float32],
    saturation_adu: float,
    gain: float,
    *,
    custom: NDArray[np.bool_] | None,
    mask_cosmics: bool,
    log: Log,
) -> NDArray[np.bool_]:
    """Mask what is not finite, saturated, masked by the user, or hit by cosmic rays.

    Parameters
    ----------
    image
        The image, ADU.
    saturation_adu
        Level from which pixels count as saturated.
    gain
        Electrons per ADU.
    custom
        The user's mask.
    mask_cosmics
        Whether to look for cosmic rays.
    log
        Takes lines for the user.

    Raises
    ------
    DataError
        When more than 95 % of the pixels are masked.
    """
    parts = {"not finite": ~np.isfinite(image), "saturated": image >= saturation_adu}
    if custom is not None:
        parts["in the custom mask"] = custom
    mask: NDArray[np.bool_] = np.logical_or.reduce(list(parts.values()))
    for name, part in parts.items():
        log(f"Mask: {_share(part)} {name}")
    if mask.mean() > MAX_MASKED_FRACTION:
        what = ", ".join(f"{100 * part.mean():.1f} % {name}" for name, part in parts.items() if part.any())
        raise DataError(
            "masked",
            f"{100 * mask.mean():.1f} % of the image is masked ({what}), more than the "
            f"{100 * MAX_MASKED_FRACTION:.0f} % that are allowed. Check saturation and custom_mask.fits.",
        )
    if mask_cosmics:
        background, noise = background_maps(image, mask)
        hits = cosmic_rays(image, mask, background, noise, gain)
        log(f"Mask: {_share(hits)} hit by cosmic rays")
        mask |= hits
    log(f"Mask: {_share(mask)} in total")
    return mask


def custom_mask(path: Path | None, shape: tuple[int, ...], log: Log) -> NDArray[np.bool_] | None:
    """Read the user's mask; None without one.

    Raises
    ------
    DataError
        When it cannot be read, or is not of the image's shape.
    """
    if path is None:
        return None
    log("Using custom_mask.fits")
    try:
        return read_mask(path, (shape[0], shape[1]))
    except DataError as error:
        if error.code == "mask_shape":
            raise
        message = f"custom_mask.fits cannot be used. {error.user_message}"
        raise DataError("bad_mask", message.replace("The image", "The mask")) from error


def _share(part: NDArray[np.bool_]) -> str:
    return f"{int(part.sum())} pixels ({100 * part.mean():.2f} %)"
