"""Published settings as a start for a run or a plan."""

import json

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError
from latentmas_ray.report.published import find_cell, published_source
from latentmas_ray.system.settings import find_preset, load_presets
from latentmas_ray.tasks import find_benchmark

PRESETS = {preset.name: preset for preset in load_presets()}


@pytest.mark.parametrize("name", PRESETS)
def test_each_is_a_published_result_of_a_task_that_there_is(name: str) -> None:
    preset = PRESETS[name]
    benchmark = find_benchmark(preset.fields["task"])
    assert benchmark is not None
    assert preset.fields["max_new_tokens"] == benchmark.max_new_tokens
    for topology in preset.topologies:
        assert find_cell(RunConfig(**{**preset.fields, "topology": topology})) is not None
    assert preset.source.rpartition(", ")[2] in published_source()
    assert preset.unknown
    assert find_preset(name.upper().replace("-", "_")) is preset


def test_all_published_results_have_one() -> None:
    assert len(PRESETS) == 6 * 3 + 3 * 2


def test_they_are_listed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["presets"]) == 0
    out = capfd.readouterr().out
    assert [name for name in PRESETS if name not in out] == []
    assert "arXiv 2511.20639" in out
    assert main(["presets", "gsm8k-qwen3-8b"]) == 0
    out = capfd.readouterr().out
    assert "93.8%" in out
    assert "40 is taken" in out
    assert main(["presets", "--json"]) == 0
    assert {row["name"] for row in json.loads(capfd.readouterr().out)} == set(PRESETS)
    assert main(["presets", "gsm8k-qwen3-8b", "--json"]) == 0
    row = json.loads(capfd.readouterr().out)
    assert row["settings"]["model"] == "Qwen/Qwen3-8B"
    assert row["published"]["sequential"]["accuracy"] == pytest.approx(0.938)
    assert row["unknown"]


def test_a_plan_starts_from_one_and_flags_override_it(capfd: pytest.CaptureFixture[str]) -> None:
    cluster = ["--nodes", "1", "--gpus-per-node", "8", "--hardware", "a100-80gb", "--json"]
    assert main(["plan", "--preset", "medqa-qwen3-14b", "--latent-steps", "20", *cluster]) == 0
    out, err = capfd.readouterr()
    made = json.loads(out)
    assert made["model"] == "Qwen/Qwen3-14B"
    assert made["workload"]["latent_steps"] == 20
    assert made["workload"]["max_new_tokens"] == 4096
    assert "note: other than in preset medqa-qwen3-14b: --latent-steps 20 (not 40)" in err
    # The task's typical texts count as if it were named.
    own = ["--model", "Qwen/Qwen3-14B", "--max-new-tokens", "4096", "--latent-steps", "40"]
    assert main(["plan", "--task", "medqa", *own, *cluster]) == 0
    named = json.loads(capfd.readouterr().out)
    assert main(["plan", "--preset", "medqa-qwen3-14b", *cluster]) == 0
    assert json.loads(capfd.readouterr().out)["predicted"] == named["predicted"]


def test_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    system = LatentMAS.from_preset("gsm8k-qwen3-4b", model="tiny", latent_steps=3, topology="hierarchical")
    config = system.config
    assert (config.task, config.temperature, config.top_p, config.max_new_tokens) == ("gsm8k", 0.6, 0.95, 2048)
    assert (config.model, config.latent_steps, config.topology) == ("tiny", 3, "hierarchical")


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--preset", "gsm8k-qwen3-9b"], ["--preset", "'gsm8k-qwen3-9b'", "did you mean gsm8k-qwen3-", "presets"]),
        (["--preset", "gsm8k-qwen3-8b", "--config", "x.yaml"], ["--preset", "--config", "give one of the two"]),
        (["--preset", "gsm8k-qwen3-8b", "--latent-steps", "x"], ["--latent-steps", "'x'"]),
    ],
)
def test_a_mistake_is_told_in_one_line(args: list[str], names: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *args]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert [name for name in names if name not in err] == [], err


def test_an_unknown_name_is_refused_in_python() -> None:
    with pytest.raises(ConfigError, match="preset"):
        LatentMAS.from_preset("mine")
