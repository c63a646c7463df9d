"""Which template survey is suggested where, and which of its bands is used for an image."""

from collections.abc import Mapping
from typing import Final

from ...contracts.bands import TEMPLATES
from ...errors import UsageError
from .cells import legacy_bricks

PS1_SOUTH_DEG: Final = -30.0

TEMPLATE_BANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "U": ("u", "g"),
    "B": ("u", "g"),
    "V": ("g",),
    "R": ("r", "i"),
    "I": ("i", "z"),
    "u": ("u", "g"),
    "g": ("g",),
    "r": ("r", "i"),
    "i": ("i", "r"),
    "z": ("z", "i", "r"),
    "y": ("y", "z", "i", "r"),
    "G": ("r", "g"),
    "BP": ("g",),
    "RP": ("i", "r"),
    "J": ("J", "i", "r"),
    "H": ("H", "i", "r"),
    "Ks": ("Ks", "i", "r"),
}
"""For the band of an image, those of templates that come near it, best first."""


def template_band(source: str, band: str) -> str:
    """Give the band of a template survey that is used for an image in `band`; for `custom` that is `band` itself.

    Raises
    ------
    UsageError
        When there is no such survey, or it has nothing near the band.
    """
    if source not in TEMPLATES:
        raise UsageError(
            "unknown_template", f"There is no template {source!r}: set template to one of {', '.join(TEMPLATES)}."
        )
    offered = TEMPLATES[source].filters
    if offered is None:
        return band
    for wanted in TEMPLATE_BANDS.get(band, ()):
        if wanted in offered:
            return wanted
    able = [code for code, row in TEMPLATES.items() if row.filters and set(row.filters) & set(TEMPLATE_BANDS[band])]
    raise UsageError(
        "no_template_band",
        f"{TEMPLATES[source].name} has no band near {band}: it has {' '.join(offered)}. Set template to "
        f"{', '.join(able) or 'custom'}, or upload custom_template.fits and set template to custom.",
    )


def suggested_template(ra_deg: float, dec_deg: float) -> str:
    """Suggest a survey for a position (ICRS): Pan-STARRS where it covers, else the Legacy Survey, else SkyMapper."""
    if dec_deg > PS1_SOUTH_DEG:
        return "ps1"
    return "ls" if legacy_bricks().covers(ra_deg, dec_deg) else "skymapper"
