"""Random tiny models of transformers' families: each computes what transformers alone computes, or is refused.

The document's tables say which; a change of an outcome is a change of the document (`python -m tests.numerics.sweep
--write`).
"""

import pytest
from transformers import __version__

from tests.numerics.sweep.listing import all_families
from tests.numerics.sweep.table import DOCUMENT, Row, read, version
from tests.numerics.sweep.trial import TOLERANCE, try_family

# At least one of each kind of attention, positions, cache and experts; the others are slow together.
QUICK = (
    "aria",
    "bitnet",
    "bloom",
    "cohere",
    "cohere2",
    "deepseek_v2",
    "deepseek_v3",
    "diffllama",
    "falcon",
    "falcon_h1",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma4_unified",
    "glm4",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "granite",
    "granitemoe",
    "hrm_text",
    "hunyuan_v1_dense",
    "jetmoe",
    "lfm2",
    "llama",
    "llama4_text",
    "mistral",
    "mixtral",
    "mllama",
    "modernbert-decoder",
    "nemotron",
    "nemotron_h",
    "olmo3",
    "olmoe",
    "phi3",
    "qwen2_5_vl",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_vl",
    "smollm3",
    "stablelm",
    "zamba2",
)
SLOW = tuple(name for name in all_families() if name not in QUICK)


def check_family(name: str) -> None:
    """The outcome is what the document says."""
    outcome = try_family(all_families()[name])
    assert outcome.kind != "fault", f"{outcome.reason}\n{outcome.where}"
    assert Row.of(outcome) == read()[name]
    assert outcome.works is bool(outcome.errors)
    assert outcome.largest_error <= TOLERANCE


@pytest.mark.parametrize("name", QUICK)
def test_a_family_works_or_is_refused_as_the_document_says(name: str) -> None:
    check_family(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_other_family_works_or_is_refused_as_the_document_says(name: str) -> None:
    check_family(name)


def test_the_document_has_every_family_of_transformers() -> None:
    if version() != __version__:
        pytest.skip(f"{DOCUMENT.name} lists the families of transformers {version()}, and {__version__} is installed")
    assert set(read()) == set(all_families())
