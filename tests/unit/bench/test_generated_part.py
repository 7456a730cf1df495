"""The part of a document with one model's figures."""

from pathlib import Path

import pytest

from benchmarks.generated_part import ModelPart
from latentmas_ray.errors import ConfigError


def test_each_model_has_its_own_part_and_plot(tmp_path: Path) -> None:
    document = tmp_path / "figures.md"
    document.write_text("# Figures\n")
    drawn: list[str] = []
    for model, line in (("tiny", "old"), ("/models/other", "of another"), ("tiny", "new")):
        part = ModelPart(command="errors", what="errors", model=model)
        part.write(document, [line], lambda path: drawn.append(path.name))
    text = document.read_text()
    assert text.startswith(
        "# Figures\n\n<!-- errors of tiny: `python -m benchmarks errors` writes this part -->\n\nnew\n"
    )
    assert "old" not in text
    assert "<!-- errors of other:" in text
    assert "\nof another\n" in text
    assert drawn == ["errors_tiny.png", "errors_other.png", "errors_tiny.png"]


def test_a_document_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it must be a Markdown file"):
        ModelPart(command="errors", what="errors", model="tiny").check(tmp_path / "none.md")
