"""Records of other benchmarks: options in fields of their own, golds as letter, index or text."""

import json
from contextlib import suppress
from pathlib import Path
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks import grade, load_questions, questions_from
from latentmas_ray.tasks.question import Question
from tests.cases.records import BIRDS, STONES, TREES, Record, asked, write


def columns(prefix: str, labels: str, texts: list[str]) -> Record:
    return {f"{prefix}{label}": text for label, text in zip(labels, texts, strict=True)}


# Records of one file, and the letters of their golds.
UNDERSTOOD: dict[str, tuple[list[Record], str]] = {
    "letters next to a list": ([asked(1, choices=STONES, gold="C"), asked(2, choices=TREES, gold="a")], "CA"),
    "texts and labels": (
        [
            asked(1, choices={"text": STONES, "label": ["A", "B", "C", "D"]}, answerKey="B"),
            asked(2, choices={"text": BIRDS, "label": ["1", "2", "3"]}, answerKey="3"),
        ],
        "BC",
    ),
    "labels that do not begin with A": ([asked(1, options=columns("", "FGHJ", STONES), answerKey="H")], "H"),
    "columns": (
        [asked(1, **columns("", "ABCD", STONES), answer="D"), asked(2, **columns("", "ABC", BIRDS), answer="B")],
        "DB",
    ),
    "columns that are null where there is no option": (
        [
            asked(1, **columns("", "ABCD", STONES), E=None, answer="D"),
            asked(2, **columns("", "ABC", BIRDS), D=None, answer="C"),
        ],
        "DC",
    ),
    "named columns with letters": (
        [
            asked(1, **columns("option_", "abcd", STONES), correct_option="b"),
            asked(2, **columns("option_", "abcd", TREES), correct_option="D"),
        ],
        "BD",
    ),
    "numbered columns, from 0": (
        [
            {"ind": 4, "ctx": "They walk", **columns("ending", "0123", STONES), "label": "3"},
            {"ind": 5, "ctx": "They run", **columns("ending", "0123", TREES), "label": "1"},
        ],
        "DB",
    ),
    "numbered columns, counted from 0": (
        [
            {"id": 1, "goal": "To dry it", **columns("sol", "12", ["hang it", "wet it"]), "label": 0},
            {"id": 2, "goal": "To wet it", **columns("sol", "12", ["hang it up", "wet it"]), "label": 1},
        ],
        "AB",
    ),
    "numbered columns, counted from 1": (
        [
            {"id": 1, "sentence": "_ is hard", **columns("option", "12", ["Chalk", "Granite"]), "answer": "2"},
            {"id": 2, "sentence": "_ is soft", **columns("option", "12", ["Chalk", "Granite"]), "answer": "1"},
        ],
        "BA",
    ),
    "index from 0": (
        [asked(1, choices=STONES, answer=0), asked(2, choices=TREES, answer=3), asked(3, choices=TREES, answer=1)],
        "ADB",
    ),
    "index from 1": ([asked(1, options=STONES, label=4), asked(2, options=TREES, label=2)], "DB"),
    "index as text from 0": ([asked(1, endings=STONES, label="0"), asked(2, endings=TREES, label="2")], "AC"),
    "index as a float": ([asked(1, options=STONES, label=0.0), asked(2, options=TREES, label=2.0)], "AC"),
    "four columns and an index from 0": (
        [
            asked(1, opa="x1", opb="x2", opc="x3", opd="x4", cop=0),
            asked(2, opa="y1", opb="y2", opc="y3", opd="y4", cop=3),
        ],
        "AD",
    ),
    "letter and text in two fields": (
        [asked(1, options=columns("", "ABCD", STONES), answer="slate", answer_idx="C")],
        "C",
    ),
    "letter and index in two fields": (
        [asked(1, options=STONES, answer="B", answer_index=1), asked(2, options=TREES, answer="C", answer_index=2)],
        "BC",
    ),
    "text": ([asked(1, choices=STONES, answer="chalk"), asked(2, choices=BIRDS, answer=" Swift ")], "BC"),
    "letters and texts mixed": ([asked(1, choices=STONES, gold="Slate"), asked(2, choices=TREES, gold="B")], "CB"),
    "letters written in several ways": (
        [
            asked(n, choices=STONES, gold=gold)
            for n, gold in enumerate(["(b)", "C.", "d", "[A]", "option B", "C) slate", "D - basalt"])
        ],
        "BCDABCD",
    ),
    "a list that is written as text": (
        [asked(1, choices="['granite', 'chalk']", answer="B"), asked(2, choices='["oak", "yew", "elm"]', answer="C")],
        "BC",
    ),
    "options that are written as one text": ([asked(1, options="a ) 38 , b ) 27.675 , c ) 30", correct="c")], "C"),
    "labels in the texts": ([asked(1, options=["A)21", "B)21.5", "C)22"], correct="B")], "B"),
    "objects with a label": (
        [asked(1, choices=[{"label": "A", "text": "oak"}, {"label": "B", "text": "yew"}], answerKey="B")],
        "B",
    ),
    "an object in the question": (
        [
            {
                "id": "n",
                "question": {
                    "stem": "Which?",
                    "choices": [{"text": text, "label": label} for text, label in zip(TREES, "ABCD", strict=True)],
                },
                "answerKey": "D",
            }
        ],
        "D",
    ),
    "objects that say which is right": (
        [asked(1, answerOptions=[{"text": "oak", "isCorrect": False}, {"text": "yew", "isCorrect": True}])],
        "B",
    ),
    "marks next to the texts": ([asked(1, mc1_targets={"choices": STONES, "labels": [0, 0, 1, 0]})], "C"),
    "scores of the texts": ([asked(1, target_scores={"granite": 0, "chalk": 1, "slate": 0})], "B"),
    "labels of several letters": (
        [asked(1, choices={"text": BIRDS, "label": ["I", "II", "III"]}, answerKey="(II)")],
        "B",
    ),
    "numbers in columns": ([asked(1, A=10, B=20, C=30, answer="C")], "C"),
    "letters alone, and the texts in the question": (
        [{"id": 1, "question": "Which?\nA. oak\nB. elm", "choices": ["A", "B"], "answer": "B"}],
        "B",
    ),
    "a mark for each option": ([asked(1, choices=STONES, label=[0, 0, 0, 1])], "D"),
    "a list of one gold": ([asked(1, choices=STONES, gold=["D"])], "D"),
    "numbers as options": ([asked(1, choices=[10, 20, 30], gold=20), asked(2, choices=[5, 15, 25], gold=25)], "BC"),
    "options called answers": ([asked(1, answers=STONES, label=0), asked(2, answers=TREES, label=2)], "AC"),
    "yes and no": ([asked(1, choices=["Yes", "No"], answer="no")], "B"),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_records_are_choices_with_the_right_letter(tmp_path: Path, name: str) -> None:
    records, letters = UNDERSTOOD[name]
    questions = load_questions(write(tmp_path, *records))
    assert {question.kind for question in questions} == {"choice"}
    for question, letter in zip(questions, letters, strict=True):
        assert grade(question, f"\\boxed{{{letter}}}").correct is True
        wrong = "A" if letter != "A" else "B"
        assert grade(question, f"\\boxed{{{wrong}}}").correct is False
    assert [question.question for question in questions_from(records)] == [one.question for one in questions]


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_file_of_many_is_read_like_its_first_questions(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, *UNDERSTOOD[name][0])
    assert load_questions(path, limit=1) == load_questions(path)[:1]


def test_a_right_answer_and_wrong_ones_have_an_order_of_their_own(tmp_path: Path) -> None:
    records = [
        {
            "id": n,
            "question": f"What has set {n}?",
            "correct_answer": "iron",
            "distractor1": "tin",
            "distractor2": "zinc",
        }
        for n in range(30)
    ]
    questions = load_questions(write(tmp_path, *records))
    assert {question.gold for question in questions} == {"A", "B", "C"}
    assert all(grade(question, "Answer: iron").correct for question in questions)
    other = [{**record, "distractor1": record["distractor2"], "distractor2": "tin"} for record in records]
    assert [one.gold for one in load_questions(write(tmp_path, *other))] == [one.gold for one in questions]


TEXTS = st.lists(
    st.text("abcdefgh ", min_size=3, max_size=12).map(str.strip).filter(lambda text: len(text) > 2),
    min_size=2,
    max_size=26,
    unique_by=lambda text: " ".join(text.split()),
)
HOLDERS = {
    "list": lambda texts: {"choices": texts},
    "labelled": lambda texts: {"choices": {"text": texts, "label": list(ascii_uppercase[: len(texts)])}},
    "object": lambda texts: {"options": dict(zip(ascii_uppercase, texts, strict=False))},
    "columns": lambda texts: {
        f"option_{letter.lower()}": text for letter, text in zip(ascii_uppercase, texts, strict=False)
    },
    "text": lambda texts: {"choices": json.dumps(texts)},
}
GOLDS = {
    "letter": lambda place, texts: ascii_uppercase[place],
    "small": lambda place, texts: f"({ascii_uppercase[place].lower()})",
    "text": lambda place, texts: texts[place],
    "both": lambda place, texts: f"{ascii_uppercase[place]}. {texts[place]}",
    "from 0": lambda place, texts: place,
    "from 1": lambda place, texts: str(place + 1),
}


@given(
    st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(sorted(HOLDERS)), st.sampled_from(sorted(GOLDS)), st.data()
)
def test_every_form_means_the_same(sets: list[list[str]], holder: str, form: str, data: st.DataObject) -> None:
    places = [data.draw(st.integers(0, len(texts) - 1)) for texts in sets]
    records = [
        asked(n, **HOLDERS[holder](texts), answer=GOLDS[form](place, texts))
        for n, (texts, place) in enumerate(zip(sets, places, strict=True))
    ]
    shows_base = {"from 0": 0 in places, "from 1": any(p + 1 == len(t) for p, t in zip(places, sets, strict=True))}
    if not shows_base.get(form, True):
        with pytest.raises(TaskError, match="no record shows"):
            questions_from(records)
        return
    questions = questions_from(records)
    assert [question.gold for question in questions] == [ascii_uppercase[place] for place in places]
    for question, texts in zip(questions, sets, strict=True):
        assert question.question.split("\n")[1:] == [f"{a}. {t}" for a, t in zip(ascii_uppercase, texts, strict=False)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 30) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "label", "A", "b", "0", "x"]), inner)
    ),
    max_leaves=8,
)
KEYS = [
    "choices",
    "options",
    "A",
    "B",
    "option1",
    "option2",
    "mc1_targets",
    "gold",
    "answer",
    "answerKey",
    "label",
    "answers",
]


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON), min_size=1, max_size=3))
def test_any_record_is_understood_or_refused(records: list[Record]) -> None:
    questions: list[Question] = []
    with suppress(TaskError):  # any other exception fails the test
        questions = questions_from([asked(n, **record) for n, record in enumerate(records)])
    for question in questions:
        if question.kind == "choice" and question.options is not None and question.gold is not None:
            assert question.gold.strip().upper()[:1] in question.options.texts or len(question.gold) > 1


