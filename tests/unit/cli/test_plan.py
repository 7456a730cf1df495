"""`latentmas plan`: what it prints, at which width, and what it refuses."""

import json
import re
from pathlib import Path

import pytest

from latentmas_ray.bench import device
from latentmas_ray.cli.commands import plan as plan_module
from latentmas_ray.cli.main import main
from latentmas_ray.placement import NodeResources
from latentmas_ray.placement.prediction.hardware import hardware_named_or_in
from latentmas_ray.system import engines

REFERENCE = ["plan", "--model", "qwen3-14b", "--gpus-per-node", "8", "--gpu-memory", "80GB"]


def printed(args: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    assert main(args) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("num_nodes", [1, 4, 16])
@pytest.mark.parametrize(
    ("topology", "placement"), [("sequential", "auto"), ("hierarchical", "auto"), ("hierarchical", "spread")]
)
def test_the_reference_machines_fit_the_screen(
    topology: str,
    placement: str,
    num_nodes: int,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    flags = ["--nodes", str(num_nodes), "--topology", topology, "--placement", placement]
    out = printed([*REFERENCE, *flags, "--replicas", "2", "--tp", "1"], capfd)
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out
    assert "14,768,307,200 parameters" in out
    assert "163,840 B = 2 × 40 layers × 8 KV heads × 128 × 2 B" in out
    assert "1,317,273,600" in out  # 8 questions of 1,000 tokens and 5 thoughts


def test_every_gpu_is_in_the_picture(capfd: pytest.CaptureFixture[str]) -> None:
    out = printed([*REFERENCE, "--nodes", "4"], capfd)
    assert "node 0     [ 0:planner | 1:critic | 2:refiner | 3:judger | 4–7:free ]" in out
    assert re.search(r"node 1–3\s+free", out)


def test_json_has_all_that_the_tables_are_made_of(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--nodes", "2", "--replicas", "planner=2,judger=3", "--tp", "2", "--network", "200Gbit/s", "--json"]
    told = json.loads(printed([*REFERENCE, *flags], capfd))
    assert told["replicas"] == {"planner": 2, "critic": 1, "refiner": 1, "judger": 3}
    assert len(told["shards"]) == 2 * 7
    assert {shard["rank"] for shard in told["shards"]} == {0, 1}
    assert told["speeds"]["network"] == 25e9
    moved = told["hand_overs"][0]
    assert moved["num_bytes"] == moved["tokens"] * told["bytes_per_token"] * told["workload"]["batch_size"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--gpu-memory", "20GB"], ["--gpu-memory: got '20 GB'", "more than it has", "--tp 4"]),
        (["--replicas", "planner=2,nobody=1"], ["--replicas", "no agent 'nobody'", "planner, critic, refiner, judger"]),
        (["--replicas", "planner=0"], ["--replicas", "planner=2,judger=6"]),
        (["--tp", "16"], ["--tp: got '16'", "no node has more than 8"]),
        (["--tp", "0"], ["--tp: got '0'"]),
        (["--nodes", "none"], ["--nodes: got 'none'"]),
        (["--gpu-memory", "lots"], ["--gpu-memory: got 'lots'"]),
        (["--network", "fast"], ["--network: got 'fast'", "300GB/s"]),
        (["--nvlink", "300"], ["--nvlink: got '300'", "a speed needs its unit: 300GB/s or 300Gbit/s", "or none"]),
        (["--network", "100"], ["--network: got '100'", "a speed needs its unit: 100GB/s or 100Gbit/s"]),
        (["--pcie", "25GB"], ["--pcie: got '25GB'", "300GB/s"]),
        (["--gpu-memory", "80"], ["--gpu-memory: got '80'", "a size needs its unit: 80GB or 80GiB"]),
        (["--gpu-memory", "85899345920"], ["--gpu-memory: got '85899345920'", "85899345920B"]),
        (["--gpu-memory", "0GB"], ["--gpu-memory: got '0GB'"]),
        (["--model", "gpt-5"], ["--model: got 'gpt-5'", "qwen3-32b", "qwen2.5-72b", "llama-3.3-70b"]),
        (["--model", "/nowhere/llama-9"], ["--model: got '/nowhere/llama-9'", "a plan needs no files for qwen3-0.6b"]),
        (["--prompt-tokens", "x"], ["--prompt-tokens: got 'x'"]),
        (["--placement", "nearby"], ["--placement", "'colocate'"]),
        (["--address", "127.0.0.1:1"], ["--address", "give only gpu_memory"]),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    flags: list[str], named: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*REFERENCE, *flags]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for words in named:
        assert words in err


AUTO = [*REFERENCE, "--replicas", "auto", "--hardware", "h100"]


@pytest.mark.parametrize("columns", [80, 120])
def test_auto_fills_the_cluster_and_prints_the_best_three(
    columns: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = printed([*AUTO, "--nodes", "2"], capfd)
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out
    assert "7:all/7 ]" in out
    assert "of 16 GPUs busy; the bound: judger (decode, memory bandwidth) on 16 GPUs" in " ".join(out.split())
    assert "layouts: the best 3 of" in out
    assert "16× all in one actor" in " ".join(out.split())


def test_compare_prints_all_layouts(capfd: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed([*AUTO, "--json"], capfd))
    out = printed([*AUTO, "--compare"], capfd)
    assert f"all {len(told['predicted'])} layouts" in out
    rates = [one["questions_per_second"] for one in told["predicted"]]
    assert len(rates) > 3
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[0] >= 0.99 * max(rates)
    assert told["hardware"]["name"] == "h100"
    assert told["replicas"] == told["predicted"][0]["replicas"]
    assert told["run"] == "--placement colocate --replicas 8"
    assert f"questions/s with {told['run']}" in out


def test_hardware_gives_its_memory_its_links_and_a_prediction(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "--model", "qwen3-14b", "--gpus-per-node", "4", "--hardware", "H200", "--pcie", "30GB/s"]
    out = printed([*flags, "--nvlink", "none", "--text-tokens", "100"], capfd)
    assert "4 GPUs of 141 GB" in out
    assert "PCIe 30 GB/s" in out
    assert "whose texts have 100 tokens, on h200: 70 % of 4,800 GB/s" in " ".join(out.split())
    assert "layouts" not in out


def test_the_nodes_of_a_cluster_without_gpus_are_filled(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "--gpus-per-node", "0", "--cpus-per-node", "8", "--nodes", "3", "--replicas", "auto"]
    out = printed(flags, capfd)
    assert "of 3 nodes busy" in " ".join(out.split())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--hardware", "h300"], ["--hardware: got 'h300'", "a100-40gb, a100-80gb, h100, h200, l40s, cpu"]),
        (["--hardware", "cpu"], ["--hardware: got 'cpu'", "the nodes have GPUs"]),
        (["--hardware", "h200", "--gpus-per-node", "0"], ["--hardware: got 'h200'", "add --gpus-per-node"]),
        (["--replicas", "auto", "--placement", "spread"], ["--placement: got 'spread'", "auto, pack or colocate"]),
        (["--replicas", "auto", "--text-tokens", "0"], ["--text-tokens: got '0'"]),
        (["--replicas", "auto", "--gpu-memory", "6GB"], ["--gpu-memory: got '6 GB'", "more than it has"]),
    ],
)
def test_a_search_that_cannot_be_had_is_one_line_and_exit_code_2(
    flags: list[str], named: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    test_what_is_wrong_is_one_line_and_exit_code_2(flags, named, capfd)


def test_many_questions_per_second_are_whole_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--nodes", "8", "--text-tokens", "10", "--model", "qwen3-0.6b"]
    out = printed([*AUTO, *flags], capfd)
    assert re.search(r" [\d,]{3,} questions/s", out)
    assert "e+" not in out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--replicas", "judger=auto"], "--replicas: got 'judger=auto'; auto chooses the replicas of all agents"),
        (["--replicas", "auto", "--placement", "spread"], "--placement: got 'spread'; with replicas auto it must be"),
        (["--replicas", "auto", "--hardware", "h300"], "--hardware: got 'h300'; its figures are not known"),
        (["--replicas", "planner+judger=1", "--placement", "colocate"], "which placement colocate excludes"),
    ],
)
def test_a_run_refuses_a_layout_that_cannot_be_had(
    flags: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--limit", "1", *flags]) == 2
    err = capfd.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_a_layout_by_hand_is_planned_and_predicted(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--hardware", "h100", "--replicas", "planner+critic+refiner=1,judger=3", "--gpus-per-node", "4"]
    told = json.loads(printed([*REFERENCE, *flags, "--model", "qwen3-4b", "--json"], capfd))
    places = {shard["agents"][0]: (shard["node"], shard["gpu"]) for shard in told["shards"]}
    assert places["planner"] == places["critic"] == places["refiner"] != places["judger"]
    assert told["replicas"] == {"planner": 1, "critic": 1, "refiner": 1, "judger": 3}
    assert len(told["predicted"]) == 1


def test_texts_of_a_task_have_their_published_length(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--hardware", "h100", "--task", "gsm8k"]
    assert "whose texts have 586 tokens" in " ".join(printed([*REFERENCE, *flags], capfd).split())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--task", "gsm9k"], "--task: got 'gsm9k'; unknown task; known are "),
        (["--task", "no_such.jsonl"], "--task: got 'no_such.jsonl'; there is no such file"),
        (["--text-tokens", "300"], "--text-tokens: got '300'; a text may have 256; give more with max_new_tokens"),
        (["--text-tokens", "9", "--max-new-tokens", "8"], "--text-tokens: got '9'; a text may have 8"),
        (["--tp", "auto"], "--tp: got 'auto'; it must be a whole number from 1 to 1024\n"),
    ],
)
def test_tasks_and_lengths_that_no_run_has_are_refused(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*REFERENCE, "--hardware", "h100", *flags]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert told in shown.err


@pytest.mark.parametrize("task", [[], ["--task", "notes"], ["--task", "gsm8k"]])
def test_the_planned_agents_are_those_that_a_run_of_the_task_has(
    task: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(printed([*REFERENCE, "--topology", "hierarchical", *task, "--json"], capfd))
    last = "answerer" if "notes" in task else "summariser"
    assert {shard["agents"][-1] for shard in told["shards"]} > {last}


def test_sums_say_which_of_them_have_another_models_sizes(capfd: pytest.CaptureFixture[str]) -> None:
    team = ["plan", "--model", "tiny", "--models", "answerer=small", "--task", "notes", "--topology", "hierarchical"]
    text = " ".join(printed([*team, "--gpus-per-node", "2"], capfd).split())
    assert "weights and KV of answerer: the same with the sizes of its model" in text
    assert "between different models bytes are those of the recompute inputs" in text
    assert "the sizes of its model" not in printed(REFERENCE, capfd)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--measure", "--hardware", "h100"], "--hardware: got 'h100'; with --measure it is what is measured here"),
        (["--save", "here.json"], "--save: got 'here.json'; it is for what --measure finds: give both, or none"),
        (["--measure", "--save", "here.txt"], "--save: got 'here.txt'; it must be a file that ends in .json"),
        (["--measure", "--save", "/no/where.json"], "--save: got '/no/where.json'; its folder must exist: /no"),
    ],
)
def test_measurements_that_contradict(flags: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*REFERENCE, *flags]) == 2
    assert told in capfd.readouterr().err


