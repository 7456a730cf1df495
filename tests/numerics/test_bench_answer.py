"""`latentmas bench answer` on the embedded model, as small as it gets: that it measures, not what."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.bench.answer import methods
from latentmas_ray.cli.main import main
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.models import load_model
from latentmas_ray.runs.results import Summary
from latentmas_ray.system.setup import Setup
from latentmas_ray.tasks.question import Question

SMALL = ["--dtype", "float32", "--prompt-tokens", "9", "--min-new-tokens", "1", "--max-new-tokens", "6", "--json"]
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def test_engines_of_our_own_write_the_same_texts(capsys: pytest.CaptureFixture[str]) -> None:
    """With vLLM: tests/vllm/test_bench_answer.py."""
    flags = ["--engines", "static,continuous", "--methods", "none", "--questions", "5", "--batch-size", "2"]
    assert main(["bench", "answer", *SMALL, *flags, "--repeats", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    static, continuous = told["engines"]
    assert (static["engine"], continuous["engine"]) == ("static", "continuous")
    assert static["first_token"] == static["whole_text"]  # nothing of a batch can be read before its end
    assert continuous["first_token"]["p99_seconds"] <= continuous["whole_text"]["p99_seconds"]
    for side in told["engines"]:
        assert side["same_texts"] == 1.0
        assert side["tokens_per_second"] > 0
        assert side["cpu_seconds"] > 0
        assert side["peak_bytes"] > side["extra_bytes"] >= 0
    assert told["methods"] == []


def test_methods_are_measured_at_each_concurrency(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On the same models no measured question was asked before; rows that are on disk are not measured again."""
    run, asked = methods._run, dict[Setup, list[list[str]]]()

    def run_and_note(setup: Setup, changes: Mapping[str, Any], questions: Sequence[Question]) -> Summary:
        asked.setdefault(setup, []).append([one.id for one in questions])
        return run(setup, changes, questions)

    monkeypatch.setattr(methods, "_run", run_and_note)
    flags = ["--engines", "none", "--methods", "single,latent", "--tasks", "chain", "--runtime", "local"]
    flags += ["--limit", "2", "--concurrency", "1,2", "--latent-steps", "2", "--output", str(tmp_path), "--json"]
    assert main(["bench", "answer", *flags]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert len(asked) == 2  # the models of each method are loaded once
    for one, two, three, four in asked.values():
        assert (len(one), len(two), len(three), len(four)) == (1, 2, 2, 2)
        assert not {*two} & {*one, *three, *four}
        assert not {*four} & {*one, *two, *three}
    assert "latent, chain, 2 at a time: 2 questions" in err
    assert "(row 4 of 4)" in err
    assert main(["bench", "answer", *flags]) == 0
    again, err = capsys.readouterr()
    assert json.loads(again) == told
    assert "methods: 4 of 4 rows were measured before" in err
    assert [len(rows) for rows in asked.values()] == [4, 4]
    assert [(one["concurrency"], one["method"]) for one in told["methods"]] == [
        (1, "single"),
        (1, "latent"),
        (2, "single"),
        (2, "latent"),
    ]
    for one in told["methods"]:
        assert (one["task"], one["engine"], one["num_questions"], one["num_failed"]) == ("chain", "transformers", 2, 0)
        assert one["seconds_per_question"] == pytest.approx(1 / one["questions_per_second"], rel=0.05)
        assert (one["latent_steps"] > 0) == (one["parts"]["thinking"] > 0) == (one["method"] == "latent")
        assert one["parts"]["decode"] > 0
        assert 0 < one["delay"]["p50_seconds"] <= one["delay"]["p99_seconds"] <= one["seconds"]
    assert told["engines"] == []


def test_a_text_ends_at_its_own_bound(tmp_path: Path) -> None:
    engine = Engine(load_model("tiny", dtype="float32"), thoughts="identity", cache_dir=tmp_path)
    engine.lm.chat.stop_ids = frozenset()

    def decode(*bounds: int) -> tuple[list[list[int]], list[str]]:
        session = engine.open(["a", "b", "c"], num_slots=20)
        session.prefill(PROMPTS)
        return session.decode(Sampling(max_new_tokens=7), "judger", bounds=bounds), list(session.cut_off)

    whole, _ = decode()
    outputs, cut_off = decode(1, 7, 4)
    assert outputs == [whole[0][:1], whole[1], whole[2][:4]]
    assert cut_off == ["max_new_tokens"] * 3
