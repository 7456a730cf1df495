"""Batches, requests of turns, answers and the summary of a run."""

import json
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.config import RunConfig
from latentmas_ray.engine.turn import KeepRule
from latentmas_ray.errors import TurnError
from latentmas_ray.runs.results import Answer, Failure, Summary
from latentmas_ray.runs.summary import WarmUp, summarise
from latentmas_ray.scheduler.answers import split_bytes
from latentmas_ray.scheduler.batch import Batch, plan_batches
from latentmas_ray.scheduler.memory_budget import MemoryBudget, SegmentBound
from latentmas_ray.scheduler.turns import FRAME_TOKENS, DriverSettings, build_turn, segment_bounds
from latentmas_ray.tasks.question import Question
from tests.cases.fake_runtime import BYTES_PER_TOKEN, FakeRuntime
from tests.cases.question_runtime import PREFILL_SECONDS, QuestionRuntime
from tests.cases.scheduler import CHAIN, SINGLE, TALK, agent, make_driver, make_questions, run_all, topology


@given(count=st.integers(0, 40), size=st.integers(1, 9), done=st.sets(st.integers(0, 39)))
def test_a_resumed_run_has_the_batches_of_an_undisturbed_one(count: int, size: int, done: set[int]) -> None:
    questions = make_questions(count)
    whole = {batch.number: batch.questions for batch in plan_batches(questions, size)}
    assert [question for members in whole.values() for question in members] == questions
    left = plan_batches(questions, size, {f"q{index}" for index in done})
    assert all(batch.questions == whole[batch.number] for batch in left)
    assert [question.id for batch in left for question in batch.open_questions] == [
        question.id for index, question in enumerate(questions) if index not in done
    ]
    assert all(batch.open_questions for batch in left)


def test_an_agents_own_settings_override_the_runs() -> None:
    own = agent("own", latent_steps=3, hands_over="latents", close_turn=True, template={"thinking": False}, suffix="S")
    none = agent("none", "own", latent_steps=0)
    end = agent("end", "none", thinks="text", system="You judge.")
    settings = DriverSettings.from_config(RunConfig(latent_steps=9, seed=7, temperature=0.0, memory_in_flight="1KB"))
    (batch,) = plan_batches(make_questions(2), 2)
    made = topology(own, none, end)
    works = [build_turn(made, member, batch, settings, {}) for member in made.agents]
    assert [work.latent_steps for work in works] == [3, 0, 0]
    assert [work.hands_over for work in works] == ["latents", "all", "all"]
    assert [work.close_turn for work in works] == [True, False, False]
    assert works[0].prompts[0].template == {"thinking": False}
    assert works[0].prompts[0].suffix == "S"
    assert works[2].prompts[1].messages == (
        {"role": "system", "content": "You judge."},
        {"role": "user", "content": "question 1"},
    )
    assert works[2].sampling.seed == 7
    assert works[2].question_ids == ("q0", "q1")
    assert settings.memory_limit_bytes == 1000


def test_who_chooses_what_is_kept() -> None:
    """The readers are all agents that get the segment, through others, too; each with its own prompts."""
    made = topology(
        agent("a", prompt="A {{ question }}"),
        agent("b", "a", keep=0.5, prompt="B {{ question }}"),
        agent("c", keep=1.0),
        agent("end", "b", "c", thinks="text", prompt="E {{ question }}"),
    )
    (batch,) = plan_batches(make_questions(2), 2)

    def rules(**fields: Any) -> dict[str, KeepRule | None]:
        settings = DriverSettings.from_config(RunConfig(**fields))
        return {member.name: build_turn(made, member, batch, settings, {}).keep for member in made.agents}

    assert rules() == {"a": None, "b": KeepRule(share=0.5), "c": None, "end": None}
    found = rules(keep=0.25, keep_by="reader", keep_layers="own")
    assert (found["c"], found["end"]) == (None, None)
    shares = {name: (rule.share, rule.by, rule.layers) for name, rule in found.items() if rule is not None}
    assert shares == {"a": (0.25, "reader", "own"), "b": (0.5, "reader", "own")}
    read = {
        name: [[prompt.messages[0]["content"] for prompt in prompts] for prompts in rule.readers]
        for name, rule in found.items()
        if rule is not None
    }
    end = ["E question 0", "E question 1"]
    assert read == {"a": [["B question 0", "B question 1"], end], "b": [end]}