def test_measured_figures_are_shown_saved_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With smaller buffers, as the figures themselves do not matter here."""
    monkeypatch.setattr(device, "_LARGE", 2**20)
    monkeypatch.setattr(device, "_SIDE", {"cpu": 64, "cuda": 64})
    file = tmp_path / "mine.json"
    here = ["plan", "--model", "qwen3-0.6b", "--gpus-per-node", "0", "--text-tokens", "10"]
    out = " ".join(printed([*here, "--measure", "--save", str(file)], capfd).split())
    assert "matrix products, bfloat16" in out
    assert "link shared_memory" in out
    assert "100 % of " in out
    found = hardware_named_or_in(str(file))
    assert found.is_measured
    assert found.name in " ".join(printed([*here, "--hardware", str(file)], capfd).split())


def test_a_measurement_that_shared_memory_has_no_room_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A write there would end the process with a bus error."""
    monkeypatch.setattr(device, "_LARGE", 2**60)
    assert main([*REFERENCE, "--measure"]) == 1
    assert re.search(r"error: /dev/shm has .* free, and the hand-over .* needs .*--shm-size", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (["--compare"], "--compare does nothing without --replicas auto: there is one plan"),
        (["--text-tokens", "9"], "--text-tokens 9 does nothing without --replicas auto or --hardware"),
    ],
)
def test_flags_of_a_search_without_one(flags: list[str], note: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*REFERENCE, *flags]) == 0
    assert note in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("flags", [[], ["--nodes", "2"]])
