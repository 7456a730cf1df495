"""Agents of different models: a reader computes what it would compute if it were fed the translated inputs itself."""

import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from latentmas_ray import Agent, LatentMAS, Topology
from latentmas_ray.cli.main import main
from latentmas_ray.engine.recompute.translated import translate_segment
from latentmas_ray.engine.run_on import asked
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.errors import ConfigError, JournalError, MemoryInputError, ModelError, QuestionsTooLongError
from latentmas_ray.memory import LATENT, RecomputeInputs, SegmentChunk, join_recompute_inputs
from latentmas_ray.models.presets import tiny_tokenizer
from latentmas_ray.topology.agent import AgentMemory, HandsOver
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.writer import Writer
from tests.numerics.conftest import MakeEngine
from tests.numerics.families import GQA
from tests.numerics.test_recompute import QUESTIONS, Sent, chunks_of, order

FAMILY = {"one": "qwen3", "other": "llama"}
CHAIN = (AgentMemory("b", (AgentMemory("a"),)),)


class Doubles:
    """Translates every token to two, and thoughts by a matrix."""

    def __init__(self, seed: int) -> None:
        self.matrix_EE = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)) / 8

    def translate(self, inputs: RecomputeInputs) -> RecomputeInputs:
        rows = [
            [token for token in ids.tolist() for _ in range(1 if token == LATENT else 2)]
            for ids in inputs.token_ids_T.split(list(inputs.lengths))
        ]
        ids = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        return RecomputeInputs(ids, inputs.latents_NE @ self.matrix_EE, tuple(map(len, rows)))


TRANSLATORS = {"one": Doubles(1), "other": Doubles(2)}  # by the writer's model


def runner_of(engine_of: MakeEngine, model: str) -> TurnRunner:
    return TurnRunner(engine_of(FAMILY[model]), {name: one for name, one in TRANSLATORS.items() if name != model})


@contextmanager
def writer_of(runner: TurnRunner) -> Iterator[Writer]:
    with ThreadPoolExecutor(1) as owner:
        engine = ContinuousEngine(runner.engine.lm, max_running=2)
        yield Writer(engine, owner.submit, recompute=runner.recompute, translate=runner.translate)


def inputs_for(chunks: list[SegmentChunk], writer: str, reader: str) -> RecomputeInputs:
    """What a reader would have to be fed to have this memory."""
    own = join_recompute_inputs([chunk.recompute_inputs for chunk in chunks], chunks[0].meta.turn_lengths)
    return own if writer == reader else TRANSLATORS[writer].translate(own)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("team", ["one one other", "one other one", "one other other", "other one other"])
def test_a_reader_computes_what_it_would_from_the_translated_inputs(
    engine_of: MakeEngine, team: str, early: bool
) -> None:
    models = dict(zip(("a", "b", "judger"), team.split(), strict=True))
    runners = {name: runner_of(engine_of, model) for name, model in models.items()}
    sent: dict[str, list[SegmentChunk]] = {}
    for name, reads in (("a", ()), ("b", CHAIN[0].reads)):
        foreign = {one: models[one] for one in sent if models[one] != models[name]}
        work = order(name, reads, recomputed=frozenset(foreign), translated=foreign)
        sent[name] = chunks_of(runners[name], work, sent, early=early)
    foreign = {one: models[one] for one in sent if models[one] != models["judger"]}
    work = order("judger", CHAIN, thinks="text", recomputed=frozenset(foreign), translated=foreign)
    _, result = runners["judger"].run(work, Sent(sent))  # type: ignore[arg-type]

    engine = engine_of(FAMILY[models["judger"]])
    session = engine.open(QUESTIONS, num_slots=600)
    for name, chunks in sent.items():
        session.feed_recompute_inputs(inputs_for(chunks, models[name], models["judger"]))
    session.prefill([engine.lm.chat.encode(one.messages, one.template, one.suffix) for one in work.prompts])
    expected = session.decode(work.sampling, "judger", asked(work.prompts))
    assert [list(ids) for ids in result.output_token_ids] == expected

    with writer_of(runners["judger"]) as writer:  # as an actor that writes several turns at once
        written = writer.start(0, writer.receive(work, Sent(sent))).result()  # type: ignore[arg-type]
    assert (written.output_token_ids, written.failed) == (result.output_token_ids, {})
    assert written.memory_tokens == result.memory_tokens


