"""An image less its template, as the parts of the step hand it on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.science.difference import Difference, Engine
from shared.science.solution import Inputs
from shared.science.templates import Template


@dataclass(frozen=True)
class Subtracted:
    """What there is once the template is subtracted; all maps have the shape of the image.

    Parameters
    ----------
    inputs
        What photometry left.
    image
        As uploaded, ADU.
    background_rms
        Noise of the image's background at each pixel, ADU.
    gain
        Of the image, e-/ADU.
    template
        On the pixels of the image.
    difference
        Of the whole frame.
    """

    inputs: Inputs
    image: NDArray[np.float32]
    background_rms: NDArray[np.float32]
    gain: float
    template: Template
    difference: Difference
    engine: Engine