def test_a_plan_refuses_what_a_run_refuses(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--engine", "vllm", "--placement", "colocate", *flags]) == 2
    expected = "error: --engine: got 'vllm'; with placement colocate it must be transformers: vLLM needs an actor of"
    assert capfd.readouterr().err == f"{expected} its own\n"


def test_a_plan_needs_vllm_only_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in (engines, plan_module):
        monkeypatch.setattr(module, "obstacle", lambda: "vLLM is not installed")
    assert main(["plan", "--engine", "vllm"]) == 2
    assert "error: --engine: got 'vllm'; vLLM is not installed: pip install" in capfd.readouterr().err
    assert main([*REFERENCE, "--engine", "vllm", "--decode-batch", "8"]) == 0
    out, err = capfd.readouterr()
    assert "vllm for judger (asked for)" in " ".join(out.split())
    assert err == "note: vLLM is not installed here: the plan is for nodes that have it\n"


def test_a_plan_counts_what_actors_with_vllm_load_on_the_host(capfd: pytest.CaptureFixture[str]) -> None:
    """Of each rank of both replicas, the whole model; the latent agents load theirs on their GPU."""
    flags = ["--nodes", "2", "--tp", "2", "--replicas", "judger=2", "--engine", "vllm", "--decode-batch", "8"]
    assert main([*REFERENCE, *flags, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    ranks = [shard["node"] for shard in told["shards"] if shard["agents"] == ["judger"]]
    assert len(ranks) == 4
    assert told["loading_bytes"] == [2 * told["num_parameters"] * ranks.count(node) for node in range(2)]
    assert main([*REFERENCE, *flags]) == 0
    assert "since each actor with vLLM first loads the whole model once on the CPU" in " ".join(
        capfd.readouterr().out.split()
    )
    assert main([*REFERENCE, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["loading_bytes"] == [0]


def test_a_plan_for_a_cluster_searches_with_the_figures_of_a_run_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those of the GPUs that Ray names, their sizes and their links."""
    node = NodeResources(name="a", num_gpus=4, num_cpus=32, gpu_name="H200")
    monkeypatch.setattr(plan_module, "nodes_at", lambda *_: (node, node))
    flags = ["--model", "qwen3-4b", "--address", "127.0.0.1:1", "--replicas", "auto", "--json"]
    told = json.loads(printed(["plan", *flags], capfd))
    assert told["hardware"]["name"] == "h200"
    assert {one["gpu_bytes"] for one in told["nodes"]} == {141_000_000_000}
    assert (told["speeds"]["nvlink"], told["speeds"]["network"]) == (450e9, 400e9)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--latent-steps", "auto"], "a question that stops thinking earlier needs less time"),
        (["--latent-steps", "max:80"], "a question that stops thinking earlier needs less time"),
        (["--thoughts", "soft"], "each latent step has a projection to the vocabulary, too"),
        (["--thoughts", "blend:weight=0.2"], "each latent step has a projection to the vocabulary, too"),
    ],
)
def test_what_is_counted_of_thoughts_is_said(flags: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    described = ["--model", "qwen3-8b", "--nodes", "1", "--gpus-per-node", "4", "--hardware", "h100"]
    assert said in " ".join(printed(["plan", *described, *flags], capfd).split())
    assert said not in " ".join(printed(["plan", *described], capfd).split())


def test_thoughts_that_are_mixed_from_words_take_longer(capfd: pytest.CaptureFixture[str]) -> None:
    described = ["--model", "qwen3-0.6b", "--nodes", "1", "--gpus-per-node", "1", "--hardware", "h100", "--json"]
    usual, soft = (
        json.loads(printed(["plan", *described, "--thoughts", rule], capfd))["predicted"][0]["questions_per_second"]
        for rule in ("realign", "soft")
    )
    assert soft < usual
