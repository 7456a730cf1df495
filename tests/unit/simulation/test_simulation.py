"""Simulated runs: virtual time that is known by hand, the driver's share, and what is refused."""

import cProfile
import json
import pstats
from dataclasses import fields, replace
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.cli.options import flag_of
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import LinkSpeeds, Slot, hardware_named
from latentmas_ray.placement.prediction.hardware import hardware_to_json
from latentmas_ray.placement.prediction.throughput import predict
from latentmas_ray.placement.prediction.turn_costs import Efficiency, StepModel, turn_costs
from latentmas_ray.simulation.cluster import make_cluster, seconds_by_agent
from latentmas_ray.simulation.figures import SimulatedRun
from latentmas_ray.simulation.links import FetchedSegment, ModelledLinks
from latentmas_ray.simulation.run import simulate, simulate_run
from latentmas_ray.simulation.settings import SimulationSettings
from latentmas_ray.simulation.topologies import topology_of, wide
from latentmas_ray.topology import Agent, Topology

PAIR = Topology(
    name="pair",
    agents=(
        Agent(name="thinker", prompt="{{ question }}"),
        Agent(name="writer", prompt="{{ question }}", thinks="text", reads=("thinker",)),
    ),
)
# Nothing but the timers takes time.
TIMERS = SimulationSettings(
    nodes=(1,),
    gpus_per_node=2,
    questions=6,
    batch_size=2,
    replicas="1",
    think_seconds=1.0,
    write_seconds=3.0,
    spread=0.0,
    model="tiny",
    nvlink="1000000GB/s",
    network="1000000GB/s",
    latency=0.0,
    driver="free",
)


def run(topology: Topology = PAIR, settings: SimulationSettings = TIMERS, nodes: int = 1) -> SimulatedRun:
    return simulate_run(settings, topology, make_cluster(settings, topology, nodes))


def test_a_chain_takes_the_time_of_its_slowest_agent() -> None:
    """Three batches: the writer starts after 1 s and writes for 9 s."""
    one = run()
    assert one.seconds == pytest.approx(10.0)
    assert (one.turns, one.questions_per_second) == (6, pytest.approx(0.6))
    assert one.use_by_agent == {"thinker": pytest.approx(0.3), "writer": pytest.approx(0.9)}
    assert one.gpu_use == pytest.approx(0.6)


def test_more_replicas_of_the_slow_agent_share_its_work() -> None:
    """On four GPUs the writer gets three, and each writes one batch; the last of them is thought of after 3 s."""
    settings = replace(TIMERS, gpus_per_node=4, replicas="balanced")
    one = run(settings=settings)
    assert one.replicas == {"thinker": 1, "writer": 3}
    assert one.seconds == pytest.approx(6.0)


def test_actors_on_one_gpu_take_turns() -> None:
    one = run(settings=replace(TIMERS, gpus_per_node=1))
    assert one.seconds == pytest.approx(12.0, abs=1e-3)
    assert one.gpu_use == pytest.approx(1.0, abs=1e-3)


def test_colocated_agents_hand_over_nothing() -> None:
    settings = replace(TIMERS, placement="colocate", replicas="2", network="1GB/s", nvlink="1GB/s", latent_steps=10_000)
    one = run(settings=settings)
    assert one.seconds == pytest.approx(8.0)  # two batches on one GPU
    assert set(one.moved_bytes) == {"same_process"}


def test_readers_and_driver_know_of_a_turn_after_the_latency() -> None:
    assert run(settings=replace(TIMERS, latency=0.5, questions=2)).seconds == pytest.approx(1.0 + 0.5 + 3.0 + 0.5)


def test_memory_over_the_network_takes_bytes_over_speed() -> None:
    settings = replace(TIMERS, placement="spread", gpus_per_node=1, questions=2)
    near, far = run(settings=settings, nodes=2), run(settings=replace(settings, network="1MB/s"), nodes=2)
    assert far.network_bytes == near.network_bytes > 0
    assert far.seconds == pytest.approx(4.0 + far.network_bytes / 1e6)
    assert far.network_use == pytest.approx(far.network_bytes / 1e6 / far.seconds)


