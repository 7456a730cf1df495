"""What the benchmarks of thoughts say follows from their formulas, and a cell that is there is not run again."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.thoughts.cells import ThoughtBenchSettings, ThoughtCell, plan_cells, run_cells
from benchmarks.thoughts.command import RULES, split_rules
from benchmarks.thoughts.document import prepare_document, write_table
from latentmas_ray.bench.thoughts.figures import coverage, find_convergence
from latentmas_ray.bench.thoughts.measure import FIGURES_NAME, measure
from latentmas_ray.bench.thoughts.pictures import CONVERGENCE_NAME, PLACES_NAME, main_plane
from latentmas_ray.bench.thoughts.sample import collect_chains
from latentmas_ray.config import make_config
from latentmas_ray.config.thoughts import THOUGHT_RULES
from latentmas_ray.engine.diagnostics.replay import ThoughtChain
from latentmas_ray.engine.engine import Engine
from latentmas_ray.errors import ConfigError
from latentmas_ray.models import load_model
from latentmas_ray.tasks import load_questions

FIELDS = {"model": "tiny", "task": "notes", "topology": "hierarchical", "runtime": "local", "temperature": 0.0}


def bench(folder: Path, **changes: object) -> ThoughtBenchSettings:
    values: dict[str, object] = {
        "model": "tiny",
        "task": "notes",
        "topology": "hierarchical",
        "rules": ("realign", "soft:top_k=3"),
        "steps": (0, 2),
        "controls": ("matched", "deranged", "none"),
        "limit": 4,
        "batch_size": 4,
        "max_new_tokens": 8,
        "dtype": "auto",
        "output": folder,
        **changes,
    }
    return ThoughtBenchSettings(**values)  # type: ignore[arg-type]


def test_coverage_is_the_share_of_tokens_with_a_thought_near_by() -> None:
    tokens_WE = torch.arange(8.0)[:, None]  # on a line, one apart
    assert coverage(tokens_WE, torch.tensor([[-0.5]]), k=1) == 1 / 8
    assert coverage(tokens_WE, torch.tensor([[3.5]]), k=1) == 2 / 8
    assert coverage(tokens_WE, torch.tensor([[3.5], [100.0]]), k=2) == 2 / 8
    assert coverage(tokens_WE, tokens_WE + 0.1) == 1.0
    assert coverage(tokens_WE[:5], tokens_WE) is None


def test_convergence_is_the_cosine_to_the_thought_before() -> None:
    fed_NE = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    chains = [ThoughtChain("a", fed_NE, fed_NE, fed_NE), ThoughtChain("b", fed_NE[:2], fed_NE[:2], fed_NE[:2])]
    first, second = find_convergence(chains)
    assert first == pytest.approx((0.5**0.5,) * 3)
    assert second == pytest.approx((1.0,) * 3)
    assert find_convergence([ThoughtChain("a", fed_NE[:1], fed_NE[:1], fed_NE[:1])]) == ()


def test_the_main_plane_is_that_of_the_singular_vectors() -> None:
    vectors_NE = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    mean_E, axes_E2 = main_plane(vectors_NE)
    main_2E = torch.linalg.svd(vectors_NE - mean_E, full_matrices=False).Vh[:2]
    torch.testing.assert_close((main_2E @ axes_E2).abs(), torch.eye(2), atol=1e-4, rtol=0)


def test_hidden_states_that_are_fed_again_give_the_thoughts_that_were_fed(tmp_path: Path) -> None:
    lm = load_model("tiny", dtype="float32")
    config = make_config({**FIELDS, "latent_steps": 3, "thoughts": "soft"})
    chains = collect_chains(config, lm, load_questions("notes", 2))
    assert [chain.agent for chain in chains] == ["expert_1", "expert_2", "expert_3"] * 2
    rule = Engine(lm, thoughts="soft", cache_dir=tmp_path).rule
    for chain in chains:
        assert chain.fed_NE.shape == (3, lm.spec.hidden_size)
        torch.testing.assert_close(rule.rescaled(chain.mapped_NE), chain.fed_NE, atol=1e-3, rtol=0)


def test_figures_and_pictures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fields = {**FIELDS, "latent_steps": 3, "limit": 2, "max_new_tokens": 8, "output": str(tmp_path / "out")}
    figures = measure(make_config(fields), lambda line: None)
    places = {one.kind: one for one in figures.places}
    assert figures.num_thoughts == 2 * 3 * 3
    assert places["as fed"].norm == pytest.approx(1, abs=0.01)
    assert places["noise"].norm == pytest.approx(1, abs=1e-4)
    assert places["after the rule"].norm > 2
    assert len(figures.convergence) == 2
    assert json.loads((tmp_path / "out" / FIGURES_NAME).read_text()) == json.loads(json.dumps(figures.to_json()))
    for name in (PLACES_NAME, CONVERGENCE_NAME):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_cells_that_cannot_differ_are_run_once(tmp_path: Path) -> None:
    rules, none = ("realign", "soft:top_k=3"), [ThoughtCell("realign", "none", 0)]
    with_memory = [
        [ThoughtCell("realign", memory, 0), *(ThoughtCell(rule, memory, 2) for rule in rules)]
        for memory in ("matched", "deranged")
    ]
    assert list(plan_cells(bench(tmp_path))) == [*with_memory[0], *with_memory[1], *none]


def test_rules_are_split_at_commas_and_spaces() -> None:
    rules = "realign,soft:temperature=0.7,top_k=50 noise, blend:weight=0.2"
    assert split_rules(rules) == ("realign", "soft:temperature=0.7,top_k=50", "noise", "blend:weight=0.2")
    assert split_rules(RULES) == THOUGHT_RULES


@pytest.mark.parametrize(
    ("changes", "field"), [({"rules": ("telepathy",)}, "thoughts"), ({"controls": ("deranged",)}, "controls")]
)
def test_settings_that_cannot_be_run_are_refused(changes: dict[str, object], field: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        bench(tmp_path, **changes)
    assert caught.value.field == field


def test_a_table_is_written_and_complete_cells_are_not_run_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = tmp_path / "thoughts.md"
    document.write_text("# Thoughts\n")
    settings, said = bench(tmp_path / "cells"), []
    prepare_document(settings, document)
    run_cells(settings, said.append)
    assert len(said) == 7
    rows = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").rglob("results.jsonl")}
    assert len(rows) == 7
    run_cells(settings, said.append)
    assert {path: path.stat().st_mtime_ns for path in rows} == rows
    for _ in range(2):  # the part is replaced
        write_table(settings, document, "python -m benchmarks thoughts")
    text = document.read_text()
    assert text.startswith("# Thoughts\n")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines]
    assert names == ["rule", "---", "no thoughts", "realign", "soft:top_k=3"]
    assert "| matched | deranged | none | P | G |" in lines[0]
    assert (tmp_path / "thoughts_tiny_notes_hierarchical.png").read_bytes().startswith(b"\x89PNG")
