"""Questions of published benchmarks from the Hugging Face hub. The only module that uses the `datasets` library.

`Benchmark` describes one dataset, `hub_records` downloads it, and each `from_…` function makes a record (`id`, `task`,
`question`, `gold`, and what its kind needs) from one row and the row's number in the split. They raise KeyError or
TypeError for a row of another form.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from latentmas_ray.errors import TaskError, first_line
from latentmas_ray.tasks.choices.order import shuffled
from latentmas_ray.tasks.question import AnswerKind

Row = Mapping[str, Any]
Record = dict[str, Any]

_PROBE_SECONDS = 10.0
_MAX_REASON_CHARS = 200


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A published benchmark: its dataset and settings. `to_record` converts a row of `split`, given its number."""

    name: str
    title: str
    kind: AnswerKind
    num_questions: int
    max_new_tokens: int  # per agent that writes
    hub_id: str
    config: str | None
    split: str
    revision: str
    licence: str
    to_record: Callable[[Row, int], Record]
    # Mean tokens of one text as published, by method: of the agent alone, of each agent that writes, of the one that
    # answers.
    text_tokens: Mapping[str, int]
    aliases: tuple[str, ...] = ()
    is_gated: bool = False  # its terms must be accepted on the hub

    @property
    def file_fields(self) -> str:
        """The fields that each line of a local file must have."""
        return "id, prompt, test and entry_point" if self.kind == "code" else "id, question and gold"


def hub_records(benchmark: Benchmark, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the first `limit` records of a benchmark, from the library's cache or downloaded.

    Raises TaskError if the extra `eval` is not installed or does not load, or if the dataset is gated, cannot be
    reached, has no row, or has another form. The message says how to give the questions as a file instead.
    """
    try:
        import datasets
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise _refusal(benchmark, "the extra eval is not installed: pip install '.[eval]' in a checkout") from error
    except Exception as error:  # a broken or mismatched dependency of the library may raise anything
        told = f"the library datasets does not load here ({first_line(error)[:_MAX_REASON_CHARS]})"
        raise _refusal(benchmark, told) from error
    source = benchmark.hub_id
    try:
        if not (Path(source).is_dir() or huggingface_hub.is_offline_mode()):
            # Probed first, because the library tries for half a minute to reach a hub that is not there.
            huggingface_hub.HfApi().dataset_info(source, revision=benchmark.revision, timeout=_PROBE_SECONDS)
        rows = datasets.load_dataset(source, benchmark.config, split=benchmark.split, revision=benchmark.revision)
    except Exception as error:
        raise _refusal(benchmark, _reason(benchmark, error)) from error
    try:
        num_rows = len(rows) if limit is None else min(limit, len(rows))
        records = [benchmark.to_record(rows[number], number) for number in range(num_rows)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"its rows have another form than expected ({type(error).__name__}: {error})"
        raise _refusal(benchmark, reason) from error
    if not records:
        raise _refusal(benchmark, f"{source} has no row in its split {benchmark.split}")
    return records


def _reason(benchmark: Benchmark, error: Exception) -> str:
    said = first_line(error)[:_MAX_REASON_CHARS]
    if benchmark.is_gated and ("gated" in str(error).lower() or "401" in said or "403" in said):
        return f"{benchmark.hub_id} is gated: accept its terms on the hub and log in with `hf auth login`"
    return f"{benchmark.hub_id} cannot be loaded from the hub ({said})"


def _refusal(benchmark: Benchmark, reason: str) -> TaskError:
    alternative = f"or give its questions as a file: --task FILE.jsonl with {benchmark.file_fields} on every line"
    return TaskError("task", benchmark.name, f"{reason}; {alternative}")


def from_gsm8k(row: Row, number: int) -> Record:
    """The gold is the number after `####` in the worked answer."""
    solution, _, gold = row["answer"].rpartition("####")
    return {
        "id": f"gsm8k/test/{number}",
        "task": "gsm8k",
        "question": row["question"].strip(),
        "gold": gold.strip().replace(",", ""),
        "solution": f"{solution.strip()}\n#### {gold.strip()}",
    }


def from_aime2024(row: Row, number: int) -> Record:
    """Golds are whole numbers from 0 to 999, some with leading zeros."""
    return _aime(row, number, "aime2024")


def from_aime2025(row: Row, number: int) -> Record:
    """See `from_aime2024`."""
    return _aime(row, number, "aime2025")


def from_gpqa(row: Row, number: int) -> Record:
    """The order of the options depends only on the question, so it is the same in every run."""
    correct = row["Correct Answer"].strip()
    texts = [correct, *(row[f"Incorrect Answer {index}"].strip() for index in (1, 2, 3))]
    name = str(row.get("Record ID") or number)
    choices = shuffled(name, texts)
    return {
        "id": f"gpqa_diamond/{name}",
        "task": "gpqa_diamond",
        **_with_choices(row["Question"].strip(), choices),
        "gold": ascii_uppercase[choices.index(correct)],
    }


def from_arc_easy(row: Row, number: int) -> Record:
    """Three to five options, labelled with letters or, in some questions, with numbers from 1."""
    return _arc(row, "arc_easy")


def from_arc_challenge(row: Row, number: int) -> Record:
    """See `from_arc_easy`."""
    return _arc(row, "arc_challenge")


def from_medqa(row: Row, number: int) -> Record:
    """Four options, labelled with letters."""
    options = row["options"]
    letters = sorted(letter for letter, text in options.items() if text is not None)
    return {
        "id": f"medqa/test/{number}",
        "task": "medqa",
        **_with_choices(row["question"].strip(), [options[letter] for letter in letters]),
        "gold": ascii_uppercase[letters.index(row["answer_idx"])],
    }


def from_mbppplus(row: Row, number: int) -> Record:
    """Only the example tests name the function."""
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
    """The tests are a function `check`, which takes the requested function."""
    return {
        "id": row["task_id"],
        "task": "humanevalplus",
        **{key: row[key] for key in ("prompt", "test", "entry_point", "canonical_solution")},
    }


def _aime(row: Row, number: int, task: str) -> Record:
    # Copies of these contests write their field names in different cases.
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
