"""The judge's look at images that users have edited: each edit once, on the whole image, and the first one kept."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .evidence import Doc

if TYPE_CHECKING:
    from .checker import Story

Found = tuple[str, str, int | None]

EDITS = ("crop", "destripe", "fix")
_CARD, _BLOCK = 80, 2880
_STRIPES = "stdweb: offsets of"


def cards(path: Path) -> list[str]:
    """Read the first header of a FITS file; nothing but its end may be missing from what comes after it."""
    found: list[str] = []
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for start in range(0, len(block), _CARD):
                card = block[start : start + _CARD].decode("ascii")
                if card.rstrip() == "END":
                    return found
                found.append(card)
    raise ValueError("no END")


def check(story: "Story", task_id: int, made: Doc, commit: Path) -> Iterator[Found]:
    """Look at the image of a task, in its newest commit of an image.

    Every crop takes one column away, and every removal of stripes leaves a line of history: so they can be counted.
    Requests without an answer may have been done, or may not.
    """
    lines = [one for one in story.evidence.ledger if one.get("task") == task_id]
    size, width = made["size"], _width(commit / "image.fits")
    cropped, striped = _times(lines, "crop"), _times(lines, "destripe")
    replaced = {one["what"] for one in lines if one["op"] == "image"}
    if "asked" in replaced:  # at the end; what has had no answer before it may come after it
        late = len([one for one in lines if one["what"] == "perhaps" and one["op"] in EDITS])
        certain = "accepted" in replaced
        cropped = range(0 if certain else cropped.start, late + 1 if certain else cropped.stop)
        striped = range(0 if certain else striped.start, late + 1 if certain else striped.stop)
    if width is None or size - width not in cropped:
        what = f"{width} columns of {size}; {cropped.start} to {cropped.stop - 1} should be cut"
        yield "image edited otherwise", what, task_id
        return
    if not commit.name.endswith("-edit"):
        return
    seen = sum(_STRIPES in card for card in cards(commit / "image.fits"))
    if seen not in striped:
        yield (
            "image edited otherwise",
            f"stripes removed {seen} times, not {striped.start} to {striped.stop - 1}",
            task_id,
        )
    original = commit / "image.orig.fits"
    digest = hashlib.sha256(original.read_bytes()).hexdigest() if original.exists() else ""
    if digest != made["sha256"]:
        yield "original lost", f"image.orig.fits of {commit.name} is not what was uploaded", task_id


def _times(lines: list[Doc], op: str) -> range:
    """Give how often an edit may have been done."""
    least = sum(one["what"] == "accepted" for one in lines if one["op"] == op)
    return range(least, least + 1 + sum(one["what"] == "perhaps" for one in lines if one["op"] == op))


def _width(image: Path) -> int | None:
    """Read the width of a whole image; None when it is not whole."""
    try:
        text = cards(image)
    except (OSError, ValueError):
        return None
    values = {card[:8].rstrip(): card[10:].partition("/")[0].strip() for card in text if card[8:10] == "= "}
    wide, high = int(values["NAXIS1"]), int(values["NAXIS2"])
    data = wide * high * abs(int(values["BITPIX"])) // 8
    head = -(-(len(text) + 1) * _CARD // _BLOCK) * _BLOCK
    return wide if image.stat().st_size >= head + -(-data // _BLOCK) * _BLOCK else None
