"""Random models of several families: vLLM reads their memory as our own engine does, which loading one compares, or is
refused as the document says."""

import pytest

from tests.vllm.families import FAMILIES, rows, try_on_vllm


@pytest.mark.slow  # a process with vLLM for each family
@pytest.mark.parametrize("family", FAMILIES)
def test_memory_of_a_family_is_read_as_the_document_says(family: str) -> None:
    assert try_on_vllm(family).row in rows()


def test_the_document_has_every_family_that_is_tried() -> None:
    assert [row.split("`")[1] for row in rows()] == list(FAMILIES)
