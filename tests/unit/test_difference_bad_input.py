"""What cannot be subtracted ends with a clear error."""

from dataclasses import replace

import numpy as np
import pytest

from shared.errors import DataError, UsageError
from shared.science.difference import ENGINES, Options, Pair, hotpants_options, subtract
from tests.support.difference import Shape, Sky, make_field

SKY = Sky(Shape(3.0))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_field(SKY, SKY, size=128, stars=40, transients=0).pair


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 5, (128, 128)).astype(np.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_stars(engine: str) -> None:
    with pytest.raises(DataError, match="cannot be matched") as caught:
        subtract(engine, Pair(noise(1), noise(2)), Options(hotpants_options({"ft": 1000})))
    assert caught.value.code == "no_kernel_stars"


def test_too_few_stars() -> None:
    few = make_field(SKY, SKY, size=128, stars=2, transients=0, seed=3).pair
    with pytest.raises(DataError, match="3 are needed"):
        subtract("hotpants", few)


def test_stars_of_another_field(pair: Pair) -> None:
    other = make_field(SKY, SKY, size=128, stars=40, transients=0, seed=5).pair
    with pytest.raises(DataError, match="astrometry") as caught:
        subtract("hotpants", Pair(pair.image, other.template), Options(hotpants_options({"ft": 60})))
    assert caught.value.code == "no_kernel_stars"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("which", ["mask", "template_mask"])
def test_all_masked(engine: str, which: str, pair: Pair) -> None:
    with pytest.raises(DataError, match=r"Only 0\.0 % of the pixels of the"):
        subtract(engine, replace(pair, **{which: np.ones(pair.image.shape, bool)}))


def test_no_overlap(pair: Pair) -> None:
    left = np.zeros(pair.image.shape, bool)
    left[:, :64] = True
    with pytest.raises(DataError, match="template covers the field") as caught:
        subtract("hotpants", replace(pair, mask=left, template_mask=~left))
    assert caught.value.code == "no_overlap"


def test_template_without_data(pair: Pair) -> None:
    with pytest.raises(DataError, match="pixels of the template"):
        subtract("hotpants", replace(pair, template=np.full(pair.image.shape, np.nan, np.float32)))


@pytest.mark.parametrize("which", ["template", "mask", "template_mask", "noise", "template_noise"])
def test_other_shape(which: str, pair: Pair) -> None:
    with pytest.raises(DataError, match="100 x 128 pixels and the image 128 x 128"):
        subtract("sfft", replace(pair, **{which: np.zeros((100, 128), np.float32)}))


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (20, 20)])
def test_too_small(shape: tuple[int, int]) -> None:
    plane = np.ones(shape, np.float32)
    with pytest.raises(DataError, match="at least 32"):
        subtract("hotpants", Pair(plane, plane))


def test_constant_image(pair: Pair) -> None:
    with pytest.raises(DataError, match="constant"):
        subtract("hotpants", replace(pair, image=np.full(pair.image.shape, 7, np.float32)))


@pytest.mark.parametrize(
    ("which", "value"), [("gain", 0.0), ("template_gain", -1.0), ("fwhm_pix", np.nan), ("template_fwhm_pix", 0.0)]
)
def test_numbers_that_make_no_sense(which: str, value: float, pair: Pair) -> None:
    with pytest.raises(UsageError, match="must be a positive number"):
        subtract("hotpants", replace(pair, **{which: value}))


def test_unknown_engine(pair: Pair) -> None:
    with pytest.raises(UsageError, match="Allowed are hotpants, zogy, sfft"):
        subtract("../hotpants", pair)


@pytest.mark.parametrize(("orders", "text"), [((0, 0, 1), "must not be above"), ((5, 0, 0), "from 0 to 4")])
def test_sfft_orders(orders: tuple[int, int, int], text: str, pair: Pair) -> None:
    with pytest.raises(UsageError, match=text):
        subtract(
            "sfft",
            pair,
            Options(sfft_kernel_poly_order=orders[0], sfft_bg_poly_order=orders[1], sfft_flux_poly_order=orders[2]),
        )


@pytest.mark.parametrize(
    "extra",
    [
        {"ko": 7},
        {"ko": -1},
        {"ko": 1.5},
        {"ko": True},
        {"r": 0},
        {"ks": 0},
        {"ft": "nan"},
        {"kfm": 1.5},
        {"okn": "perhaps"},
        {"c": "b"},
        {"n": "i; true"},
        {"nrx": "1 -outim x"},
        {"inim": "other.fits"},
        {"outim": "/tmp/x"},
        {"savexy": "x"},
        {"ssf": "x"},
        {"ng": [3, 6, 0.7]},
        {"ng": [0]},
        {"ng": []},
        {"ng": [1, 2.5, 1.0]},
        {"ng": [1, 2, -1.0]},
        {"ng": [1, 2, "x"]},
        {"ng": "1 2 $(id)"},
        {"ng": [1, 2, float("inf")]},
    ],
)
def test_options_out_of_the_closed_list_or_range(extra: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="hotpants_extra") as caught:
        hotpants_options(extra)
    assert caught.value.code == "hotpants_extra"
    assert next(iter(extra)) in caught.value.user_message


def test_options_may_be_text() -> None:
    found = hotpants_options({"ko": "2", "ft": "12.5", "ng": "2, 4, 0.7 2 2", "okn": "true", "r": None})
    assert (found.ko, found.ft, found.okn, found.r) == (2, 12.5, True, None)
    assert found.gaussians == ((4, 0.7), (2, 2.0))
