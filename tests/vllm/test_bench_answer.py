"""`latentmas bench answer` with vLLM, in processes of their own: the texts of both engines are the same."""

import json

import pytest

from latentmas_ray.cli.main import main


@pytest.mark.slow  # two processes with a model; without vLLM: tests/numerics/test_bench_answer.py
def test_vllm_writes_the_texts_of_our_own_engine(capsys: pytest.CaptureFixture[str]) -> None:
    which = "--engines static,vllm --methods none --questions 4 --batch-size 2 --repeats 1 --threads 1"
    sizes = "--prompt-tokens 9 --min-new-tokens 2 --max-new-tokens 6 --dtype float32"
    assert main(["bench", "answer", *which.split(), *sizes.split(), "--json"]) == 0
    static, vllm = json.loads(capsys.readouterr().out)["engines"]
    assert (static["engine"], vllm["engine"], vllm["same_texts"]) == ("static", "vllm", 1.0)
    assert vllm["first_token"]["p50_seconds"] < vllm["whole_text"]["p50_seconds"]
    assert vllm["peak_bytes"] > vllm["extra_bytes"] >= 0