def test_the_bound_of_a_segment_follows_what_is_kept() -> None:
    made = topology(agent("thinker"), agent("end", "thinker", thinks="text"))
    (batch,) = plan_batches(make_questions(1), 1)
    work = build_turn(made, made.agents[0], batch, DriverSettings(latent_steps=5, keep=0.25), {})
    (bound,) = segment_bounds(work)
    assert (bound.prompt_bytes, bound.latent_steps) == (3, 5)  # of 10 bytes
    assert not replace(work, keep=KeepRule(share=0.5, by="thoughts")).can_overlap
    assert work.can_overlap


@pytest.mark.parametrize(
    ("hands_over", "tokens"),
    [("all", 10 + FRAME_TOKENS + 5), ("prompt", 10 + FRAME_TOKENS), ("latents", 5), ("latents+sink", 1 + 5)],
)
def test_the_bound_of_a_segment_follows_what_is_handed_over(hands_over: str, tokens: int) -> None:
    made = topology(agent("thinker", hands_over=hands_over), agent("end", "thinker", thinks="text"))
    (batch,) = plan_batches(make_questions(1), 1)
    (bound,) = segment_bounds(build_turn(made, made.agents[0], batch, DriverSettings(latent_steps=5), {}))
    assert bound.prompt_bytes + bound.latent_steps + bound.spare_tokens == tokens


def test_a_text_of_any_characters_has_a_bound() -> None:
    (batch,) = plan_batches([Question(id="q", question="é\ud800", kind="text", gold=None, record={})], 1)
    (bound,) = segment_bounds(build_turn(CHAIN, CHAIN.agents[0], batch, DriverSettings(), {}))
    assert bound.prompt_bytes == 5


def test_the_budget_learns_tokens_per_byte() -> None:
    bounds = {"planner": [SegmentBound(prompt_bytes=100, latent_steps=10, spare_tokens=0)]}
    budget = MemoryBudget(limit_bytes=1500, bytes_per_token=10)
    budget.reserve("first", bounds)
    assert (budget.reserved_bytes, budget.stored_bytes) == (1100, 0)
    assert not budget.fits(bounds)
    budget.set_size("first", "planner", [(25 + 10) * 10])
    assert (budget.reserved_bytes, budget.stored_bytes) == (350, 350)
    assert budget.fits(bounds)
    budget.reserve("second", bounds)
    assert budget.reserved_bytes == 700
    budget.set_size("second", "planner", [(5 + 10) * 10])
    budget.reserve("third", bounds)
    assert budget.reserved_bytes == 350 + 150 + 350  # the largest number of tokens per byte seen
    budget.stop_counting("third", "planner")
    budget.stop_counting("first", "planner")
    budget.stop_counting("second", "planner")
    budget.stop_counting("second", "planner")
    assert budget.reserved_bytes == 0
    assert budget.fits({"planner": bounds["planner"] * 1000})


def test_the_budget_counts_states() -> None:
    """Of a model whose layers keep them: once for each question and segment."""
    bounds = {"planner": [SegmentBound(prompt_bytes=10, latent_steps=0, spare_tokens=0)] * 2}
    budget = MemoryBudget(limit_bytes=2600, bytes_per_token=10, state_bytes=500)
    budget.reserve("first", bounds)
    assert budget.reserved_bytes == 2 * (10 * 10 + 500)
    assert budget.fits(bounds)
    budget.set_size("first", "planner", [550, 550])  # five tokens each
    assert budget.reserved_bytes == 1100
    budget.reserve("second", bounds)
    assert budget.reserved_bytes == 1100 + 2 * (5 * 10 + 500)
    assert not budget.fits({"planner": bounds["planner"] * 2})
    budget.stop_counting("second", "planner")
    budget.stop_counting("first", "planner")
    assert budget.reserved_bytes == 0


