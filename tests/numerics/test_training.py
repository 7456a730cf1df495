"""The training loop: a stopped run goes on as if nothing had happened, and steps make the loss smaller."""

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from examples.tiny_model.designs import DESIGNS
from examples.tiny_model.document import Mix
from examples.tiny_model.first_weights import set_first_weights
from examples.tiny_model.layouts import TranscriptWriter
from examples.tiny_model.loop import Trainer, TrainingSettings
from examples.tiny_model.packing import pack
from examples.tiny_model.run import means, write_model
from examples.tiny_model.soft import soft_embeddings
from latentmas_ray.models.presets import untrained_model

RECIPE = TrainingSettings(num_steps=6, num_rows=2, num_tokens=256)


def make_trainer(name: str = "tiny") -> Trainer:
    design = DESIGNS[name]
    tokenizer = design.train_tokenizer()
    torch.manual_seed(1)
    mix = Mix(recall=0.5, chain=0.0, num_facts=(1, 2))
    model = design.first_model(tokenizer)
    return Trainer(model, tokenizer, RECIPE, lambda step: mix, marks=design.marks, compiled=False)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("design", list(DESIGNS))
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, design: str) -> None:
    whole, stopped = make_trainer(design), make_trainer(design)
    losses = [whole.step()["loss"] for _ in range(6)]
    for _ in range(3):
        stopped.step()
    stopped.save(tmp_path / "state.pt")
    again = make_trainer(design)
    again.load(tmp_path / "state.pt")
    assert again.progress.step == 3
    assert [again.step()["loss"] for _ in range(3)] == pytest.approx(losses[3:], rel=1e-3)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(again)[name], value, rtol=0.02, atol=0.02)
    assert losses[-1] < losses[0]


def test_the_rate_falls_begins_again_once_and_falls_to_the_end() -> None:
    trainer = make_trainer()
    trainer.settings = TrainingSettings(num_steps=930)
    rates = [trainer._rate(step) for step in range(930)]
    assert rates[30] == rates[400] == 1.0
    assert rates[729] < 0.03
    assert 0.4 < rates[730] < 0.5
    assert rates[929] < 0.03
    assert sum(after > before for before, after in pairwise(rates[30:])) == 1


def test_the_written_model_is_bfloat16_and_small(tmp_path: Path) -> None:
    write_model(make_trainer(), DESIGNS["tiny"], tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (tmp_path / "model.safetensors").is_file()
    assert size <= 12_000_000


def test_means_are_over_the_steps_that_have_the_figure() -> None:
    assert means([{"loss": 1.0, "chain": 0.5}, {"loss": 2.0}]) == {"loss": 1.5, "chain": 0.5}


def test_the_first_weights_look_back_for_a_token() -> None:
    torch.manual_seed(1)
    model = untrained_model(800)
    set_first_weights(model)
    model.set_attn_implementation("eager")
    words = torch.randperm(700)[:40] + 10
    with torch.no_grad():
        by_place, by_content = model(torch.cat([words, words])[None], output_attentions=True).attentions[:2]
    for head in range(4):
        assert by_place[0, head, 30].argmax() == 30 - (head + 1)
    # The token at 50 stood at 10 before; what came after it is at 11.
    assert by_content[0, 0, 50].argmax() == 11


def test_soft_tokens_have_the_usual_norm_and_no_word() -> None:
    trainer = make_trainer()
    rows = pack(TranscriptWriter(trainer.tokenizer, Random(1)), Mix(recall=0.0, drill=0.0, chain=0.0, soft=1.0), 2, 384)
    is_soft = rows.soft_BT.bool()
    assert is_soft.any()
    assert not is_soft[rows.targets_BT >= 0].any()
    matrix = trainer.model.model.embed_tokens.weight.float()
    embedded = trainer._embed(rows).float()
    torch.testing.assert_close(embedded[~is_soft], matrix[rows.ids_BT[~is_soft]])
    norms = embedded[is_soft].norm(dim=-1)
    torch.testing.assert_close(norms, matrix.norm(dim=-1).mean().expand_as(norms), rtol=0.02, atol=0.0)
    assert (embedded[is_soft] - matrix[rows.ids_BT[is_soft]]).norm(dim=-1).min() > 0.01


def test_soft_tokens_of_one_run_are_alike_and_have_nothing_that_all_words_have_in_common() -> None:
    words_VE = torch.randn(200, 64) + 0.5
    ids = torch.arange(10, 170)
    soft = [soft_embeddings(words_VE, ids, ids // 20, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    torch.testing.assert_close(soft[0], soft[1])
    assert not torch.allclose(soft[0], soft[2], atol=0.1)
    units = soft[0] / soft[0].norm(dim=-1, keepdim=True)
    alike = units @ units.T
    same_run = (ids[:, None] // 20) == (ids[None] // 20)
    assert alike[same_run].mean() > alike[~same_run].mean() + 0.2
    common = torch.nn.functional.normalize(words_VE.mean(0), dim=0)
    assert (units @ common).abs().median() < 0.15
    assert (words_VE / words_VE.norm(dim=-1, keepdim=True) @ common).median() > 0.3


def test_without_soft_tokens_nothing_is_made() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert soft_embeddings(torch.randn(20, 8), none, none, torch.Generator()).shape == (0, 8)


def test_new_names_differ_from_the_old_ones_by_their_random_part_only() -> None:
    trainer = make_trainer()
    before = weights(trainer)["model.embed_tokens.weight"].float()
    trainer._rename(torch.Generator().manual_seed(1))
    after = weights(trainer)["model.embed_tokens.weight"].float()
    is_name = torch.zeros(len(before), dtype=torch.bool)
    is_name[trainer._names] = True
    assert torch.equal(after[~is_name], before[~is_name])
    assert (after - before)[is_name].norm(dim=-1).min() > 5
    trainer.step()
    learned = trainer._masters["lm_head.weight"][trainer._names] - trainer._first["lm_head.weight"]
    torch.testing.assert_close(learned, learned[:1].expand_as(learned), rtol=1e-3, atol=1e-6)
