"""From a row of a published dataset to a record of ours: `id`, `task`, `question`, `gold`, and whatever the kind needs.

Each function takes a row and its number in the split. Raises KeyError or TypeError for a row of another form.
"""

from collections.abc import Mapping
from hashlib import blake2b
from string import ascii_uppercase
from typing import Any

Row = Mapping[str, Any]
Record = dict[str, Any]


def from_gsm8k(row: Row, number: int) -> Record:
    """The gold is what follows `####` in the worked answer."""
    solution, _, gold = row["answer"].rpartition("####")
    return {
        "id": f"gsm8k/test/{number}",
        "task": "gsm8k",
        "question": row["question"].strip(),
        "gold": gold.strip().replace(",", ""),
        "solution": f"{solution.strip()}\n#### {gold.strip()}",
    }


def from_aime2024(row: Row, number: int) -> Record:
    """Golds are whole numbers from 0 to 999, some of them written with leading zeros."""
    return _aime(row, number, "aime2024")


def from_aime2025(row: Row, number: int) -> Record:
    """As `from_aime2024`."""
    return _aime(row, number, "aime2025")


def from_gpqa(row: Row, number: int) -> Record:
    """The options stand in an order that depends on the question alone, so that it is the same in every run."""
    correct = row["Correct Answer"].strip()
    texts = [correct, *(row[f"Incorrect Answer {index}"].strip() for index in (1, 2, 3))]
    name = str(row.get("Record ID") or number)
    choices = sorted(texts, key=lambda text: blake2b(f"{name}\n{text}".encode()).digest())
    return {
        "id": f"gpqa_diamond/{name}",
        "task": "gpqa_diamond",
        **_with_choices(row["Question"].strip(), choices),
        "gold": ascii_uppercase[choices.index(correct)],
    }


def from_arc_easy(row: Row, number: int) -> Record:
    """Options are labelled with letters, in some questions with numbers from 1; there are three to five of them."""
    return _arc(row, "arc_easy")


def from_arc_challenge(row: Row, number: int) -> Record:
    """As `from_arc_easy`."""
    return _arc(row, "arc_challenge")


def from_medqa(row: Row, number: int) -> Record:
    """Four options by letter."""
    options = row["options"]
    letters = sorted(letter for letter, text in options.items() if text is not None)
    return {
        "id": f"medqa/test/{number}",
        "task": "medqa",
        **_with_choices(row["question"].strip(), [options[letter] for letter in letters]),
        "gold": ascii_uppercase[letters.index(row["answer_idx"])],
    }


def from_mbppplus(row: Row, number: int) -> Record:
    """The function's name stands in the example tests alone."""
    return {
        "id": f"mbppplus/{row['task_id']}",
        "task": "mbppplus",
        "prompt": row["prompt"],
        "test": row["test"],
        "test_list": list(row["test_list"]),
        "test_imports": list(row["test_imports"]),
        "code": row["code"],
    }


def from_humanevalplus(row: Row, number: int) -> Record:
    """The tests are a function `check` of the function that is asked for."""
    return {
        "id": row["task_id"],
        "task": "humanevalplus",
        **{key: row[key] for key in ("prompt", "test", "entry_point", "canonical_solution")},
    }


def _aime(row: Row, number: int, task: str) -> Record:
    # Copies of these contests differ in how they write the names of their fields.
    fields = {key.lower(): value for key, value in row.items()}
    return {
        "id": f"{task}/{fields.get('id') or number}",
        "task": task,
        "question": fields["problem"].strip(),
        "gold": str(int(fields["answer"])),
    }


def _arc(row: Row, task: str) -> Record:
    texts, labels = row["choices"]["text"], list(row["choices"]["label"])
    return {
        "id": row["id"],
        "task": task,
        **_with_choices(row["question"].strip(), texts),
        "gold": ascii_uppercase[labels.index(row["answerKey"])],
    }


def _with_choices(stem: str, choices: list[str]) -> Record:
    lines = (f"{letter}. {text}" for letter, text in zip(ascii_uppercase, choices, strict=False))
    return {"question": "\n".join([stem, *lines]), "stem": stem, "choices": list(choices)}
