"""Subtraction part by part: where the parts are, and how their differences become those of the frame."""

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from shared.errors import DataError
from shared.science.difference import Difference, Engine, Options, Pair, Scores, subtract

Log = Callable[..., None]
Progress = Callable[[float], None]
Mask = NDArray[np.bool_]

_MAX_THREADS: Final = 2
"""Parts at the same time: each needs some hundred bytes a pixel."""
_GROWTHS: Final = 2
_MIN_GOOD_PIXELS: Final = 400
_ENOUGH_STARS: Final = 40
"""With fewer the photometric scale of a part would be off by some per cent."""
_MAPS: Final = ("difference", "convolved", "noise", "significance")


@dataclass(frozen=True)
class Box:
    """Rows from `top` up to `bottom` and columns from `left` up to `right`, 0-based pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, shape: tuple[int, int]) -> "Box":
        """Give the whole frame."""
        return cls(0, shape[0], 0, shape[1])

    @property
    def slices(self) -> tuple[slice, slice]:
        """Give it as an index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def __str__(self) -> str:
        """Write it for the log."""
        return f"x {self.left} to {self.right - 1}, y {self.top} to {self.bottom - 1}"

    def grown(self, pixels: int, shape: tuple[int, int]) -> "Box":
        """Add a margin, within the frame."""
        return Box(
            max(self.top - pixels, 0),
            min(self.bottom + pixels, shape[0]),
            max(self.left - pixels, 0),
            min(self.right + pixels, shape[1]),
        )

    def within(self, outer: "Box") -> "Box":
        """Count pixels from the corner of another one."""
        return Box(self.top - outer.top, self.bottom - outer.top, self.left - outer.left, self.right - outer.left)

    def holds(self, x: float, y: float, margin: float) -> bool:
        """Tell whether a position is inside and so far from the sides."""
        return self.left + margin <= x <= self.right - 1 - margin and self.top + margin <= y <= self.bottom - 1 - margin


def grid(shape: tuple[int, int], size_pix: int) -> list[Box]:
    """Cut a frame into parts of about one size that do not overlap."""
    edges = [np.linspace(0, side, max(round(side / size_pix), 1) + 1).astype(int).tolist() for side in shape]
    return [Box(top, bottom, left, right) for top, bottom in pairwise(edges[0]) for left, right in pairwise(edges[1])]


