"""A test that draws its examples draws the same ones in every run, alone and after any other tests."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

NUM_WORDS = 1000


def drawn() -> list[str]:
    """What a test with a strategy of texts is given."""
    examples = []

    @given(st.lists(st.text(), min_size=5))
    def draw(texts: list[str]) -> None:
        examples.extend(texts)

    draw()
    return examples


def test_examples_do_not_depend_on_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a failure may come once in many runs, and not again where its test is run alone."""
    before = drawn()
    path = tmp_path / "many_words.py"
    path.write_text("".join(f"WORD_{number} = 'word {number}'\n" for number in range(NUM_WORDS)))
    spec = spec_from_file_location("many_words", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "many_words", module)
    spec.loader.exec_module(module)
    assert drawn() == before
