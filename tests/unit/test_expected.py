"""What would be right instead of a refused value: in plain words, with all limits."""

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.expected import expected_form, field_at


class Inner(BaseModel):
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    ratio: float = Field(default=0.5, gt=0, lt=1)


class Outer(BaseModel):
    count: int = Field(default=1, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    heat: float = Field(default=0.0, ge=0, le=10)
    limit: float = Field(default=1.0, gt=0, le=1e6)
    total: int = 0
    is_on: bool = False
    name: str = ""
    inners: list[Inner] = []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": 0}, "it must be a whole number of at least 1"),
        ({"count": "many"}, "it must be a whole number of at least 1"),
        ({"count": 1.5}, "it must be a whole number of at least 1"),
        ({"seed": 2**63}, "it must be a whole number from 0 to 9223372036854775807"),
        ({"heat": -1}, "it must be a number from 0 to 10"),
        ({"heat": float("nan")}, "it must be a number from 0 to 10"),
        ({"heat": []}, "it must be a number from 0 to 10"),
        ({"limit": 0}, "it must be a number above 0 and at most 1000000"),
        ({"total": "x"}, "it must be a whole number"),
        ({"is_on": "maybe"}, "it must be true or false"),
        ({"name": 7}, "it must be text"),
        ({"inners": [{}, {"share": 0}]}, "it must be a number above 0 and at most 1"),
        ({"inners": [{"ratio": 1}]}, "it must be a number above 0 and below 1"),
    ],
)
def test_all_limits_are_named(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(given)
    error = raised.value.errors()[0]
    assert expected_form(error, field_at(Outer, error["loc"])) == expected


def test_without_the_field_the_limit_that_was_missed() -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"heat": 11})
    assert expected_form(raised.value.errors()[0]) == "it must be a number of at most 10"


def test_a_place_that_is_no_field() -> None:
    assert field_at(Outer, ("nowhere", 0, "x")) is None
    assert field_at(Outer, ("count", "x")) is None


NUMBERS = [name for name, field in RunConfig.model_fields.items() if field.annotation in (int, float)]


@given(st.sampled_from(NUMBERS), st.sampled_from(["abc", "", "nan", "1e999", "-1e999", "½", [], {}]))
def test_no_field_of_a_run_shows_the_words_of_the_library(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make_config({name: value})
    assert raised.value.field == name
    words = ("parse", "valid ", "equal to", "finite", "Input")
    assert not any(word in raised.value.expected for word in words)