def test_a_node_s_port_serves_one_transfer_after_another() -> None:
    links = ModelledLinks(LinkSpeeds.parse({"network": "1MB/s", "nvlink": "2MB/s"}))
    here, there, near, third = (Slot(0, 0),), (Slot(1, 0),), (Slot(0, 1),), (Slot(2, 0),)
    sent, back = FetchedSegment(here, 1_000_000), FetchedSegment(there, 1_000_000)
    assert [links.fetch([sent], there, 5.0) for _ in range(2)] == [[6.0], [7.0]]
    assert links.fetch([back], here, 5.0) == [6.0]  # the other direction is free
    assert [links.fetch([sent], near, 5.0) for _ in range(2)] == [[5.5], [5.5]]
    assert links.moved_bytes == {"network": 3_000_000, "nvlink": 2_000_000}
    links.fetch([sent], third, 5.0)
    assert links.busiest_port_bytes == 3_000_000  # sent by the first node, received by two others


def test_a_transfer_that_waits_for_one_port_leaves_the_other_to_others() -> None:
    links = ModelledLinks(LinkSpeeds.parse({"network": "1MB/s"}))
    busy, idle, reader, other = ((Slot(number, 0),) for number in range(4))
    links.fetch([FetchedSegment(busy, 10_000_000)], other, 0.0)
    assert links.fetch([FetchedSegment(busy, 1_000_000), FetchedSegment(idle, 1_000_000)], reader, 0.0) == [11.0, 11.0]
    assert links.fetch([FetchedSegment(idle, 1_000_000)], (Slot(4, 0),), 0.0) == [2.0]


def test_the_ranks_of_a_replica_share_their_node_s_port_and_not_their_own_links() -> None:
    links = ModelledLinks(LinkSpeeds.parse({"network": "1MB/s", "nvlink": "1MB/s"}))
    one, other, far = (Slot(0, 0), Slot(0, 1)), (Slot(0, 2), Slot(0, 3)), (Slot(1, 0), Slot(1, 1))
    assert links.fetch([FetchedSegment(one, 1_000_000)], other, 0.0) == [0.5]
    assert links.fetch([FetchedSegment(one, 1_000_000)], far, 0.0) == [1.0]


def test_auto_has_the_layout_of_a_run_that_chooses_it_itself() -> None:
    """All agents in one actor on each GPU: none waits for another, and no memory crosses the network."""
    one = run(settings=replace(TIMERS, replicas="auto", questions=400, gpus_per_node=4), nodes=2)
    assert (one.placement, one.replicas) == ("colocate", {"thinker": 8, "writer": 8})
    assert one.network_bytes == 0
    assert one.gpu_use > 0.95
    packed = run(settings=replace(TIMERS, replicas="auto", placement="pack", questions=400, gpus_per_node=4), nodes=2)
    assert packed.placement == "pack"
    assert packed.gpu_use > 0.8


def test_a_few_thinkers_of_many_nodes_do_not_share_a_node() -> None:
    """Their memory leaves through the ports of several nodes: with one, this run would take three times as long."""
    settings = replace(
        TIMERS,
        replicas="balanced",
        gpus_per_node=4,
        questions=1600,
        think_seconds=1.0,
        write_seconds=11.0,
        model="qwen3-14b",
        network="2.5GB/s",
        store="10TB",
    )
    one = run(settings=settings, nodes=12)
    assert one.replicas == {"thinker": 4, "writer": 44}
    assert one.gpu_use > 0.8
    assert one.network_use < 0.8


def test_the_same_seed_gives_the_same_run() -> None:
    settings = replace(TIMERS, questions=40, spread=0.5, replicas="balanced", gpus_per_node=8)
    first, again, other = (run(settings=replace(settings, seed=seed)) for seed in (1, 1, 2))
    assert (first.seconds, first.moved_bytes) == (again.seconds, again.moved_bytes)
    assert first.seconds != other.seconds


def test_a_driver_that_is_too_slow_is_the_limit() -> None:
    """Turns of 10 ms on eight GPUs, and 0.1 s of the driver for each."""
    settings = replace(TIMERS, gpus_per_node=8, replicas="4", questions=40, think_seconds=0.01, write_seconds=0.01)
    free = run(settings=replace(settings, runtime_seconds=0.1))
    charged = run(settings=replace(settings, runtime_seconds=0.1, driver="charged"))
    assert free.seconds < 0.2
    assert charged.seconds >= charged.turns * 0.1
    assert charged.driver_share == pytest.approx(1.0, abs=0.1)
    assert charged.capacity <= 10


