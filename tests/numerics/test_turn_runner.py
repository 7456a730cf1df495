"""Turns as the driver orders them: what of the order reaches the engine, and what is reported back."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from latentmas_ray.engine.decoding import decode
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest
from latentmas_ray.errors import (
    ContextLengthError,
    IncompatibleMemoryError,
    ModelError,
    QuestionsTooLongError,
    SegmentError,
)
from latentmas_ray.memory import LATENT, Segment, join
from latentmas_ray.models import LanguageModel
from tests.cases.memory import take
from tests.numerics.conftest import MakeEngine
from tests.numerics.families import make_lm, with_limit
from tests.numerics.plain import Plain
from tests.numerics.turns import memory

QUESTIONS = ("short?", "a much longer question?", "q?")


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    return TurnRunner(engine_of("qwen3"))


def order(agent: str, thinks: str = "latent", suffix: str = "", **changes: Any) -> TurnRequest:
    prompts = tuple(
        Prompt(messages=({"role": "user", "content": f"{agent}: {text}"},), suffix=suffix) for text in QUESTIONS
    )
    fields = {"latent_steps": 3 if thinks == "latent" else 0, "sampling": Sampling(max_new_tokens=5), **changes}
    return TurnRequest(agent=agent, batch=0, question_ids=QUESTIONS, prompts=prompts, thinks=thinks, **fields)


def prompt_ids(runner: TurnRunner, work: TurnRequest) -> list[list[int]]:
    return [runner.engine.lm.chat.encode(one.messages, one.template, one.suffix) for one in work.prompts]


def turns_of(segment: Segment) -> list[list[int]]:
    return [segment.recompute_inputs.take([row]).token_ids_T.tolist() for row in range(segment.num_questions)]


def latent(runner: TurnRunner, work: TurnRequest, segments: dict[str, Segment] | None = None) -> Segment:
    chunk, _ = runner.run(work, segments or {})
    assert chunk is not None
    return join([chunk])


def test_a_latent_turn_is_the_prompt_then_thoughts(runner: TurnRunner) -> None:
    work = order("planner")
    chunk, report = runner.run(work, {})
    assert chunk is not None
    segment = join([chunk])
    prompts = prompt_ids(runner, work)
    assert turns_of(segment) == [[*ids, *[LATENT] * 3] for ids in prompts]
    assert report.prompt_tokens == tuple(map(len, prompts))
    assert report.memory_tokens == segment.lengths
    assert report.segment_bytes == segment.meta.bytes_per_question
    assert (report.latent_steps, report.output_token_ids, report.texts) == (3, (), ())
    assert report.phases.think > 0
    assert report.phases.decode == 0
    seconds = dict.fromkeys(asdict(report.phases), 0.0)
    for span in report.spans:
        seconds[span.phase] += span.end - span.begin
    assert seconds == pytest.approx(asdict(report.phases), abs=1e-5)
    order_of_phases = [span.phase for span in report.spans]
    assert order_of_phases == ["prefill", "absorb", "prefill", "think", "emit"]


def test_a_text_turn_decodes_what_transformers_decodes(runner: TurnRunner) -> None:
    planner, judger = order("planner"), order("judger", "text", reads=(memory("planner"),))
    planned = latent(runner, planner)
    segment, report = runner.run(judger, {"planner": planned})
    assert segment is None
    assert report.segment_bytes == ()
    rule = runner.engine.open(QUESTIONS, num_slots=8).rule
    for row, ids in enumerate(prompt_ids(runner, judger)):
        plain = Plain(runner.engine.lm, rule).recompute(planned.recompute_inputs.take([row])).feed(ids)
        assert list(report.output_token_ids[row]) == plain.decode(5)
        assert report.texts[row] == runner.engine.lm.chat.decode(report.output_token_ids[row])
        assert report.memory_tokens[row] == planned.lengths[row] + len(ids) + len(report.output_token_ids[row])


def test_close_turn_appends_the_terminator(runner: TurnRunner) -> None:
    work = order("planner", close_turn=True)
    segment = latent(runner, work)
    closing = runner.engine.lm.chat.turn_terminator
    assert turns_of(segment) == [[*ids, *[LATENT] * 3, *closing] for ids in prompt_ids(runner, work)]
    open_turn = latent(runner, order("planner"))
    for row, length in enumerate(open_turn.lengths):
        assert segment.lengths[row] == length + len(closing)
        torch.testing.assert_close(segment.kv_of(row)[:, :, :, :length], open_turn.kv_of(row), atol=1e-4, rtol=0)


def test_a_closed_turn_of_no_thought_is_a_plain_conversation(runner: TurnRunner) -> None:
    work = order("planner", close_turn=True, latent_steps=0)
    segment = latent(runner, work)
    closing = runner.engine.lm.chat.turn_terminator
    assert turns_of(segment) == [[*ids, *closing] for ids in prompt_ids(runner, work)]


@pytest.mark.parametrize("close_turn", [False, True])
def test_parts_that_are_handed_over(runner: TurnRunner, close_turn: bool) -> None:
    work = order("planner", close_turn=close_turn)
    lengths = tuple(map(len, prompt_ids(runner, work)))
    after = 3 + (len(runner.engine.lm.chat.turn_terminator) if close_turn else 0)
    prompt = latent(runner, replace(work, hands_over="prompt"))
    latents = latent(runner, replace(work, hands_over="latents"))
    assert (prompt.lengths, prompt.meta.starts) == (lengths, (0, 0, 0))
    assert (latents.lengths, latents.meta.starts) == ((after,) * 3, lengths)
    assert prompt.turn_ends == latents.turn_ends == tuple(length + after for length in lengths)


def test_suffix_and_template_reach_the_prompt(runner: TurnRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    work = order("planner", suffix="<think>")
    assert [turn[-10:-3] for turn in turns_of(latent(runner, work))] == [
        runner.engine.lm.chat.tokenizer("<think>")["input_ids"]
    ] * 3
    monkeypatch.setattr(runner.engine.lm.chat.tokenizer, "chat_template", "{{ mood }}{{ messages[0]['content'] }}")
    moody = replace(work, prompts=tuple(replace(prompt, template={"mood": "calm"}) for prompt in work.prompts))
    first = turns_of(latent(runner, moody))[0]
    assert runner.engine.lm.chat.decode([token for token in first if token != LATENT]).startswith("calmplanner")


def test_the_order_in_which_segments_come_does_not_matter(runner: TurnRunner) -> None:
    segments = {name: latent(runner, order(name)) for name in ("a", "b")}
    judger = order("judger", "text", reads=(memory("a"), memory("b")))
    forward = runner.run(judger, segments)[1]
    backward = runner.run(judger, dict(reversed(segments.items())))[1]
    assert forward.output_token_ids == backward.output_token_ids
    assert judger.segment_order() == ("a", "b")


def test_a_missing_memory_is_named(runner: TurnRunner) -> None:
    with pytest.raises(SegmentError, match="'planner'"):
        runner.run(order("judger", "text", reads=(memory("planner"),)), {})


def test_memory_of_other_questions_is_refused(runner: TurnRunner) -> None:
    segment = take(latent(runner, order("planner")), [0, 1])
    with pytest.raises(SegmentError, match="2 questions, not 3"):
        runner.run(order("judger", "text", reads=(memory("planner"),)), {"planner": segment})


def test_memory_of_another_model_is_refused(runner: TurnRunner, engine_of: MakeEngine) -> None:
    segment = latent(TurnRunner(engine_of("llama")), order("planner"))
    with pytest.raises(IncompatibleMemoryError, match="architecture"):
        runner.run(order("judger", "text", reads=(memory("planner"),)), {"planner": segment})


def test_a_runner_goes_on_after_a_failed_turn(runner: TurnRunner) -> None:
    expected = latent(runner, order("planner"))
    refused = Prompt(messages=({"role": "user", "content": "x"},), template={"tokenize": True})
    with pytest.raises(ModelError, match="chat template"):
        runner.run(replace(order("planner"), prompts=(refused,) * 3), {})
    assert torch.equal(latent(runner, order("planner")).kv_LCHTD, expected.kv_LCHTD)


def test_too_many_thoughts_are_told_with_their_numbers(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    engine.lm = with_limit(make_lm("qwen3"), 120)
    runner = TurnRunner(engine)
    longest = max(map(len, prompt_ids(runner, order("planner"))))
    with pytest.raises(
        ContextLengthError, match=r"need 121 positions, model qwen3-120 has 120: use fewer latent steps"
    ):
        runner.run(order("planner", latent_steps=121 - longest), {})
    runner.run(order("planner", latent_steps=120 - longest), {})


def test_texts_that_are_cut_off_are_told_apart(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    engine.lm = with_limit(make_lm("qwen3"), 60)
    runner = TurnRunner(engine)
    work = order("judger", "text", sampling=Sampling(max_new_tokens=12))
    left = [60 - len(ids) for ids in prompt_ids(runner, work)]
    longest = min(left)  # tokens until the row with the longest prompt has no position left
    engine.lm.chat.stop_ids = frozenset()
    _, report = runner.run(replace(work, sampling=Sampling(max_new_tokens=longest + 5)), {})
    assert report.cut_off == tuple("positions" if one < longest + 5 else "max_new_tokens" for one in left)
    assert {"positions", "max_new_tokens"} == set(report.cut_off)
    first = report.output_token_ids[0][0]
    engine.lm.chat.stop_ids = frozenset({first})
    _, report = runner.run(work, {})
    assert report.cut_off[0] == "no"


def test_a_model_without_a_template_ends_before_its_own_question(
    engine_of: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TurnRunner(engine_of("qwen3"))
    chat = runner.engine.lm.chat
    texts = [
        "It is 18.\n\nQuestion: Who runs?\nAnn",
        "It is 7, I think: a long sentence.",
        "No\n\nQ: Where runs Ann?\n",
    ]
    written = [chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    monkeypatch.setattr(
        decode,
        "_sample",
        lambda session, streams, sampling, agent, step: [
            ([*written[QUESTIONS.index(name)], 2] + [2] * 99)[step] for _, name in streams
        ],
    )
    monkeypatch.setattr(chat, "stop_ids", frozenset({2}))
    work = order("judger", "text", sampling=Sampling(max_new_tokens=80))
    _, with_template = runner.run(work, {})
    assert with_template.texts == tuple(texts)
    monkeypatch.setattr(chat.tokenizer, "chat_template", None)
    _, report = runner.run(work, {})
    assert [text.rstrip() for text in report.texts] == ["It is 18.", texts[1], "No"]
    assert report.cut_off == ("no", "no", "no")


def test_a_large_cache_is_given_back_after_the_turn_and_nobody_can_tell(
    runner: TurnRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = order("judger", "text")
    expected = runner.run(work, {})[1]
    monkeypatch.setattr("latentmas_ray.engine.engine._KEPT_BYTES_CPU", 0)
    again = runner.run(work, {})[1]
    assert again.output_token_ids == expected.output_token_ids
    assert runner.engine._cache is None
    planned = latent(runner, order("planner"))  # lies in the cache: so that stays
    assert runner.engine._cache is not None
    judged = runner.run(order("judger", "text", reads=(memory("planner"),)), {"planner": planned})[1]
    assert judged.output_token_ids


@pytest.mark.parametrize(
    ("thinks", "expected"),
    [
        ("latent", [("latent step", 0, 3), ("latent step", 1, 3), ("latent step", 2, 3)]),
        ("text", [("token", step, 5) for step in range(4)]),
    ],
)
def test_others_see_how_far_a_running_turn_is(
    runner: TurnRunner, monkeypatch: pytest.MonkeyPatch, thinks: str, expected: list[tuple[str, int, int]]
) -> None:
    seen: list[TurnProgress] = []
    forward = LanguageModel.hidden_states

    def observed(*args: Any) -> Any:
        assert runner.progress is not None
        seen.append(runner.progress)
        return forward(*args)

    work = order("planner", thinks)
    monkeypatch.setattr(runner.engine.lm.chat, "stop_ids", frozenset())
    monkeypatch.setattr(LanguageModel, "hidden_states", observed)
    runner.run(work, {})
    assert {one.agent for one in seen} == {"planner"}
    assert {one.question_ids for one in seen} == {QUESTIONS}
    num_tokens = sum(map(len, prompt_ids(runner, work)))
    steps = [(one.step, one.num_done, one.num_total) for one in seen]
    assert steps[: len(expected) + 1] == [("prompt", 0, num_tokens), *expected]
    assert runner.progress is None
    with pytest.raises(ModelError):
        runner.run(replace(work, prompts=(Prompt(messages=()),)), {})
    assert runner.progress is None


@pytest.mark.parametrize("thinks", ["latent", "text"])
def test_only_the_questions_that_do_not_fit_are_refused_before_the_first_step(
    thinks: str, engine_of: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of("qwen3")
    runner = TurnRunner(engine)
    work = order("planner", thinks, latent_steps=4 if thinks == "latent" else 0)
    lengths = dict(zip(QUESTIONS, map(len, prompt_ids(runner, work)), strict=True))
    longest = max(lengths, key=lambda name: lengths[name])
    coming = 4 if thinks == "latent" else 1
    engine.lm = with_limit(make_lm("qwen3"), lengths[longest] + coming - 1)
    monkeypatch.setattr(Session, "_forward", None)  # nothing is computed
    with pytest.raises(QuestionsTooLongError, match=f"^{lengths[longest]} prompt tokens") as caught:
        runner.run(work, {})
    assert set(caught.value.reasons) == {longest}
    assert caught.value.agent == "planner"


def test_memory_counts_with_its_positions(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    runner = TurnRunner(engine)
    work = order("planner")
    lengths = list(map(len, prompt_ids(runner, work)))
    segment = latent(runner, work)
    reader = order("judger", "text", reads=(memory("planner"),))
    needed = [3 + length + own + 1 for length, own in zip(lengths, map(len, prompt_ids(runner, reader)), strict=True)]
    engine.lm = with_limit(make_lm("qwen3"), max(needed) - 1)
    with pytest.raises(
        QuestionsTooLongError,
        match=rf"memory up to position \d+ \+ \d+ prompt tokens \+ 1 new token need {max(needed)} ",
    ):
        runner.run(reader, {"planner": segment})
