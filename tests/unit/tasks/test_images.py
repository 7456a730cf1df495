"""A question with an image is refused in one line: only text is read."""

from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.files import load_questions
from latentmas_ray.tasks.given import questions_from
from latentmas_ray.tasks.record import check_record

ASKED = {"id": "1", "question": "How many apples are in the picture?", "gold": "3"}


class _Opened:
    """As an image that PIL has opened."""


_Opened.__module__ = "PIL.PngImagePlugin"
IMAGES: dict[str, dict[str, Any]] = {
    "a file": {"image": "apples.png"},
    "a path": {"image_path": "photos/apples.JPEG"},
    "one of several": {"images": ["a b c", "apples.webp"]},
    "numbered, as in MMMU": {"image_1": {"bytes": "iVBORw0", "path": None}},
    "of the hub": {"decoded_image": _Opened()},
    "bytes": {"picture": b"\x89PNG"},
    "bytes under any name": {"extra": b"\x89PNG"},
    "an address": {"image_url": "https://example.org/show?id=7"},
    "a data URL": {"extra": "data:image/png;base64,iVBORw0KGgo="},
    "base64": {"img": "iVBORw0KGgo" * 30},
    "a part of a message": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x.png"}]}]},
    "a video": {"video": "apples.mp4"},
}
TEXTS: dict[str, dict[str, Any]] = {
    "none": {"image": None},
    "an empty one": {"images": []},
    "a caption": {"image": "Three apples lie on a table."},
    "an option": {"options": ["apples.png", "pears.jpg"], "gold": "A"},
    "a gold": {"gold": "apples.png"},
    "a text about one": {"context": "Look at https://example.org/apples.png first."},
    "a number of them": {"num_images": 3},
}


@pytest.mark.parametrize("fields", IMAGES.values(), ids=IMAGES)
def test_an_image_is_refused_by_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="images are not read") as caught:
        check_record({**ASKED, **fields}, where="FILE.jsonl:3: ")
    line = str(caught.value)
    assert line.startswith(f"FILE.jsonl:3: {next(iter(fields))}: got ")
    assert len(line) < 250


@pytest.mark.parametrize("fields", TEXTS.values(), ids=TEXTS)
def test_a_text_is_no_image(fields: dict[str, Any]) -> None:
    assert check_record({**ASKED, **fields}, where="").question == ASKED["question"]


def test_files_and_python_refuse_alike(tmp_path: Path) -> None:
    path = tmp_path / "seen.jsonl"
    path.write_text('{"id": "1", "question": "How many?", "gold": "3", "image": "apples.png"}\n')
    with pytest.raises(TaskError, match=r"^seen\.jsonl:1: image: got 'apples\.png'; images are not read"):
        load_questions(str(path))
    with pytest.raises(TaskError, match=r"image: got 'apples\.png'; images are not read"):
        questions_from([{"question": "How many?", "image": "apples.png"}])
