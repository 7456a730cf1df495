"""What can be asked of a `LatentMAS` from Python, with a real model in this process."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import Agent, LatentMAS, Memory, Topology, load_run
from latentmas_ray.cli.main import main
from latentmas_ray.errors import ConfigError, InputError, JournalError, RunError, TaskError
from latentmas_ray.models import load as model_loading
from latentmas_ray.models.names import EMBEDDED_FOLDER
from tests.callers import FAST, QUESTIONS, ask_in_tasks, ask_in_threads, ask_in_turn

GOLDEN_MODEL = Path(__file__).parents[1] / "golden" / "model"
LOCAL: dict[str, Any] = {**FAST, "runtime": "local"}


@pytest.fixture(scope="module")
def mas() -> Iterator[LatentMAS]:
    with LatentMAS("tiny", **LOCAL) as system:
        yield system


def test_threads_and_tasks_get_the_answers_they_would_get_in_turn(mas: LatentMAS) -> None:
    in_turn = ask_in_turn(mas)
    assert len(set(in_turn.values())) > len(in_turn) // 4  # else a mix-up would not show
    assert ask_in_threads(mas) == in_turn
    assert ask_in_tasks(mas) == in_turn


def test_batches_of_several_threads_are_kept_apart(mas: LatentMAS) -> None:
    parts = [QUESTIONS[first : first + 8] for first in range(0, 32, 8)]
    alone = [{answer.id: answer.answer_token_ids for answer in mas.map(part)} for part in parts]
    found: list[Any] = [None] * len(parts)

    def run(index: int) -> None:
        found[index] = {answer.id: answer.answer_token_ids for answer in mas.as_completed(parts[index])}

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def test_map_is_in_the_order_of_the_questions_in_both_kinds_of_loop(mas: LatentMAS) -> None:
    questions = [*reversed(QUESTIONS[:12])]
    assert [answer.id for answer in mas.map(questions)] == [question.id for question in questions]

    async def collect() -> list[str]:
        return [answer.id async for answer in mas.map(questions)]

    assert asyncio.run(collect()) == [question.id for question in questions]


def test_a_malformed_question_is_told_by_the_call_itself(mas: LatentMAS) -> None:
    with pytest.raises(TaskError, match="ids must differ"):
        mas.map([QUESTIONS[0], QUESTIONS[0]])


def test_after_close_the_next_call_starts_again() -> None:
    mas = LatentMAS("tiny", **LOCAL)
    first = mas.ask(QUESTIONS[0]).answer
    left = mas.map(QUESTIONS[:20])
    next(left)
    mas.close()
    with pytest.raises(RunError, match="closed"):
        list(left)
    assert mas.ask(QUESTIONS[0]).answer == first
    mas.close()


@pytest.mark.parametrize(
    ("topology", "transfer_mode"),
    [
        ("notes-hierarchical", "kv"),
        ("notes-sequential", "recompute"),
        # Each of the two topologies and of the two modes is above.
        pytest.param("notes-sequential", "kv", marks=pytest.mark.slow),
        pytest.param("notes-hierarchical", "recompute", marks=pytest.mark.slow),
    ],
)
def test_an_answer_from_memory_is_the_answer_of_the_undisturbed_run(
    topology: str, transfer_mode: Any, tmp_path: Path
) -> None:
    fields = {**LOCAL, "topology": topology, "latent_steps": 4, "max_new_tokens": 12, "transfer": transfer_mode}
    questions = QUESTIONS[:2]
    with LatentMAS("tiny", **fields) as mas:
        undisturbed = [mas.ask(question).answer_token_ids for question in questions]
        kept = [mas.ask(question, keep_memory=True) for question in questions]
        assert [answer.answer_token_ids for answer in kept] == undisturbed
        for number, question in enumerate(questions):
            memory = mas.think(question)
            assert kept[number].memory == memory
            assert memory.has_kv == (transfer_mode == "kv")
            memory.save(tmp_path / f"{number}.safetensors")
            memory.save(tmp_path / f"{number}-inputs.safetensors", kv=False)
    with LatentMAS("tiny", **fields) as other:
        for number, question in enumerate(questions):
            for name in (f"{number}", f"{number}-inputs"):
                memory = Memory.load(tmp_path / f"{name}.safetensors")
                assert other.ask(question, memory=memory).answer_token_ids == undisturbed[number]


def test_the_memory_of_a_batch_comes_apart_by_question() -> None:
    fields = {**LOCAL, "topology": "notes-hierarchical", "latent_steps": 2, "batch_size": 4, "dtype": "float32"}
    with LatentMAS("tiny", **fields) as mas:
        for answer, question in zip(mas.map(QUESTIONS[:4], keep_memory=True), QUESTIONS[:4], strict=True):
            alone = mas.think(question)
            assert answer.memory is not None
            assert answer.memory.agents == alone.agents
            assert answer.memory.question == question.question
            for agent in alone.agents:
                ours, theirs = answer.memory.segments[agent], alone.segments[agent]
                assert ours.meta == theirs.meta
                assert ours.kv_LCHTD is not None
                assert theirs.kv_LCHTD is not None
                assert (ours.kv_LCHTD - theirs.kv_LCHTD).abs().max() < 1e-4


def test_one_memory_serves_many_questions(mas: LatentMAS) -> None:
    """In a batch and one by one."""
    memory = mas.think(QUESTIONS[0])
    asked = [{"id": str(number), "question": QUESTIONS[number].question} for number in range(5)]
    together = [answer.answer_token_ids for answer in mas.map(asked, memory=memory)]
    assert together == [mas.ask(question, memory=memory).answer_token_ids for question in asked]
    assert mas.ask({**asked[0], "id": QUESTIONS[0].id}, memory=memory).answer == mas.ask(QUESTIONS[0]).answer


def test_merged_memories_are_read_like_parallel_branches() -> None:
    """Two experts' memories, each from a run of its own, give what the run with both gives."""
    experts = "notes-hierarchical"
    fields = {**LOCAL, "topology": experts, "latent_steps": 3, "max_new_tokens": 24, "temperature": 0.0}
    with LatentMAS("tiny", **fields) as mas:
        whole = mas.think(QUESTIONS[0])
        parts = [
            Memory(
                model=whole.model,
                question=whole.question,
                reads=(node,),
                segments={node.agent: whole.segments[node.agent]},
            )
            for node in whole.reads
        ]
        assert Memory.merge(parts) == whole
        twice = Memory.merge([whole, mas.think(QUESTIONS[1])])
        assert twice.num_tokens == 2 * whole.num_tokens or twice.num_tokens > whole.num_tokens
        assert mas.ask(QUESTIONS[0], memory=twice).answer


