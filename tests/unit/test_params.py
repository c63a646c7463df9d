"""Options as clients send them: numbers as text, flags as words."""

import pytest
from pydantic import ValidationError

from shared.contracts.params import PhotometryParams
from shared.contracts.params.hotpants import HotpantsExtra


@pytest.mark.parametrize(
    ("given", "flag"), [(True, True), (0, False), (1.0, True), ("true", True), ("off", False), ("1", True)]
)
def test_flags_may_be_words(given: object, flag: bool) -> None:
    assert PhotometryParams.of({"use_color": given}).use_color is flag


@pytest.mark.parametrize(("key", "bad"), [("use_color", 1e-42), ("use_color", 2), ("use_color", "maybe"), ("sn", True)])
def test_flags_and_numbers_are_not_the_same(key: str, bad: object) -> None:
    with pytest.raises(ValidationError) as caught:
        PhotometryParams.of({key: bad})
    assert [error["loc"] for error in caught.value.errors()] == [(key,)]


def test_numbers_may_be_text() -> None:
    params = PhotometryParams.of({"sn": "4.5", "minarea": "3", "cat_limit": None})
    assert (params.sn, params.minarea, params.cat_limit) == (4.5, 3, None)


def test_a_null_among_the_options_of_an_engine_is_as_if_it_were_not_given() -> None:
    assert HotpantsExtra.model_validate({"ko": None, "ng": None, "r": 7}) == HotpantsExtra(r=7)