def around(x: Sequence[float], y: Sequence[float], shape: tuple[int, int], size_pix: int, margin_pix: int) -> list[Box]:
    """Give parts around positions, one for all that are well inside of it.

    Parameters
    ----------
    margin_pix
        How far from the sides of a part a position must be, unless the frame ends there.
    """
    boxes: list[Box] = []
    for place in zip(x, y, strict=True):
        if any(_well_inside(box, *place, shape, margin_pix) for box in boxes):
            continue
        starts = [
            min(max(round(at) - size_pix // 2, 0), max(side - size_pix, 0))
            for at, side in zip(reversed(place), shape, strict=True)
        ]
        boxes.append(
            Box(
                starts[0],
                min(starts[0] + size_pix, shape[0]),
                starts[1],
                min(starts[1] + size_pix, shape[1]),
            )
        )
    return boxes


def _well_inside(box: Box, x: float, y: float, shape: tuple[int, int], margin: int) -> bool:
    far = 2 * margin  # beyond the frame there is nothing to be missed
    reach = Box(
        box.top - (far if box.top == 0 else 0),
        box.bottom + (far if box.bottom == shape[0] else 0),
        box.left - (far if box.left == 0 else 0),
        box.right + (far if box.right == shape[1] else 0),
    )
    return reach.holds(x, y, margin)


def bounding(boxes: Sequence[Box]) -> Box:
    """Give the smallest box around several."""
    return Box(
        min(box.top for box in boxes),
        max(box.bottom for box in boxes),
        min(box.left for box in boxes),
        max(box.right for box in boxes),
    )


@dataclass
class Mosaic:
    """Differences of parts put together, one fading into the next.

    Parameters
    ----------
    weight
        Of what is in the maps; 0 where all parts are masked.
    done
        Where there is a part, masked or not.
    """

    maps: dict[str, NDArray[np.float32]]
    weight: NDArray[np.float32]
    done: Mask
    parts: list[Difference]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> "Mosaic":
        """Make one without any part."""
        maps = {name: np.zeros(shape, np.float32) for name in _MAPS}
        return cls(maps, np.zeros(shape, np.float32), np.zeros(shape, bool), [])

    def add(self, part: Difference, core: Box, box: Box, margin_pix: int) -> None:
        """Put a part in; noise and difference fade alike, because it is the same light that both parts see.

        Parameters
        ----------
        core, box
            What is to be covered, and what was worked on.
        margin_pix
            Over how many pixels the part fades, half of them inside of the core.
        """
        shape = self.done.shape
        frame = Box.of((shape[0], shape[1]))
        used = core.grown(margin_pix // 2, (shape[0], shape[1])).within(box)
        inner, here = used.slices, core.grown(margin_pix // 2, (shape[0], shape[1])).slices
        rows = _fade(here[0], (core.top, core.bottom), (frame.top, frame.bottom), margin_pix)
        columns = _fade(here[1], (core.left, core.right), (frame.left, frame.right), margin_pix)
        weight = np.where(part.mask[inner], np.float32(0), rows[:, None] * columns)
        total = self.weight[here] + weight
        share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        share[~self.done[here]] = 1  # what is masked everywhere holds what its first part has
        planes = {name: getattr(part, name) for name in _MAPS}
        if part.scores is not None:
            planes |= {name: getattr(part.scores, name) for name in ("scorr", "flux", "flux_error")}
        for name, plane in planes.items():
            whole = self.maps.setdefault(name, np.zeros(shape, np.float32))
            whole[here] += share * (plane[inner] - whole[here])
        self.weight[here] = total
        self.done[here] = True
        # the maps of the part are not needed any more
        nothing = np.zeros((0, 0), np.float32)
        self.parts.append(
            replace(
                part,
                difference=nothing,
                convolved=nothing,
                noise=nothing,
                significance=nothing,
                mask=nothing.astype(bool),
                scores=part.scores and replace(part.scores, scorr=nothing, flux=nothing, flux_error=nothing),
            )
        )

    def finished(self) -> Difference:
        """Give the difference of the frame: numbers are medians over the parts with most stars."""
        maps, mask = self.maps, self.weight == 0
        known = ~mask
        typical = np.median(maps["noise"][known]) if known.any() else 1
        maps["noise"][~self.done] = typical
        sides = [part.convolved_side for part in self.parts]
        scores = Scores(maps["scorr"], maps["flux"], maps["flux_error"], self._shape()) if "scorr" in maps else None
        return Difference(
            difference=maps["difference"],
            convolved=maps["convolved"],
            noise=maps["noise"],
            significance=maps["significance"],
            mask=mask,
            scale=self._median("scale"),
            scale_error=self._median("scale_error"),
            scale_scatter=self._median("scale_scatter"),
            fwhm_pix=self._median("fwhm_pix"),
            convolved_side=max(sides, key=sides.count),
            stars=sum(part.stars for part in self.parts),
            scores=scores,
        )

    def _shape(self) -> NDArray[np.float64] | None:
        """Give the mean shape of stars over the parts that have it as large as the largest."""
        shapes = [part.scores.shape for part in self.parts if part.scores and part.scores.shape is not None]
        largest = max((shape.shape for shape in shapes), default=())
        return np.mean([shape for shape in shapes if shape.shape == largest], axis=0) if shapes else None

    def _median(self, name: str) -> float:
        most = max(part.stars for part in self.parts)  # of slivers with few stars the numbers are poor
        parts = [part for part in self.parts if 2 * part.stars >= most]
        values = [value for part in parts if math.isfinite(value := getattr(part, name))]
        return float(np.median(values)) if values else math.nan


def _fade(here: slice, core: tuple[int, int], frame: tuple[int, int], margin_pix: int) -> NDArray[np.float32]:
    """Give weights along one axis: a half at the sides of the core, whole at those of the frame."""
    at = np.arange(here.start, here.stop)
    weight = np.ones(at.size, np.float32)
    if margin_pix > 1:
        if core[0] > frame[0]:
            weight *= np.clip(0.5 + (at + 0.5 - core[0]) / margin_pix, 0, 1).astype(np.float32)
        if core[1] < frame[1]:
            weight *= np.clip(0.5 + (core[1] - at - 0.5) / margin_pix, 0, 1).astype(np.float32)
    return np.maximum(weight, np.float32(1e-3))


def subtract_parts(
    engine: Engine,
    pair: Pair,
    cores: Sequence[Box],
    options: Options,
    *,
    margin_pix: int,
    log: Log,
    progress: Progress,
    stars: NDArray[np.float64] | None = None,
) -> tuple[Difference, Mask]:
    """Subtract part by part.

    A part that cannot be matched is tried with more of the frame around it, and masked when that does not help.

    Parameters
    ----------
    margin_pix
        How far the part that is worked on reaches beyond what is kept of it.
    stars
        x and y of stars, 0-based pixels: parts grow until they have enough that are good in both. None does not count.

    Returns
    -------
    difference, done
        Of the frame of `pair`; `done` is False where there was no part, or it could not be matched.

    Raises
    ------
    DataError
        When no part can be matched.
    """
    rows, columns = pair.image.shape
    mosaic = Mosaic.empty((rows, columns))
    threads = min(_MAX_THREADS, options.threads, len(cores))
    each = replace(options, threads=max(options.threads // threads, 1))
    failures: list[DataError] = []
    good = ~_bad(pair)
    usable = _usable(stars, good)

    def work(job: tuple[int, Box]) -> tuple[Box, Box, Difference] | None:
        number, core = job
        name = f"Part {number} of {len(cores)}" if len(cores) > 1 else "Part"
        if good[core.slices].sum() < min(_MIN_GOOD_PIXELS, 0.5 * core.shape[0] * core.shape[1]):
            log(f"{name} ({core}): no common pixels of image and template, it stays masked")
            return None
        with np.errstate(all="ignore"):  # threads do not inherit it
            margin = _margin(core, usable, margin_pix, (rows, columns))
            return _tried(engine, pair, core, each, margin_pix=margin, log=log, name=name, failures=failures)

    ended = 0
    with (
        warnings.catch_warnings(),  # what threads do to the filters is undone here
        threadpool_limits(each.threads),
        ThreadPoolExecutor(threads) as pool,
    ):
        for found in pool.map(work, enumerate(cores, start=1)):
            ended += 1
            progress(ended / len(cores))
            if found is not None:
                core, box, part = found
                mosaic.add(part, core, box, margin_pix)
    if not mosaic.parts:
        raise failures[0] if failures else _no_pixels()
    return mosaic.finished(), mosaic.done


def _usable(stars: NDArray[np.float64] | None, good: Mask) -> NDArray[np.float64] | None:
    """Give the stars whose middle is good in image and template."""
    if stars is None:
        return None
    rows, columns = good.shape
    x, y = np.rint(stars).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < columns) & (y < rows)
    inside[inside] = good[y[inside], x[inside]]
    return stars[:, inside]


def _margin(core: Box, stars: NDArray[np.float64] | None, margin_pix: int, shape: tuple[int, int]) -> int:
    """Widen the margin until there are enough stars, or nothing is left to be added."""
    while stars is not None:
        box = core.grown(margin_pix, shape)
        if box.shape == shape or sum(box.holds(x, y, 0) for x, y in stars.T) >= _ENOUGH_STARS:
            break
        margin_pix += max(core.shape) // 4
    return margin_pix


def _tried(
    engine: Engine,
    pair: Pair,
    core: Box,
    options: Options,
    *,
    margin_pix: int,
    log: Log,
    name: str,
    failures: list[DataError],
) -> tuple[Box, Box, Difference] | None:
    shape = (pair.image.shape[0], pair.image.shape[1])
    box = core.grown(margin_pix, shape)
    for growth in range(_GROWTHS + 1):
        try:
            part = subtract(engine, _cut(pair, box), options, lambda *words: log(f"{name}:", *words))
        except DataError as error:
            larger = core.grown(margin_pix + max(core.shape) // 2 * 3**growth, shape)
            if growth == _GROWTHS or larger == box:
                failures.append(error)
                log(f"Warning: {name} ({core}) cannot be matched and stays masked: {error.user_message}")
                break
            log(f"{name} ({core}): {error.user_message} It is tried with more around it")
            box = larger
        else:
            return core, box, part
    return None


def _bad(pair: Pair) -> Mask:
    bad: Mask = ~(np.isfinite(pair.image) & np.isfinite(pair.template))
    for mask in (pair.mask, pair.template_mask):
        if mask is not None:
            bad |= mask
    return bad


def _cut(pair: Pair, box: Box) -> Pair:
    planes: dict[str, Any] = {
        name: np.ascontiguousarray(plane[box.slices])
        for name in ("image", "template", "mask", "template_mask", "noise", "template_noise")
        if (plane := getattr(pair, name)) is not None
    }
    return replace(pair, **planes)


def _no_pixels() -> DataError:
    return DataError(
        "no_overlap",
        "Image and template have no good pixels in common here. Check that the template covers the field, the "
        "saturation levels, and the masks, or choose another template.",
    )