def test_memory_of_other_weights_is_refused_before_anything_is_computed(mas: LatentMAS) -> None:
    with LatentMAS(str(GOLDEN_MODEL), **LOCAL) as other:
        memory = other.think({"question": "x", "notes": "y"})
    with pytest.raises(InputError, match="cannot read it") as caught:
        mas.ask(QUESTIONS[0], memory=memory)
    assert "\n" not in str(caught.value)


def test_where_no_memory_is_handed_over_none_can_be_kept() -> None:
    for method in ("single", "text"):
        with LatentMAS("tiny", **{**LOCAL, "topology": "notes-sequential", "method": method}) as mas:
            with pytest.raises(ConfigError, match="reads no memory"):
                mas.think(QUESTIONS[0])
            with pytest.raises(ConfigError, match="reads no memory"):
                mas.ask(QUESTIONS[0], keep_memory=True)
    with pytest.raises(ConfigError, match=r"^method: got 'single'; .*save_memory.*; use method latent"):
        LatentMAS("tiny", method="single", runtime="local", save_memory="/nowhere")
    with pytest.raises(ConfigError, match=r"^memory: got 'none'; .* reads no memory"):
        LatentMAS("tiny", memory="none", runtime="local").think(QUESTIONS[0])
    thinker = Agent(name="thinker", prompt="{{ question }}")
    scribe = Agent(name="scribe", thinks="text", prompt="{{ question }}", reads=["thinker"])
    answerer = Agent(name="answerer", thinks="text", prompt="{{ context }}", reads=["scribe"])
    with pytest.raises(ConfigError, match=r"^topology: got 'texts'; .* reads no memory"):
        LatentMAS("tiny", topology=Topology(name="texts", agents=[thinker, scribe, answerer]), runtime="local").think(
            "?"
        )


def test_evaluation_over_steps_and_seeds_loads_each_model_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded: list[str] = []
    load = model_loading.load_model

    def count(name: Any, **more: Any) -> Any:
        loaded.append(name)
        return load(name, **more)

    monkeypatch.setattr(model_loading, "load_model", count)
    fields = {**LOCAL, "topology": "hierarchical", "temperature": 0.0, "max_new_tokens": 4}
    with LatentMAS("tiny", **fields) as mas:
        sweep = mas.evaluate("notes", limit=2, latent_steps=[0, 2, 10], output=str(tmp_path / "sweep"))
        assert list(sweep) == [0, 2, 10]
        assert [summary.latent_steps_per_question for summary in sweep.values()] == [0, 6, 30]
        both = mas.evaluate("notes", limit=2, seeds=[1, 2], latent_steps=[0, 1])
        assert [(steps, summary.seeds) for steps, summary in both.items()] == [(0, (1, 2)), (1, (1, 2))]
        assert mas.evaluate("notes", limit=2).num_questions == 2
    assert len(loaded) == 1
    folders = sorted(path.parent.relative_to(tmp_path) for path in tmp_path.rglob("summary.json"))
    assert [str(folder) for folder in folders] == [f"sweep/latent-steps-{steps}" for steps in (0, 10, 2)]


