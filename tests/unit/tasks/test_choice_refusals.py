"""Records with options that cannot be decided: one line names the field, the value, and what would be right."""

from pathlib import Path

import pytest

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks import load_questions
from tests.cases.records import BIRDS, STONES, TREES, Record, asked, write

# Records of one file, the field that is named and a part of what is said.
REFUSED: dict[str, tuple[list[Record], str, str]] = {
    "no record shows where numbers begin": (
        [asked(1, choices=STONES, answer=1), asked(2, choices=TREES, answer=2)],
        "q.jsonl:1: answer",
        "numbered from 0 it is B and numbered from 1 it is A, and no record shows which",
    ),
    "numbers that are texts and places": (
        [asked(1, choices=["3", "4", "5", "2"], gold="3")],
        "q.jsonl:1: gold",
        "no record shows",
    ),
    "both 0 and the number of options": (
        [asked(1, choices=STONES, answer=0), asked(2, choices=TREES, answer=4)],
        "q.jsonl:2: answer",
        "other golds of this field are options numbered from 0",
    ),
    "numbers beyond the options": (
        [asked(1, choices=STONES, gold=0), asked(2, choices=TREES, gold=9)],
        "q.jsonl:2: gold",
        "one of A, B, C, D",
    ),
    "a letter beyond the options": (
        [asked(1, choices=STONES, gold="A"), asked(2, choices=BIRDS, gold="D")],
        "q.jsonl:2: gold",
        "one of A, B, C, or",
    ),
    "a text that is no option": ([asked(1, choices=STONES, gold="marble")], "q.jsonl:1: gold", "it must be a letter"),
    "a negative number": (
        [asked(1, choices=STONES, label=0), asked(2, choices=STONES, label=-1)],
        "q.jsonl:2: label",
        "it must be a letter",
    ),
    "several golds": ([asked(1, choices=STONES, gold=["A", "B"])], "q.jsonl:1: gold", "it must be a letter"),
    "several letters": ([asked(1, choices=STONES, gold="A, C")], "q.jsonl:1: gold", "it must be a letter"),
    "fields that contradict each other": (
        [asked(1, choices=STONES, answer="B", answer_idx="C")],
        "q.jsonl:1: answer_idx",
        "it is option C, but answer 'B' is B",
    ),
    "a letter that is another option's text": (
        [asked(1, choices=["B", "A", "C"], gold="A")],
        "q.jsonl:1: gold",
        "no record shows",
    ),
    "a label with another option's text": (
        [asked(1, choices=STONES, gold="B. slate")],
        "q.jsonl:1: gold",
        "it must be a letter",
    ),
    "one option": ([asked(1, choices=["oak"], gold="A")], "q.jsonl:1: choices", "2 to 26"),
    "no option": ([asked(1, choices=[], gold="A")], "q.jsonl:1: choices", "leave the field out"),
    "too many options": ([asked(1, choices=[f"n{n}" for n in range(27)], gold="A")], "q.jsonl:1: choices", "2 to 26"),
    "an empty option": (
        [asked(1, choices=["oak", " ", "elm"], gold="A")],
        "q.jsonl:1: choices",
        "every option must be a non-empty text",
    ),
    "a null option": (
        [asked(1, choices=["oak", None], gold="A")],
        "q.jsonl:1: choices",
        "every option must be a non-empty text",
    ),
    "an empty column": ([asked(1, A="oak", B="", C="elm", gold="A")], "q.jsonl:1: B", "non-empty text"),
    "a missing column": (
        [asked(1, option_a="oak", option_b="elm", option_d="fir", gold="A")],
        "q.jsonl:1: option_d",
        "are missing",
    ),
    "a number where the question lists options": (
        [
            {"id": 1, "question": "Which?\nA. oak\nB. elm", "answer": 1},
            {"id": 2, "question": "Which?\nA. ant\nB. bee\nC. fly", "answer": 3},
        ],
        "q.jsonl:1: answer",
        "give its letter, or the kind",
    ),
    "columns of another name": (
        [asked(1, respuesta_a="roble", respuesta_b="olmo", gold="b")],
        "q.jsonl:1: respuesta_a",
        "if they are options call it choices",
    ),
    "options that are null": ([asked(1, choices=None, gold="B")], "q.jsonl:1: choices", "the gold 'B' is a letter"),
    "letters without texts": ([asked(1, choices=["A", "B"], gold="A")], "q.jsonl:1: choices", "letters without texts"),
    "half a character": ([asked(1, choices=["oak", "\ud800"], gold="A")], "q.jsonl:1: choices", "surrogate"),
    "options that are lists": (
        [asked(1, choices=[["oak"], ["elm"]], gold="A")],
        "q.jsonl:1: choices",
        "non-empty text",
    ),
    "options that are a number": (
        [asked(1, choices=4, gold="A")],
        "q.jsonl:1: choices",
        "a list of at least two texts",
    ),
    "options that are one text": (
        [asked(1, choices="oak or elm", gold="A")],
        "q.jsonl:1: choices",
        "a list of at least two texts",
    ),
    "an object without letters": (
        [asked(1, choices={"tree": "oak", "stone": "chalk"}, gold="A")],
        "q.jsonl:1: choices",
        "'tree' is neither",
    ),
    "more texts than labels": (
        [asked(1, choices={"text": TREES, "label": ["A", "B"]}, gold="A")],
        "q.jsonl:1: choices",
        "4 texts and 2 labels",
    ),
    "labels twice": (
        [asked(1, choices={"text": BIRDS, "label": ["A", "B", "B"]}, gold="A")],
        "q.jsonl:1: choices",
        "labels must differ",
    ),
    "two marks": (
        [asked(1, mc1_targets={"choices": BIRDS, "labels": [1, 0, 1]})],
        "q.jsonl:1: mc1_targets",
        "marks 2 options",
    ),
    "two fields with other options": (
        [asked(1, choices=STONES, options=TREES, gold="A")],
        "q.jsonl:1: options",
        "choices has other options",
    ),
    "the right option twice": (
        [asked(1, choices=["oak", "elm", "oak"], gold="A")],
        "q.jsonl:1: choices",
        "two options have the text",
    ),
    "a gold text that occurs twice": (
        [asked(1, choices=["oak", "elm", "oak"], gold="oak")],
        "q.jsonl:1: gold",
        "it must be a letter",
    ),
    "a record without the others' options": (
        [asked(1, choices=STONES, gold=0), asked(2, choices=TREES, gold=1), asked(3, gold=2)],
        "q.jsonl:3: choices",
        "2 other records have options there",
    ),
    "a record without options and gold": (
        [asked(1, choices=STONES, gold="A"), asked(2)],
        "q.jsonl:2: choices",
        "add them, or say the kind",
    ),
    "a list of another name": (
        [asked(1, variants=STONES, gold="C"), asked(2, variants=TREES, gold="A")],
        "q.jsonl:1: variants",
        "if they are options call it choices",
    ),
    "a list of another name and numbers": (
        [asked(1, variants=STONES, gold=0), asked(2, variants=TREES, gold=3)],
        "q.jsonl:1: variants",
        "if they are options call it choices",
    ),
    "some of the options in the question": (
        [{"id": 1, "question": "Which?\nA. oak\nB. elm", "choices": ["oak", "elm", "fir"], "gold": "A"}],
        "q.jsonl:1: question",
        "has the options A, B in its text, but not C",
    ),
    "options in the question in another order": (
        [{"id": 1, "question": "Which?\nA. elm\nB. oak", "choices": ["oak", "elm"], "gold": "A"}],
        "q.jsonl:1: question",
        "lists the options in another way",
    ),
    "an id among records without": (
        [{"question": "1?", "answer": 1}, asked(2, answer=2)],
        "q.jsonl:2: id",
        "the records before it have no id",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_decided_is_refused(tmp_path: Path, name: str) -> None:
    records, field, expected = REFUSED[name]
    with pytest.raises(TaskError) as caught:
        load_questions(write(tmp_path, *records))
    assert caught.value.field == field
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