@given(st.data())
def test_the_budget_s_sums_are_those_of_all_its_segments(data: st.DataObject) -> None:
    """Whatever is reserved, finished and dropped, in whatever order."""
    budget = MemoryBudget(limit_bytes=5000, bytes_per_token=10)
    bounds, sizes, rates = dict[tuple[str, str], Any](), dict[tuple[str, str], int](), dict[str, float]()
    counts = st.integers(0, 40)
    for _ in range(data.draw(st.integers(1, 25))):
        key = batch, agent = data.draw(st.sampled_from("abc")), data.draw(st.sampled_from("xy"))
        bound = SegmentBound(prompt_bytes=data.draw(counts), latent_steps=data.draw(counts), spare_tokens=3)
        match data.draw(st.sampled_from(["reserve", "finish", "drop"])):
            case "reserve":
                budget.reserve(batch, {agent: (bound, bound)})
                bounds[key] = (bound, bound)
                sizes.pop(key, None)
            case "finish" if key in bounds:
                found = data.draw(counts) * 10, data.draw(counts) * 10
                budget.set_size(batch, agent, found)
                sizes[key] = sum(found)
                for size, one in zip(found, bounds[key], strict=True):
                    if one.prompt_bytes:
                        rate = (size / 10 - one.latent_steps) / one.prompt_bytes
                        rates[agent] = max(rates.get(agent, 0.0), rate)
            case "drop":
                budget.stop_counting(batch, agent)
                bounds.pop(key, None)
                sizes.pop(key, None)

        def estimate(agent: str, of: Any) -> int:
            tokens = (ceil(b.prompt_bytes * rates.get(agent, 1.0)) + b.latent_steps + b.spare_tokens for b in of)
            return 10 * sum(tokens)

        reserved = sum(sizes[key] if key in sizes else estimate(key[1], of) for key, of in bounds.items())
        assert budget.reserved_bytes == reserved
        assert budget.stored_bytes_by_agent() == {
            name: sum(size for (_, agent), size in sizes.items() if agent == name)
            for name in {one for _, one in bounds}
        }
        added = {"x": (bound,)}
        assert budget.fits(added) is (not reserved or reserved + estimate("x", added["x"]) <= 5000)