@pytest.mark.parametrize("name", ["sequential", "hierarchical", "wide"])
@pytest.mark.parametrize("placement", ["auto", "pack", "spread", "colocate"])
def test_every_question_of_every_topology_gets_its_answer(name: str, placement: str) -> None:
    settings = replace(TIMERS, gpus_per_node=8, placement=placement, replicas="balanced", questions=20, spread=0.2)
    topology = topology_of(name)
    one = run(topology, settings, nodes=4)
    assert one.turns == 10 * len(topology.agents)
    assert 0 < one.gpu_use <= 1
    assert all(0 < use <= 1 for use in one.use_by_agent.values())


def test_the_scheduler_s_work_for_a_turn_does_not_grow_with_the_cluster() -> None:
    """Calls of functions, which do not depend on how busy the machine is, at 8 and at 128 GPUs."""
    few, many = (_calls_per_turn(nodes) for nodes in (1, 16))
    assert many < 1.1 * few


def _calls_per_turn(nodes: int) -> float:
    settings = replace(TIMERS, gpus_per_node=8, replicas="balanced", questions=80 * nodes, batch_size=1, spread=0.3)
    topology = topology_of("sequential")
    plan = make_cluster(settings, topology, nodes)
    profile = cProfile.Profile()
    one = profile.runcall(simulate_run, settings, topology, plan)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    calls = sum(found[1] for (file, _, _), found in stats.items() if Path(file).parent.name == "scheduler")
    return calls / one.turns


def test_hardware_has_the_links_the_memory_and_the_turns_of_predictions() -> None:
    """One table of published figures; what is given by hand counts first."""
    settings = SimulationSettings(hardware="h100", network="1GB/s", write_seconds=7.0)
    assert settings.speeds == replace(hardware_named("h100").link_speeds(), network=1e9)
    plan = make_cluster(settings, PAIR, 1)
    assert {node.gpu_bytes for node in plan.request.nodes} == {hardware_named("h100").memory_bytes}
    assert SimulationSettings().speeds == LinkSpeeds()
    slow, fast = (seconds_by_agent(SimulationSettings(hardware=name), PAIR) for name in ("a100-80gb", "h200"))
    assert slow["thinker"] > fast["thinker"] > 0
    assert seconds_by_agent(settings, PAIR)["writer"] == 7.0
    assert seconds_by_agent(SimulationSettings(), PAIR) == {"thinker": 0.3, "writer": 20.0}


@pytest.mark.parametrize("name", ["mine.json", "MINE.JSON"])
def test_hardware_that_was_measured_is_that_of_its_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / name
    file.write_bytes(hardware_to_json(replace(hardware_named("h100"), memory_bytes=50 * 10**9)))
    assert SimulationSettings(hardware=str(file)).gpus == replace(hardware_named("h100"), memory_bytes=50 * 10**9)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SimulationSettings(hardware=f"~/{name}").gpus == SimulationSettings(hardware=str(file)).gpus
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"hardware: .*it must be a file of latentmas plan --measure --save"):
        SimulationSettings(hardware=str(file))


def test_a_simulated_run_is_as_fast_as_predicted() -> None:
    """What is predicted for a cluster that always has enough questions."""
    settings = SimulationSettings(hardware="a100-80gb", questions=1600, driver="free", latency=0.0, model="qwen3-4b")
    topology = topology_of("sequential")
    plan = make_cluster(settings, topology, 1)
    seconds = seconds_by_agent(settings, topology)
    device = StepModel(model=plan.request.model, hardware=hardware_named("a100-80gb"), efficiency=Efficiency())  # type: ignore[arg-type]
    costs = turn_costs(topology, plan.request.workload, {}, device)
    assert seconds == {name: pytest.approx(cost.seconds * settings.batch_size) for name, cost in costs.items()}
    one, predicted = simulate_run(settings, topology, plan), predict(plan, costs, settings.speeds)
    assert one.questions_per_second == pytest.approx(predicted.questions_per_second, rel=0.15)