def test_an_explicit_kind_keeps_its_meaning(tmp_path: Path) -> None:
    number = asked(1, kind="number", choices=["3", "4"], gold="4")
    assert load_questions(write(tmp_path, number))[0].kind == "number"
    text = asked(1, kind="text", choices=["oak", "elm"], gold="elm")
    assert load_questions(write(tmp_path, text))[0].question == "Which one of set 1?"


def test_a_question_object_is_asked_with_its_options() -> None:
    first = Question(id="a", question="x?", kind="choice", gold="oak", record={"choices": ["oak", "elm"]})
    asked_first, second = questions_from([first, {"question": "y?", "choices": ["oak", "elm", "fir"], "gold": "elm"}])
    assert (asked_first.question, asked_first.gold) == ("x?\nA. oak\nB. elm", "oak")
    assert (second.question, second.gold) == ("y?\nA. oak\nB. elm\nC. fir", "elm")
    shown = Question(
        id="a", question="Which: (A) oak (B) elm?", kind="choice", gold="B", record={"choices": ["oak", "elm"]}
    )
    assert questions_from([shown])[0] is shown


def test_letters_may_name_what_a_question_is_about(tmp_path: Path) -> None:
    record = {"id": 1, "question": "How long is the third side of this triangle?", "A": 3, "B": 40, "gold": 41}
    question = load_questions(write(tmp_path, record))[0]
    assert (question.kind, question.question) == ("number", record["question"])


