"""Flags that take whole numbers."""

import pytest

from latentmas_ray.cli.options import whole_number, whole_numbers
from latentmas_ray.errors import ConfigError


def test_numbers_are_read() -> None:
    assert whole_number("nodes", "8", least=1, most=4096) == 8
    assert whole_numbers("batch_size", "1, 8", "1,8") == (1, 8)


@pytest.mark.parametrize("text", ["", "0", "4097", "-1", "1.5", "x", "²", "9" * 9999, "0x1", "1 2"])
def test_what_is_no_number_is_told_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be a whole number from 1 to 4096") as caught:
        whole_number("nodes", text, least=1, most=4096)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "1,", "1,x", "-1", "1.5,2", "9" * 9999])
def test_what_is_no_list_of_numbers_is_told_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be whole numbers of at least 1, as in 1,8"):
        whole_numbers("batch_size", text, "1,8")