def test_smaller_clusters_have_as_many_questions_for_each_node() -> None:
    settings = replace(TIMERS, nodes=(1, 3, 4), questions=40, topology=("sequential",), gpus_per_node=4)
    runs = simulate(settings, lambda _: None).runs
    assert [one.questions for one in runs] == [10, 30, 40]


def test_the_wide_topology_has_two_wide_layers() -> None:
    made = wide(3, 2)
    assert [len(agent.reads) for agent in made.agents] == [0, 0, 0, 3, 3, 2]
    assert made.answering_agent.name == "summariser"


FEW = ["simulate", "--questions", "16", "--nodes", "1,2", "--topology", "sequential"]


def test_the_command_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(FEW) == 0
    shown = capsys.readouterr().out
    assert "sequential" in shown
    assert "questions/s" in shown
    assert all(len(line) <= 80 for line in shown.splitlines()[4:])


def test_the_command_prints_json_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "simulated.png"
    assert main([*FEW, "--json", "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["nodes"] for one in found["runs"]] == [1, 2]
    assert found["runs"][0]["questions_per_second"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")


BAD = [
    ("--nodes", "0", "whole numbers from 1 to 1024"),
    ("--nodes", "2000", "whole numbers from 1 to 1024"),
    ("--nodes", "many", "whole numbers"),
    ("--gpus-per-node", "0", "between 1 and"),
    ("--gpus-per-node", "9000", "8192"),
    ("--questions", "0", "between 1 and"),
    ("--questions", "1000000000000", "between 1 and"),
    ("--batch-size", "-1", "between 1 and"),
    ("--prompt-tokens", "0", "between 1 and"),
    ("--latent-steps", "-1", "between 0 and"),
    ("--max-new-tokens", "0", "between 1 and"),
    ("--seed", "one", "got 'one'; it must be a whole number"),
    ("--questions", "1e3", "got '1e3'; it must be a whole number"),
    ("--spread", "wide", "got 'wide'; it must be a number"),
    ("--nodes", "2,1,2", "each one once"),
    ("--topology", "single,single", "each one once"),
    ("--topology", "wid", "did you mean wide?"),
    ("--model", " ", "got ' '; it must be qwen3"),
    ("--model", "qwen3-15b", "did you mean qwen3-14b?"),
    ("--drivers", "65", "between 1 and 64"),
    ("--topology", "no-such", "no-such"),
    ("--topology", "", "topolog"),
    ("--replicas", "0", "between 1 and"),
    ("--replicas", "planner=2", "balanced or auto"),
    ("--placement", "scatter", "auto, pack, spread or colocate"),
    ("--think-seconds", "0", "above 0"),
    ("--write-seconds", "nan", "above 0"),
    ("--spread", "1", "below 1"),
    ("--model", "no-such-model", "qwen3-14b"),
    ("--hardware", "tpu", "h100"),
    ("--hardware", "cpu", "h100"),
    ("--nvlink", "fast", "GB/s"),
    ("--network", "none", "GB/s"),
    ("--store", "0B", "such as 100GB"),
    ("--latency", "-1", "between 0 and 1"),
    ("--driver", "slow", "charged or free"),
    ("--runtime-seconds", "nan", "between 0 and 1"),
    ("--plot", "simulated.pdf", ".png"),
]


def test_every_flag_has_input_that_is_refused() -> None:
    assert {flag for flag, _, _ in BAD} == {flag_of(field.name) for field in fields(SimulationSettings)}


@pytest.mark.parametrize(("flag", "value", "expected"), BAD)
def test_bad_input_is_one_line(flag: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", flag, value]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert flag.removeprefix("--") in line.replace("_", "-")
    assert expected in line


def test_a_model_that_does_not_fit_on_the_hardware_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--model", "llama-3.1-70b", "--hardware", "a100-40gb"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --hardware: got 'a100-40gb'; for llama-3.1-70b a GPU needs ")
    assert "--tp" not in line  # no flag here


def test_drivers_that_get_no_question_are_left_out_and_their_nodes_are_not() -> None:
    settings = SimulationSettings(nodes=(4,), topology=("single",), questions=2, drivers=4, driver="free")
    (one,) = simulate(settings, lambda _: None).runs
    assert (one.nodes, one.gpus, one.questions, one.drivers) == (4, 32, 2, 2)
