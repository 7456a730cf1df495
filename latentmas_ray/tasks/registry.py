"""The published benchmarks: where their questions come from, how they are answered, and with which settings.

This table is the one place for all of that; `latentmas tasks` prints it. Bounds on new tokens are those of the paper.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from latentmas_ray.tasks import hub_rows
from latentmas_ray.tasks.question import AnswerKind, Question


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark. `to_record` makes a record of ours from a row of `split`, given the row's number."""

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
    to_record: Callable[[Mapping[str, Any], int], dict[str, Any]]
    aliases: tuple[str, ...] = ()
    is_gated: bool = False  # its terms must be accepted on the hub

    @property
    def file_fields(self) -> str:
        """What a line of a local file must hold."""
        return "id, prompt, test and entry_point" if self.kind == "code" else "id, question and gold"


BENCHMARKS = (
    Benchmark(
        name="gsm8k",
        title="GSM8K",
        kind="number",
        num_questions=1319,
        max_new_tokens=2048,
        hub_id="openai/gsm8k",
        config="main",
        split="test",
        revision="main",
        licence="MIT",
        to_record=hub_rows.from_gsm8k,
    ),
    Benchmark(
        name="aime2024",
        title="AIME 2024",
        kind="number",
        num_questions=30,
        max_new_tokens=20_000,
        hub_id="HuggingFaceH4/aime_2024",
        config=None,
        split="train",
        revision="main",
        licence="problems © MAA",
        to_record=hub_rows.from_aime2024,
        aliases=("aime24",),
    ),
    Benchmark(
        name="aime2025",
        title="AIME 2025",
        kind="number",
        num_questions=30,
        max_new_tokens=20_000,
        hub_id="math-ai/aime25",
        config=None,
        split="test",
        revision="main",
        licence="problems © MAA",
        to_record=hub_rows.from_aime2025,
        aliases=("aime25",),
    ),
    Benchmark(
        name="gpqa_diamond",
        title="GPQA-Diamond",
        kind="choice",
        num_questions=198,
        max_new_tokens=8192,
        hub_id="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        revision="main",
        licence="CC-BY-4.0",
        to_record=hub_rows.from_gpqa,
        aliases=("gpqa",),
        is_gated=True,
    ),
    Benchmark(
        name="arc_easy",
        title="ARC-Easy",
        kind="choice",
        num_questions=2376,
        max_new_tokens=2048,
        hub_id="allenai/ai2_arc",
        config="ARC-Easy",
        split="test",
        revision="main",
        licence="CC-BY-SA-4.0",
        to_record=hub_rows.from_arc_easy,
        aliases=("arc_e",),
    ),
    Benchmark(
        name="arc_challenge",
        title="ARC-Challenge",
        kind="choice",
        num_questions=1172,
        max_new_tokens=2048,
        hub_id="allenai/ai2_arc",
        config="ARC-Challenge",
        split="test",
        revision="main",
        licence="CC-BY-SA-4.0",
        to_record=hub_rows.from_arc_challenge,
        aliases=("arc_c",),
    ),
    Benchmark(
        name="medqa",
        title="MedQA",
        kind="choice",
        num_questions=1273,
        max_new_tokens=4096,
        hub_id="GBaker/MedQA-USMLE-4-options",
        config=None,
        split="test",
        revision="main",
        licence="CC-BY-4.0",
        to_record=hub_rows.from_medqa,
    ),
    Benchmark(
        name="mbppplus",
        title="MBPP+",
        kind="code",
        num_questions=378,
        max_new_tokens=4096,
        hub_id="evalplus/mbppplus",
        config=None,
        split="test",
        revision="main",
        licence="Apache-2.0",
        to_record=hub_rows.from_mbppplus,
    ),
    Benchmark(
        name="humanevalplus",
        title="HumanEval+",
        kind="code",
        num_questions=164,
        max_new_tokens=4096,
        hub_id="evalplus/humanevalplus",
        config=None,
        split="test",
        revision="main",
        licence="Apache-2.0",
        to_record=hub_rows.from_humanevalplus,
    ),
)


def find_benchmark(name: str) -> Benchmark | None:
    """The benchmark of this name, however it is spelt: `arc-easy`, `ARC_E`, `mbpp+`, `aime24`."""
    plain = plain_name(name)
    return next((one for one in BENCHMARKS if plain == one.name or plain in one.aliases), None)


def plain_name(name: str) -> str:
    """Lower case, words joined by `_`, and `+` as a word."""
    return name.strip().lower().replace("-", "_").replace(" ", "_").replace("+", "plus")


def task_max_new_tokens(questions: Iterable[Question]) -> int | None:
    """The bound on new tokens of the benchmark that the questions' records name; the largest, if they name several.

    None where a question names none.
    """
    names = {str(question.record.get("task", "")) for question in questions}
    named = [find_benchmark(name) for name in names]
    return max((one.max_new_tokens for one in named if one is not None), default=None) if all(named) else None
