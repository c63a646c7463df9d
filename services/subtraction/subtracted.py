"""An image less its template, as the parts of the step hand it on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.science.difference import Difference, Engine
from shared.science.solution import Inputs
from shared.science.templates import Template


@dataclass(frozen=True)
class Subtracted:
    """What there is once the template is subtracted.

    All maps have the shape of the image in detection mode; in target mode they cover what was needed of it.

    Parameters
    ----------
    inputs
        What photometry left.
    image
        As uploaded, ADU.
    mask
        Bad pixels of the image.
    level
        The image's background, ADU.
    gain
        Of the image, e-/ADU.
    template
        On the pixels of the image.
    difference
        Put together of its parts; where none could be matched it is masked.
    """

    inputs: Inputs
    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    level: NDArray[np.float32]
    gain: float
    template: Template
    difference: Difference
    engine: Engine