@given(num_bytes=st.integers(0, 10**12), weights=st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_shares_add_up(num_bytes: int, weights: list[int]) -> None:
    shares = split_bytes(num_bytes, weights)
    assert sum(shares) == num_bytes
    assert min(shares) >= 0
    if sum(weights):
        assert split_bytes(sum(weights), weights) == tuple(weights)


def test_every_token_byte_and_second_is_accounted_for() -> None:
    answers, _ = run_all(FakeRuntime(), CHAIN, make_questions(2, sizes=[10, 30]), latent_steps=4)
    short, long = answers["q0"], answers["q1"]
    assert {name: use.prompt_tokens for name, use in long.agents.items()} == dict.fromkeys(long.agents, 30)
    assert (short.latent_tokens, short.prompt_tokens) == (8, 30)
    assert short.agents["planner"].memory_bytes == (10 + 4) * BYTES_PER_TOKEN
    assert long.agents["planner"].memory_bytes == (30 + 4) * BYTES_PER_TOKEN
    assert long.agents["judger"].memory_bytes == 0
    assert long.agents["judger"].text is None
    assert long.output_tokens == len(long.answer_token_ids)
    assert long.agents["planner"].seconds["think"] == 0.5
    assert short.seconds == 3.0
    moved = {(transfer.source, transfer.reader): transfer.num_bytes for transfer in long.transfers}
    assert moved == dict.fromkeys([("planner", "critic"), ("planner", "judger"), ("critic", "judger")], 340)
    assert Answer.from_row(json.loads(json.dumps(long.to_row()))) == long


def test_answers_contain_the_texts_of_text_agents() -> None:
    answers, _ = run_all(FakeRuntime(), TALK, make_questions(2))
    uses = answers["q1"].agents
    assert uses["planner"].text == "planner on q1 among q0 q1"
    assert uses["judger"].text is None
    assert answers["q1"].answer == "judger on q1 among q0 q1"
    assert answers["q1"].transfers == ()


def test_answers_are_graded() -> None:
    right = Question(id="a", question="?", kind="text", gold="judger on a among a b", record={})
    wrong = Question(id="b", question="?", kind="text", gold="something else", record={})
    answers, _ = run_all(FakeRuntime(), CHAIN, [right, wrong])
    assert (answers["a"].correct, answers["b"].correct) == (True, False)


def test_the_summary_adds_up() -> None:
    answers, _ = run_all(FakeRuntime(), CHAIN, make_questions(4), latent_steps=5)
    failure = Failure(id="q9", agent="planner", error="no")
    summary = summarise(list(answers.values()), [failure], config=RunConfig(), seconds=2.0, num_resumed=1)
    assert (summary.num_questions, summary.num_failed, summary.accuracy) == (5, 1, None)
    assert summary.latent_steps_per_question == 10
    assert summary.questions_per_second == 1.5
    assert summary.moved_bytes == sum(t.num_bytes for answer in answers.values() for t in answer.transfers)
    assert summary.agents["planner"]["latent_steps"] == 5
    assert summary.agents["planner"]["think_seconds"] == 0.5
    assert json.loads(json.dumps(summary.to_json()))["method"] == "latent"


def test_shares_of_seconds_add_up_to_the_time_that_agents_were_busy() -> None:
    """Two batches of two and one of one: three turns for each agent."""
    runtime = FakeRuntime()
    answers, _ = run_all(runtime, CHAIN, make_questions(5), latent_steps=5)
    assert [answer.batch_size for answer in answers.values()] == [2, 2, 2, 2, 1]
    summary = summarise(list(answers.values()), [], config=RunConfig(), seconds=1.0)
    for name, figures in summary.agents.items():
        assert len(runtime.turns_of(name)) == 3
        assert 5 * figures["prefill_seconds_per_question"] == pytest.approx(3 * 0.25)
        assert 5 * figures["busy_seconds_per_question"] == pytest.approx(3 * 0.75)
        assert figures["prefill_seconds"] == 0.25
    judger = summary.agents["judger"]
    assert judger["transfer_seconds"] == 2 * 0.125
    assert 5 * judger["transfer_seconds_per_question"] == pytest.approx(3 * 2 * 0.125)
    assert judger["read_bytes"] == judger["moved_bytes"] == 2 * summary.agents["planner"]["memory_bytes"]


def test_seconds_of_questions_that_are_written_for_themselves_add_up_too() -> None:
    """One agent writes each question for itself, the others work on batches of three and of two."""
    seconds = {"q0": 1.0, "q1": 5.0, "q2": 2.0, "q3": 4.0, "q4": 0.5}
    runtime = QuestionRuntime(question_seconds=lambda work, name: seconds[name])
    answers, _ = run_all(runtime, CHAIN, make_questions(5), batch_size=3)
    assert {name: answer.agents["judger"].seconds["decode"] for name, answer in answers.items()} == seconds
    assert answers["q1"].agents["judger"].has_own_seconds
    assert not answers["q1"].agents["critic"].has_own_seconds
    row = answers["q1"].to_row()
    assert row["own_seconds"] == ["judger"]
    assert Answer.from_row(json.loads(json.dumps(row))) == answers["q1"]
    figures = summarise(list(answers.values()), [], config=RunConfig(), seconds=1.0).agents
    assert 5 * figures["judger"]["decode_seconds_per_question"] == pytest.approx(12.5)
    assert 5 * figures["judger"]["busy_seconds_per_question"] == pytest.approx(12.5 + 5 * PREFILL_SECONDS)
    assert figures["judger"]["decode_seconds"] == pytest.approx((3 * 8.0 + 2 * 4.5) / 5)  # of the question's batch
    assert 5 * figures["critic"]["think_seconds_per_question"] == pytest.approx(2 * 0.5)
    # The reads of the batch are those of its first answers and of its last.
    assert answers["q1"].transfers == answers["q2"].transfers
    assert "own_seconds" not in run_all(FakeRuntime(), CHAIN, make_questions(1))[0]["q0"].to_row()


def test_an_agent_is_as_busy_with_a_trace_as_without() -> None:
    answers, _ = run_all(FakeRuntime(), CHAIN, make_questions(2), latent_steps=5)
    traced = [
        replace(
            answer,
            agents={name: replace(use, seconds={**use.seconds, "trace": 8.0}) for name, use in answer.agents.items()},
        )
        for answer in answers.values()
    ]
    plain = summarise(list(answers.values()), [], config=RunConfig(), seconds=1.0)
    with_trace = summarise(traced, [], config=RunConfig(), seconds=1.0)
    for name, figures in with_trace.agents.items():
        assert figures["busy_seconds_per_question"] == plain.agents[name]["busy_seconds_per_question"]
        assert figures["trace_seconds"] == 8.0


def test_every_transfer_is_counted() -> None:
    answers, _ = run_all(FakeRuntime(), CHAIN, make_questions(3), latent_steps=5)
    summary = summarise(list(answers.values()), [], config=RunConfig(), seconds=1.0)
    pairs = [("planner", "critic"), ("planner", "judger"), ("critic", "judger")]
    assert [(found.source, found.reader) for found in summary.hand_overs] == pairs
    first = summary.hand_overs[0]
    assert (first.transports, first.links) == (("fake",), ("same_process",))
    assert first.num_bytes == summary.agents["planner"]["memory_bytes"]
    assert (first.transfer_seconds, first.exposed_seconds) == (0.125, 0.0)
    assert first.transfer_seconds_per_question == pytest.approx(2 * 0.125 / 3)
    assert sum(found.moved_bytes for found in summary.hand_overs) * 3 == summary.moved_bytes


def test_rows_without_a_batch_size_have_no_share_of_its_seconds() -> None:
    answers, _ = run_all(FakeRuntime(), CHAIN, make_questions(3))
    older = [replace(answer, batch_size=None) for answer in answers.values()]
    assert "batch_size" not in older[0].to_row()
    assert Answer.from_row(json.loads(json.dumps(older[0].to_row()))) == older[0]
    summary = summarise(older, [], config=RunConfig(), seconds=1.0)
    assert [name for name in summary.agents["planner"] if name.endswith("_per_question")] == []
    assert summary.hand_overs[0].transfer_seconds_per_question is None
    mixed = summarise([older[0], answers["q2"]], [], config=RunConfig(), seconds=1.0)
    assert mixed.agents["planner"]["prefill_seconds_per_question"] == 0.25


def ids_of(batches: Sequence[Batch]) -> list[list[str]]:
    return [[question.id for question in batch.open_questions] for batch in batches]


@pytest.mark.parametrize(("num_replicas", "warm_up", "num_after"), [(1, 1.0, 5), (2, 2.0, 3), (3, 3.0, 1), (4, 4.0, 0)])
def test_the_warm_up_ends_with_the_first_batch_of_every_replica(
    num_replicas: int, warm_up: float, num_after: int
) -> None:
    batches = plan_batches(make_questions(7), 2)
    watch = WarmUp(ids_of(batches), num_replicas)
    runtime = FakeRuntime()
    answers: list[Answer] = []
    for result in make_driver(runtime, SINGLE).run(batches):
        assert isinstance(result, Answer)
        answers.append(result)
        watch.add(result, runtime.now)
    assert (watch.seconds, watch.num_answers_after) == (warm_up, num_after)
    summary = summarise(answers, [], config=RunConfig(), seconds=4.0, warm_up=watch)
    assert summary.warm_up_seconds == warm_up
    assert summary.questions_per_second == 7 / 4
    if num_after:
        assert summary.seconds_after_warm_up == 4.0 - warm_up
        assert summary.questions_per_second_after_warm_up == num_after / (4.0 - warm_up)
    else:
        assert summary.seconds_after_warm_up is None
        assert summary.questions_per_second_after_warm_up is None


def test_failed_and_resumed_questions_count_for_the_warm_up() -> None:
    batches = plan_batches(make_questions(4), 2, {"q0"})
    runtime = FakeRuntime(failure=lambda work: TurnError("no") if "q1" in work.question_ids else None)
    watch = WarmUp(ids_of(batches))
    for result in make_driver(runtime, SINGLE).run(batches):
        watch.add(result, runtime.now)
    assert watch.seconds is not None
    assert watch.num_answers_after in (0, 2)


def test_a_summary_survives_json_and_an_older_one_has_defaults_for_new_fields() -> None:
    answers, _ = run_all(FakeRuntime(), CHAIN, make_questions(4), latent_steps=5)
    summary = summarise(list(answers.values()), [], config=RunConfig(), seconds=2.0)
    row = json.loads(json.dumps(summary.to_json()))
    assert Summary.from_json(row) == summary
    newer = ("num_resumed", "warm_up_seconds", "seconds_after_warm_up", "questions_per_second_after_warm_up")
    older = {name: value for name, value in row.items() if name not in (*newer, "hand_overs")}
    assert Summary.from_json(older).num_resumed is None
    assert Summary.from_json(older).hand_overs == ()


def test_the_summary_of_nothing() -> None:
    summary = summarise([], [], config=RunConfig(), seconds=0.0)
    assert (summary.num_questions, summary.questions_per_second, summary.accuracy) == (0, 0.0, None)
    assert summary.agents == {}
