"""From the bytes of a FITS file and options to the bytes of a picture."""

from .cutout import render_cutout
from .fits import BLOCK_BYTES, Part, choose, walk
from .picture import render_image
from .plane import Plane
from .unpack import copy_of_compressed, copy_of_gzipped, is_gzipped

__all__ = [
    "BLOCK_BYTES",
    "Part",
    "Plane",
    "choose",
    "copy_of_compressed",
    "copy_of_gzipped",
    "is_gzipped",
    "render_cutout",
    "render_image",
    "walk",
]
