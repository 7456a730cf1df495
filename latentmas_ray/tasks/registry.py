"""The table of published benchmarks: dataset, kind of answer, and settings. `latentmas tasks` prints it.

`max_new_tokens` has the paper's values, and `text_tokens` the means of its tables (LatentMAS, arXiv 2511.20639, tables
1 to 3: output tokens per question, over all models and both topologies).
"""

from collections.abc import Iterable

from latentmas_ray.tasks import hub
from latentmas_ray.tasks.facts.numbers import TASK as FACTS
from latentmas_ray.tasks.facts.questions import MAX_NEW_TOKENS as FACTS_MAX_NEW_TOKENS
from latentmas_ray.tasks.hub import Benchmark
from latentmas_ray.tasks.question import Question

_NUM_AGENTS = 4  # of the published topologies


def _published(single: int, text: int, latent: int) -> dict[str, int]:
    """Return the mean tokens of one text from those of a question: with `text` all agents write."""
    return {"single": single, "text": text // _NUM_AGENTS, "latent": latent}


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
        text_tokens=_published(1178, 2885, 586),
        to_record=hub.from_gsm8k,
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
        text_tokens=_published(12077, 35586, 9326),
        to_record=hub.from_aime2024,
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
        text_tokens=_published(12995, 48410, 10714),
        to_record=hub.from_aime2025,
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
        text_tokens=_published(5991, 18511, 4256),
        to_record=hub.from_gpqa,
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
        text_tokens=_published(663, 2203, 431),
        to_record=hub.from_arc_easy,
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
        text_tokens=_published(844, 2602, 460),
        to_record=hub.from_arc_challenge,
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
        text_tokens=_published(1993, 5122, 1334),
        to_record=hub.from_medqa,
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
        text_tokens=_published(1848, 5838, 1319),
        to_record=hub.from_mbppplus,
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
        text_tokens=_published(2418, 6920, 1640),
        to_record=hub.from_humanevalplus,
    ),
)


def find_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark of this name, in any spelling: `arc-easy`, `ARC_E`, `mbpp+`, `aime24`."""
    plain = plain_name(name)
    return next((one for one in BENCHMARKS if plain == one.name or plain in one.aliases), None)


def plain_name(name: str) -> str:
    """Return the name in lower case, words joined by `_`, and `+` as `plus`."""
    return name.strip().lower().replace("-", "_").replace(" ", "_").replace("+", "plus")


def task_max_new_tokens(questions: Iterable[Question]) -> int | None:
    """Return the largest bound on new tokens of the tasks that the questions' records name; None if a question names
    none that has one."""
    names = {str(question.record.get("task", "")) for question in questions}
    bounds = [_max_new_tokens(name) for name in names]
    known = [bound for bound in bounds if bound is not None]
    return max(known, default=None) if len(known) == len(bounds) else None


def _max_new_tokens(task: str) -> int | None:
    benchmark = find_benchmark(task)
    if benchmark is not None:
        return benchmark.max_new_tokens
    return FACTS_MAX_NEW_TOKENS if task == FACTS else None