def test_runs_of_several_kinds_keep_their_memories_apart_and_have_no_folder_in_common(tmp_path: Path) -> None:
    memories, output = tmp_path / "memories", tmp_path / "output"
    fields = {**LOCAL, "save_memory": str(memories)}
    with LatentMAS("tiny", **fields) as mas:
        calls: dict[str, dict[str, Any]] = {
            "seeds": {"seeds": [1, 2]},
            "steps": {"latent_steps": [0, 1]},
            "one": {},
        }
        for name, call in calls.items():
            mas.evaluate("notes", limit=1, output=str(output / name), **call)
        with pytest.raises(JournalError, match="holds runs with seeds 1, 2"):
            mas.evaluate("notes", limit=1, output=str(output / "seeds"), **calls["steps"])
        for other in ("one", "seeds"):
            with pytest.raises(JournalError, match="holds runs with 0, 1 latent steps"):
                mas.evaluate("notes", limit=1, output=str(output / "steps"), **calls[other])
        mas.evaluate("notes", limit=1, output=str(output / "both"), seeds=[1, 2], latent_steps=[0, 1])
        resumed = mas.evaluate(
            "notes", limit=1, output=str(output / "both"), seeds=[1, 2], latent_steps=[0, 1], resume=True
        )
    assert list(resumed) == [0, 1]
    folders = {str(path.parent.relative_to(memories)) for path in memories.rglob("*.safetensors")}
    both = {f"latent-steps-{steps}/seed-{seed}" for steps in (0, 1) for seed in (1, 2)}
    assert folders == {".", "seed-1", "seed-2", "latent-steps-0", "latent-steps-1", *both}


@pytest.mark.parametrize("steps", [[], [1, 1], [-1], [True], ["x"]])
def test_what_is_no_list_of_steps_is_refused(mas: LatentMAS, steps: Any) -> None:
    with pytest.raises(ConfigError, match="latent_steps"):
        mas.evaluate("notes", latent_steps=steps)


def test_memories_are_saved_as_answers_come(tmp_path: Path) -> None:
    fields = {**LOCAL, "save_memory": str(tmp_path / "memories")}
    questions = [{"id": name, "question": "?", "notes": "n"} for name in ("a", "b/../c", "ü", "." * 300)]
    with LatentMAS("tiny", **fields) as mas:
        answers = list(mas.map(questions))
    assert [answer.memory for answer in answers] == [None] * 4
    files = sorted(path.name for path in (tmp_path / "memories").iterdir())
    assert len(files) == 4
    assert "a.safetensors" in files
    assert all(Memory.load(tmp_path / "memories" / name).question == "?" for name in files)
    assert (tmp_path / "memories" / "a.safetensors").stat().st_mode & 0o777 == 0o600


def test_a_model_object_answers_and_remembers_like_the_model_of_that_name(mas: LatentMAS) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_FOLDER, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
    fields = {name: value for name, value in LOCAL.items() if name != "dtype"}
    with LatentMAS(model, tokenizer=tokenizer, **fields) as own:
        assert ask_in_turn(own, QUESTIONS[:3]) == ask_in_turn(mas, QUESTIONS[:3])
        memory = own.think(QUESTIONS[0])
        assert mas.ask(QUESTIONS[0], memory=memory).answer == mas.ask(QUESTIONS[0]).answer
    with pytest.raises(InputError, match="tp"):
        LatentMAS(model, tokenizer=tokenizer, **{**fields, "runtime": "ray"}, tp=2)


def test_the_command_line_saves_memory_and_answers_from_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "memories"
    # In bfloat16 rounding depends on which questions are written at the same time, and they are asked again alone.
    where = ["--runtime", "local", "--dtype", "float32"]
    run = [*where, "--topology", "notes-hierarchical", "--temperature", "0", "--latent-steps", "2"]
    files = ["--save-memory", str(folder), "--output", str(tmp_path / "run")]
    assert main(["eval", "--task", "notes", "--limit", "2", *run, *files]) == 0
    rows = load_run(tmp_path / "run").answers
    assert sorted(path.name for path in folder.iterdir()) == [f"{row.id}.safetensors" for row in rows]
    capfd.readouterr()
    for row in rows:
        file = str(folder / f"{row.id}.safetensors")
        assert main(["ask", row.question, "--anyway", *run, "--from-memory", file]) == 0
        assert capfd.readouterr().out.strip() == row.answer
    assert main(["ask", rows[0].question, "--anyway", *run, "--from-memory", str(tmp_path / "none")]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: --from-memory: got ")
    assert error.count("\n") == 1
    other = [*run[:-1], "2", "--model", str(GOLDEN_MODEL)]
    assert main(["ask", rows[0].question, *other, "--from-memory", file]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")
