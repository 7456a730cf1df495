"""Windows where questions come and go in one cache, and where an agent hands over other tokens in each layer."""

from pathlib import Path

import pytest
import torch

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.inputs import PromptChoice
from latentmas_ray.memory import MergedLayout, Segment, join, merge_layout
from latentmas_ray.models import LanguageModel
from latentmas_ray.writing.continuous import ContinuousEngine
from tests.cases.writing import write_all
from tests.numerics.position_families import WINDOW, make
from tests.numerics.turns import assert_close, begin, logits_of, memory, prompts_of, think
from tests.numerics.written_cases import QUESTIONS, Case, check, finish, make_cases, with_stops

pytestmark = pytest.mark.usefixtures("small_steps")


@pytest.fixture(scope="module", params=["mistral-window", "gpt_oss"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return with_stops(request.param)


@pytest.fixture(scope="module")
def cases(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return make_cases(lm, tmp_path_factory.mktemp("realign"), QUESTIONS)


def test_rows_that_come_and_go(lm: LanguageModel, cases: dict[str, Case]) -> None:
    for chunk in (5, 1024):
        engine = ContinuousEngine(lm, max_running=4, prefill_chunk=chunk)
        check(write_all(engine, [case.request for case in cases.values()], waits=[1, 0, 2] * 6), cases)


def test_a_question_that_waits_for_room_knows_where_its_tokens_are(lm: LanguageModel, cases: dict[str, Case]) -> None:
    engine = ContinuousEngine(lm, max_running=8)
    started = [cases["none2"], cases["branches2"], cases["latents2"]]
    for case in started:
        engine.start(case.request)

    def too_much(*_: object) -> None:
        hook.remove()
        raise torch.OutOfMemoryError("out of memory")

    hook = lm.decoder.register_forward_pre_hook(too_much)
    engine.step()
    assert engine.max_running == 2  # the third is set aside
    check(finish(engine, started), cases)


def evicted(engine: Engine, kept: PromptChoice) -> tuple[MergedLayout, Segment]:
    prompts = prompts_of([3 * WINDOW, 5])
    session = begin(engine, prompts)
    session.keep(kept)
    session.think(2)
    segment = join([session.emit_chunk()])
    return merge_layout([memory("a")], {"a": segment}, 2), segment


@pytest.mark.parametrize("family", ["mistral-window", "gemma3-window"])
def test_layers_that_keep_other_tokens_see_each_its_own(family: str, tmp_path: Path) -> None:
    """A layer that keeps what is near, and one that keeps what is far: with the whole prompt, hidden where it was
    evicted, a reader sees the same. The hidden tokens are moved out of every window."""
    engine = Engine(make(family), cache_dir=tmp_path)
    num_layers = engine.lm.spec.num_layers
    near, far = (((2 * WINDOW, 3 * WINDOW),), ((0, 5),)), (((0, WINDOW),), ((0, 5),))
    layout, segment = evicted(engine, [[*(near if layer % 2 else far)] for layer in range(num_layers)])
    assert segment.kv_lengths == (WINDOW + 2, 7)
    session = begin(engine, prompts_of([4, 3], 5), layout)
    positions = session.cache.positions_of(0, 0, WINDOW + 2)
    assert positions is not None
    tail = [3 * WINDOW, 3 * WINDOW + 1]
    for layer, own in enumerate(positions):
        assert own.tolist() == [*range(*(near if layer % 2 else far)[0][0]), *tail]
    logits = logits_of(session).clone()
    alone = begin(engine, [prompts_of([4, 3], 5)[1]], whole_of(engine))
    assert_close(logits[1], logits_of(alone)[0], 2e-5)  # of the second question nothing was evicted


def whole_of(engine: Engine) -> MergedLayout:
    segment = think(engine, [prompts_of([3 * WINDOW, 5])[1]], 2)
    return merge_layout([memory("a")], {"a": segment}, 1)


def test_what_is_evicted_far_away_is_not_missed(tmp_path: Path) -> None:
    """In a model of one layer with a window, a reader sees nothing of what lies before its window: evicting that
    changes no number."""
    engine = Engine(make("mistral-window"), cache_dir=tmp_path)
    engine.lm.model.model.layers = engine.lm.model.model.layers[:1]
    all_kept = [[((0, 3 * WINDOW),), ((0, 5),)]] * 2
    some_kept = [[((2 * WINDOW, 3 * WINDOW),), ((0, 5),)]] * 2
    seen = []
    for choice in (all_kept, some_kept):
        layout, _ = evicted(engine, choice)
        seen.append(logits_of(begin(engine, prompts_of([4, 3], 5), layout)).clone())
    assert_close(seen[0], seen[1], 2e-5)
    assert not torch.isnan(seen[0]).any()
