"""What the report of the scoreboard says beside its figures."""

INTRODUCTION = """# Quality

Written by `make quality`; the figures of photometry are printed there, those of difference images are kept here. They
come from {fields} simulated fields ({area:.2f} square degrees of one-arcsecond pixels) with {transients} transients
in the field and {hosts} on galaxies, and the defaults of everything. Fields of each engine: {each}. `hotpants` is this
project's own Alard-Lupton solver; the HOTPANTS program was not run. Fewer than 400 transients in a bin are not enough.

How the fields are made (`bench/quality_difference_fields.py`): stars with counts of 9,000 per square degree to r = 20
unless said otherwise, Moffat profiles with the exponent 3 that reach 300 pixels out, saturation from r = 13 on,
galaxies with exponential discs, 10 variables and 8 trailed asteroids in 1024 x 1024 pixels, cosmic rays (masked as
far as the project's own search finds them), gradients of 5 % of the sky. The template lies on another grid (0.95
arcsec, turned by 0.3 degrees) and is reprojected as in the step; it is 2 magnitudes deeper and sharper unless said
otherwise. Photon noise and read noise in both. S/N is that of photometry in an aperture of one FWHM (Moffat's) of the
wider star, from the true noise of image and template at that place, galaxies, neighbours and the source itself
included; as many transients are drawn for each of its bins. There is one in 61 x 61 pixels, more than nature has, at
least 14 FWHM apart, and isolated ones have no source brighter than half the noise of the sky nearby (twice in the
crowded field). What lies within a mask counts as not found.
"""

TRAILS_TEXT = """Asteroids found, by the length of their trails. A trail is not the shape of a star, by which candidates
are chosen unless `filter_prefilter` is off; what that costs is in the last column.
"""

FILTERS_TEXT = """What the filters of the search cost and win, in {fields} of the fields. `filter_prefilter` drops what
has not the shape of a star, `filter_adjust` what a small shift, scale or blur of the template explains. The latter has
nothing to do where the kernel fits as well as here; it is for shapes and positions of stars that vary over a frame in
another way than the kernel can follow, which these fields do not have.
"""

POSITIONS_TEXT = """## Positions

Median distance of candidates from the truth, pixels of one arcsecond, and the width of (position - truth) / error.
"""

CASES_TEXT = """`off` and `on` are the standard deviation of difference over noise: away from sources, and within 5
pixels of stars brighter than r = 16, pixels of the mask left out. `scale` is the error of the measured photometric
scale, `s` the processor time of one core for the subtraction alone. Candidates are false when nothing that changed is
within 3 pixels or 1.5 FWHM.
"""

CLOSING = """## What these figures are not

The shapes of stars do not vary over these fields, and colours have no part in them: a star's flux is the same
multiple of that in the template. Atmospheric refraction, ghosts, trails, fringes and bad columns are missing. The
speed against the plain sequence of STDPipe's functions is measured by `bench/bench_difference.py`, see
`bench/RESULTS.md`.
"""