def test_golds_are_hidden_and_the_question_without_options_is_kept(tmp_path: Path) -> None:
    record = asked(1, choices=STONES, answer=0, subject="stones", answer_text="granite")
    other = asked(2, choices=STONES, answer=1, subject="stones", answer_text="chalk")
    question = load_questions(write(tmp_path, record, other))[0]
    assert set(question.record) == {"id", "question", "stem", "choices", "subject", "gold"}
    assert question.record["stem"] == "Which one of set 1?"
    marked = load_questions(write(tmp_path, asked(1, mc1_targets={"choices": STONES, "labels": [1, 0, 0, 0]})))[0]
    assert "labels" not in str(marked.record)
    assert marked.record["choices"] == STONES


# Names of ids and questions, and golds of records without options.
OTHER_NAMES: list[tuple[Record, tuple[str, str, str | None, str]]] = [
    ({"problem": "1+1?", "answer": "2"}, ("1", "1+1?", "2", "number")),
    ({"question": "1+1?", "answer": "It is 1+1.\n#### 1,002"}, ("1", "1+1?", "1002", "number")),
    ({"unique_id": "u/1", "problem": "x?", "answer": "x^2"}, ("u/1", "x?", "x^2", "text")),
    (
        {"question_id": 7, "question": "x?\nA. oak\nB. elm", "answerKey": "B"},
        ("7", "x?\nA. oak\nB. elm", "B", "choice"),
    ),
    ({"_id": "m", "query": "x?", "gold": "B1"}, ("m", "x?", "B1", "text")),
    ({"input": "x?\n(A) oak\n(B) elm", "target": "(B)"}, ("1", "x?\n(A) oak\n(B) elm", "(B)", "choice")),
    ({"question": "x?\n(A) oak\n(B) elm", "answer": "Elm"}, ("1", "x?\n(A) oak\n(B) elm", "Elm", "choice")),
    ({"question": "x?\nA. 21\nB. 22", "answer": "22"}, ("1", "x?\nA. 21\nB. 22", "22", "number")),
    ({"idx": {"paragraph": 1}, "question": "x?", "answer": "it"}, ("1", "x?", "it", "text")),
]


@pytest.mark.parametrize(("record", "expected"), OTHER_NAMES)
def test_fields_of_other_names(tmp_path: Path, record: Record, expected: tuple[str, str, str | None, str]) -> None:
    question = load_questions(write(tmp_path, record))[0]
    assert (question.id, question.question, question.gold, question.kind) == expected