def test_a_writer_counts_the_positions_of_the_translated_inputs(
    engine_of: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = order("judger", CHAIN[0].reads, thinks="text", recomputed=frozenset("a"), translated={"a": "one"})
    sent = {"a": chunks_of(runner_of(engine_of, "one"), order("a"), {}, early=True)}
    runner = runner_of(engine_of, "other")
    own = max(sent["a"][0].meta.turn_lengths)
    prompt = max(len(runner.engine.lm.chat.encode(one.messages, one.template, one.suffix)) for one in work.prompts)
    monkeypatch.setattr(type(runner.engine.lm), "max_positions", property(lambda _: own + prompt + 1))
    with writer_of(runner) as writer, pytest.raises(QuestionsTooLongError) as refused:
        writer.receive(work, Sent(sent))  # type: ignore[arg-type]
    with pytest.raises(QuestionsTooLongError) as static:
        runner.run(work, Sent(sent))  # type: ignore[arg-type]
    assert str(refused.value) == str(static.value)


@pytest.mark.parametrize("hands_over", ["all", "prompt", "latents", "latents+sink"])
def test_the_same_part_of_a_turn_is_handed_over(engine_of: MakeEngine, hands_over: HandsOver) -> None:
    reader = engine_of("llama").lm.spec
    chunks = chunks_of(runner_of(engine_of, "one"), order("a", hands_over=hands_over, close_turn=True), {}, early=True)
    found = translate_segment(TRANSLATORS["one"], chunks, (5, 6, 7), reader).meta
    was = chunks[0].meta
    num_thoughts = 3
    for question, start in enumerate((5, 6, 7)):
        closing = was.turn_lengths[question] - was.offsets[question] - num_thoughts if hands_over == "latents" else 0
        prompt = was.lengths[question] if hands_over == "prompt" else was.offsets[question]
        assert found.turn_starts[question] == start
        if hands_over == "prompt":
            assert (found.offsets[question], found.lengths[question]) == (0, 2 * prompt)
            assert found.turn_lengths[question] == 2 * prompt  # what is behind it is left out
        elif hands_over == "latents":
            assert (found.offsets[question], found.lengths[question]) == (2 * prompt, num_thoughts + 2 * closing)
        else:
            assert found.lengths[question] == 2 * (was.turn_lengths[question] - num_thoughts) + num_thoughts
        if hands_over == "latents+sink":
            assert was.kept is not None
            (first, (end, stop)) = was.kept[0][question]
            closing = stop - end - num_thoughts
            assert found.kept == (found.kept[0],) * reader.num_layers  # type: ignore[index]
            after = (2 * end, 2 * end + num_thoughts + 2 * closing)
            assert (first, found.kept[0][question]) == ((0, 1), ((0, 1), after))  # type: ignore[index]
        else:
            assert found.kept is None


TEAM = Topology(
    name="team",
    agents=[
        Agent(name="first", prompt="Think about: {{ question }}", latent_steps=2),
        Agent(name="second", reads="first", prompt="Check: {{ question }}", latent_steps=2),
        Agent(name="last", reads="second", thinks="text", prompt="Answer: {{ question }}"),
    ],
)
ASKED = ["How many beads?", "Which is more: two or three beads?"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random model of another family, width, depth and tokenizer than the embedded one."""
    folder = tmp_path_factory.mktemp("models") / "other"
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**{**GQA, "hidden_size": 96, "num_hidden_layers": 3})).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _anything_is_asked() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def system(**fields: Any) -> LatentMAS:
    return LatentMAS(topology=TEAM, runtime="local", temperature=0.0, max_new_tokens=5, **fields)


@pytest.mark.parametrize("where", ["models", "topology"])
def test_a_run_tells_who_reads_what(other: str, where: str) -> None:
    agents = [one.replace(model=other) if one.name == "second" else one for one in TEAM.agents]
    lines: list[str] = []

    class Lines:
        def on_event(self, event: Any) -> None:
            lines.append(getattr(event, "description", ""))

    team: dict[str, Any] = {"models": {"second": other}} if where == "models" else {}
    own = TEAM.replace(agents=agents) if where == "topology" else TEAM
    with LatentMAS(topology=own, runtime="local", temperature=0.0, max_new_tokens=5, observer=Lines(), **team) as mas:
        answers = list(mas.map(ASKED))
    modes = {(one.source, one.reader): one.mode for one in answers[0].transfers}
    assert modes == {("first", "second"): "translated", ("first", "last"): "kv", ("second", "last"): "translated"}
    said = next(line for line in lines if line)
    assert f"first → second: memory is translated from tiny to {other} and recomputed" in said
    assert f"second → last: memory is translated from {other} to tiny and recomputed" in said


def test_answers_do_not_depend_on_the_batch(other: str) -> None:
    written = []
    for batch_size in (1, 2):
        with system(models={"last": other}, batch_size=batch_size) as mas:
            written.append([one.answer_token_ids for one in mas.map(ASKED)])
    assert written[0] == written[1]


def test_another_dtype_of_the_same_model_recomputes() -> None:
    agents = [one.replace(dtype="float32") if one.name == "last" else one for one in TEAM.agents]
    with LatentMAS(topology=TEAM.replace(agents=agents), runtime="local", max_new_tokens=5) as mas:
        answer = mas.ask(ASKED[0])
    assert [(one.source, one.mode) for one in answer.transfers if one.reader == "last"] == [
        ("first", "translated"),
        ("second", "translated"),
    ]


def test_run_folders_name_the_models_and_resume_with_the_same(other: str, tmp_path: Path) -> None:
    questions = tmp_path / "asked.jsonl"
    questions.write_text("".join(json.dumps({"id": str(n), "question": q}) + "\n" for n, q in enumerate(ASKED)))
    fields: dict[str, Any] = {"task": str(questions), "output": str(tmp_path / "run")}
    with system(models={"last": other}, **fields) as mas:
        summary = mas.evaluate()
    assert (summary.model, summary.models) == ("tiny", {"last": other})
    assert summary.model_names == f"tiny (last: {other})"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["models"] == {"last": other}
    with system(models={"last": other}, resume=True, **fields) as mas:
        mas.evaluate()
    with pytest.raises(JournalError, match=r"^models: "), system(resume=True, **fields) as mas:
        mas.evaluate()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"models": {"unknown": "tiny"}},
            ConfigError,
            "models: got 'unknown=tiny'; there is no agent 'unknown'; the agents",
        ),
        ({"models": "last"}, ConfigError, "models: got 'last'; it must be one model for each agent"),
        ({"models": "last=a,last=b"}, ConfigError, "each agent once"),
        ({"models": {"last": "/nowhere"}}, ModelError, "models: got 'last=/nowhere'; there is no such folder"),
        ({"models": {"last": "OTHER"}, "save_memory": "FOLDER"}, ConfigError, "last reads the memory of first (tiny)"),
        ({"models": {"last": "OTHER"}, "engine": "vllm"}, ConfigError, "it must be transformers"),
        ({"models": {"last": "OTHER"}, "keep": 0.5}, ConfigError, "keep: got '0.5'; last has another model than first"),
    ],
)
def test_what_is_refused(
    fields: dict[str, Any], error: type[Exception], message: str, other: str, tmp_path: Path
) -> None:
    own: dict[str, Any] = {"save_memory": str(tmp_path)} if "save_memory" in fields else {}
    if isinstance(models := fields["models"], dict):
        own["models"] = {agent: model.replace("OTHER", other) for agent, model in models.items()}
    with pytest.raises(error) as caught:
        system(**fields | own)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_agent_has_one_model_and_memory_its_writers(other: str) -> None:
    agents = [one.replace(model=other) if one.name == "last" else one for one in TEAM.agents]
    with pytest.raises(ConfigError, match=r"agents\.last\.model is .*: leave one of the two out"):
        LatentMAS(topology=TEAM.replace(agents=agents), runtime="local", models={"last": "tiny"})
    with system() as mas:
        memory = mas.ask(ASKED[0], keep_memory=True).memory
    with pytest.raises(MemoryInputError, match="this model wrote the memory"), system(models={"last": other}) as mas:
        mas.ask(ASKED[0], memory=memory)


def test_tokenizers_that_share_too_little_are_refused_before_anything_starts(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(
        models.WordLevel({f"word{index}": index for index in range(GQA["vocab_size"])}, unk_token="word0")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(2)
    LlamaForCausalLM(LlamaConfig(**GQA)).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="word2", pad_token="word0", chat_template="{{ messages[0]['content'] }}"
    ).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="last cannot read the memory of first: "):
        system(models={"last": str(tmp_path)})


def test_commands_refuse_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    for models in ("unknown=tiny", "judger=/nowhere", "judger"):
        assert main(["ask", "--example", "chain", "--runtime", "local", "--models", models]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "models: got" in line


def test_layout_of_a_plan_has_each_models_weights(capfd: pytest.CaptureFixture[str]) -> None:
    team = ["--model", "qwen3-0.6b", "--models", "judger=qwen3-4b"]
    assert main(["plan", "--json", *team, "--nodes", "1", "--gpus-per-node", "4"]) == 0
    told = json.loads(capfd.readouterr().out)
    weights = {one["agents"][0]: one["weights_bytes"] for one in told["shards"]}
    assert weights["judger"] > 4 * weights["planner"] == 4 * weights["critic"]
    assert told["models"]["judger"]["model"] == "qwen3-4b"
    moved = {(one["source"], one["reader"]): one["num_bytes"] for one in told["hand_overs"]}
    assert moved["planner", "judger"] < moved["planner", "critic"] / 20  # recompute inputs
    assert main(["plan", *team, "--placement", "colocate"]) == 2
    assert "agents of one actor share its model" in capfd.readouterr().err
