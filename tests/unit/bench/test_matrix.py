"""The matrix of a cluster's links without a cluster: which pairs, what is slow, what is shown, what is refused."""

import io
import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import GetTimeoutError
from rich.console import Console

from latentmas_ray.actors import bench_actor
from latentmas_ray.actors.bench_actor import BenchNode
from latentmas_ray.bench.matrix import ends as ends_module
from latentmas_ray.bench.matrix import measure
from latentmas_ray.bench.matrix.end import EndFacts, Timed
from latentmas_ray.bench.matrix.ends import make_ends
from latentmas_ray.bench.matrix.figures import SLOW_SHARE, find_slow, group_figures, link_figures
from latentmas_ray.bench.matrix.pairs import (
    EndPlace,
    find_ends,
    find_pairs,
    first_ends,
    incast_senders,
    name_ends,
    on_one_kind,
)
from latentmas_ray.bench.matrix.plot import draw_matrix
from latentmas_ray.bench.matrix.settings import MatrixSettings
from latentmas_ray.bench.paths import AlteredBytesError, check_digests
from latentmas_ray.cli.main import main
from latentmas_ray.cli.render.bench.matrix_tables import matrix_tables
from latentmas_ray.errors import ActorError, ConfigError, RunError
from latentmas_ray.models.presets import kv_shape
from latentmas_ray.transport import DeviceLayout
from tests.cases.matrix import NODES, link, matrix


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.sampled_from(["nodes", "all"]))
def test_every_two_nodes_are_a_pair_in_both_directions(num_gpus: list[int], pairs: Any) -> None:
    ends = find_ends(num_gpus, pairs)
    found = find_pairs(ends)
    assert len(set(found)) == len(found)
    assert {(one.node, other.node) for one, other in found if one.node != other.node} == set(
        permutations(range(len(num_gpus)), 2)
    )
    assert [end.node for end in first_ends(ends)] == list(range(len(num_gpus)))
    within = {node: [pair for pair in found if pair[0].node == pair[1].node == node] for node in range(len(num_gpus))}
    for node, count in enumerate(num_gpus):
        wanted = 0 if pairs == "nodes" else count * (count - 1) if count else 1
        assert len(within[node]) == wanted


def test_where_some_nodes_have_gpus_the_links_are_those_of_gpus() -> None:
    mixed = find_ends([0, 2, 1], "all")
    assert on_one_kind(mixed) == mixed[2:]
    assert on_one_kind(mixed[:2]) == mixed[:2]


@pytest.mark.parametrize(
    ("num_gpus", "pairs", "said"),
    [
        ([0, 2, 0, 2], "all", "2 nodes without GPUs are left out"),
        ([0, 1, 1], "nodes", "1 node without GPUs is left out"),
        ([2, 2], "all", ""),
        ([0, 0], "all", ""),
    ],
)
def test_nodes_without_gpus_among_others_are_left_out_and_named(
    num_gpus: list[int], pairs: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [BenchNode(f"n{at}", f"198.51.100.{at}", 0.0, 0.0, gpus) for at, gpus in enumerate(num_gpus)]
    made: list[EndPlace] = []
    told: list[str] = []

    def stop(_: Any, places: list[EndPlace], *__: Any) -> None:
        made.extend(places)
        raise RunError("far enough")

    monkeypatch.setattr(measure, "BenchCluster", lambda _: nullcontext(SimpleNamespace(nodes=lambda: nodes)))
    monkeypatch.setattr(measure, "make_ends", stop)
    with pytest.raises(RunError, match="far enough"):
        measure.run_matrix(MatrixSettings(pairs=pairs, model="tiny"), told.append)
    assert [line.partition(", where")[0] for line in told] == ([said] if said else [])
    assert {place.node for place in made} == {at for at, gpus in enumerate(num_gpus) if gpus or not any(num_gpus)}


def test_one_gpu_and_nodes_without_are_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [BenchNode(f"n{at}", f"198.51.100.{at}", 0.0, 0.0, gpus) for at, gpus in enumerate([0, 1])]
    monkeypatch.setattr(measure, "BenchCluster", lambda _: nullcontext(SimpleNamespace(nodes=lambda: nodes)))
    with pytest.raises(ConfigError, match=r"the cluster has one GPU: .*; 1 node without GPUs is left out"):
        measure.run_matrix(MatrixSettings(pairs="all", model="tiny"), lambda _: None)


@given(st.integers(1, 9), st.integers(1, 12), st.data())
def test_senders_to_one_reader_are_others(num_nodes: int, concurrent: int, data: Any) -> None:
    ends = [EndPlace(node) for node in range(num_nodes)]
    reader = data.draw(st.sampled_from(ends))
    senders = incast_senders(ends, reader, concurrent)
    assert len(set(senders)) == len(senders) == min(concurrent, num_nodes - 1)
    assert reader not in senders


def test_ends_have_names_that_tell_them_apart() -> None:
    ends = find_ends([0, 2, 1], "all")
    names = name_ends(ends, ["a", "b", "b"], ["1" * 8, "2" * 8, "3" * 8])
    assert list(names.values()) == ["a #1", "a #2", "b/222222 gpu 0", "b/222222 gpu 1", "b/333333"]


def test_figures_are_medians_and_shares_are_of_each_repeat() -> None:
    figures = link_figures(100, [1.0, 4.0, 2.0], [1.0, 1.0, 1.0], source="a", reader="b", kind="cross_node")
    assert (figures.bytes_per_second, figures.limit_bytes_per_second, figures.share_of_limit) == (50.0, 100.0, 0.5)
    together = group_figures(100, 3, [2.0], [1.5], name="a")
    assert (together.bytes_per_second, together.limit_bytes_per_second, together.share_of_limit) == (150, 200, 0.75)
    alone = link_figures(100, [1.0], [], source="a", reader="b", kind="same_node")
    assert (alone.limit_bytes_per_second, alone.share_of_limit) == (None, None)


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12))
def test_a_link_is_slow_below_a_share_of_what_is_usual_for_its_kind(speeds: list[float]) -> None:
    links = [link("a", str(number), speed) for number, speed in enumerate(speeds)]
    usual = float(np.quantile([one.bytes_per_second or 0.0 for one in links], 0.75))
    expected = {one.reader for one in links if (one.bytes_per_second or 0.0) < SLOW_SHARE * usual * (1 - 1e-9)}
    slow = find_slow(links)
    assert {one.reader for one in slow} == expected
    assert [one.share_of_usual for one in slow] == sorted(one.share_of_usual for one in slow)
    assert all(one.what == "transfer" for one in slow)


def test_where_plain_tcp_is_slow_it_is_the_link() -> None:
    slow = matrix(slow=0.2).slow
    assert {(one.source, one.what) for one in slow} == {(f"{NODES[1]} #1", "limit")}
    assert [round(one.share_of_usual, 2) for one in slow] == [0.2, 0.2]
    # A slow node of three has most of the links.
    links = [
        link(*pair, 0.2 if "b" in pair else 1.0, 0.2 if "b" in pair else 1.0)
        for pair in permutations(("a", "b", "c"), 2)
    ]
    assert len(find_slow(links)) == 4
    # Within a node bytes move faster, and that makes no link between nodes slow.
    assert matrix().slow == ()


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("slow", [1.0, 0.2])
def test_the_tables_fit_and_name_slow_links(width: int, slow: float) -> None:
    outcome = matrix(slow=slow)
    lost = replace(outcome, lost={f"{NODES[2]} #2": "its actor died"})
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(matrix_tables(lost))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    flat = " ".join(text.split())
    for part in ("1.8", "90", "all to all", f"lost: {NODES[2]} #2: its actor died"):
        assert part in flat
    if slow == 1.0:
        assert "no link is below 60 % of the upper quartile of its kind" in flat
    else:
        assert f"{NODES[1]} #1 to {NODES[0]} #1: 0.4 GB/s, 20 % of the usual (the link itself)" in flat


def test_the_share_of_a_kind_is_the_median() -> None:
    links = (link("a", "b", 1.0, 2.0), link("b", "a", 1.8, 2.0))
    console = Console(width=100, file=io.StringIO())
    console.print(matrix_tables(replace(matrix(), links=links)))
    (row,) = [line for line in console.file.getvalue().splitlines() if line.startswith("cross node")]  # type: ignore[attr-defined]
    assert row.split()[-1] == "70"


def test_a_link_that_was_not_measured_is_shown_as_lost() -> None:
    outcome = matrix()
    failed = replace(outcome.links[-1], bytes_per_second=None, failed="198.51.100.3 #1 was lost")
    console = Console(width=100, file=io.StringIO())
    console.print(matrix_tables(replace(outcome, links=(*outcome.links[:-1], failed))))
    assert "lost" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_figures_as_json_name_the_rule() -> None:
    told = json.loads(json.dumps(matrix(slow=0.2).to_json()))
    assert told["slow_share"] == SLOW_SHARE
    assert {one["source"] for one in told["slow"]} == {f"{NODES[1]} #1"}
    assert len(told["links"]) == 9


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_matrix(matrix(slow=0.2), str(tmp_path / "matrix.png"))
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


class FakeEnds:
    """Ends that answer at once; those of `dead` are lost when they are asked."""

    def __init__(self, dead: str = "") -> None:
        self.lost: dict[str, str] = {}
        self.dead = dead
        self.asked: list[tuple[str, ...]] = []
        self.facts: dict[EndPlace, EndFacts] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(self.name, self.facts))

    def name(self, place: EndPlace) -> str:
        return f"n{place.node}"

    def start(self) -> None:
        pass

    def layout(self) -> DeviceLayout:
        return DeviceLayout(nodes="several")

    def prepare(self, *_: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def kind(self, _: EndPlace, __: EndPlace) -> str:
        return "cross_node"

    def check_alive(self, places: Any) -> None:
        if gone := [self.name(place) for place in places if self.name(place) in self.lost]:
            raise measure.LostEndError(f"{gone[0]} was lost")

    def move(self, senders: Any, reader: EndPlace) -> Timed:
        names = (*map(self.name, senders), self.name(reader))
        self.asked.append(names)
        if self.dead in names:
            raise ActorError("an endpoint of the link died")
        return Timed(2.0, "tcp")

    def move_all(self, places: Any) -> float:
        return self.move(places[:-1], places[-1]).seconds

    def tcp(self, *_: Any) -> float:
        return 1.0

    def call(self, *_: Any, **__: Any) -> str:
        return "digest"

    def release(self, _: Any) -> None:
        pass

    def find_lost(self, places: Any) -> list[str]:
        found = [self.name(place) for place in places if self.name(place) == self.dead]
        self.lost |= dict.fromkeys(found, "it died")
        return found


def test_a_node_that_dies_is_named_and_the_rest_is_measured() -> None:
    places = [EndPlace(node) for node in range(3)]
    ends, said = FakeEnds(dead="n1"), []
    run = measure._Measuring(ends, 2, 100, said.append)  # type: ignore[arg-type]
    links = [measure._measure_pair(run, *pair) for pair in find_pairs(places)]
    failed = {(one.source, one.reader) for one in links if one.failed}
    assert failed == {pair for pair in permutations(("n0", "n1", "n2"), 2) if "n1" in pair}
    assert {one.failed for one in links if one.failed} == {"n1 was lost"}
    assert all(one.share_of_limit == 0.5 for one in links if not one.failed)
    assert sum("n1" in names for names in ends.asked) == 1  # it is not asked again
    incast = [measure._measure_incast(run, places, reader, 2) for reader in places]
    assert [(one.name, one.num_moves, one.failed) for one in incast] == [
        ("n0", 1, ""),
        ("n1", 2, "n1 was lost"),
        ("n2", 1, ""),
    ]
    assert measure._measure_all_to_all(run, places).num_moves == 2
    assert sum("n1 was lost" in line for line in said) == 1


def test_ends_that_never_answer_have_the_time_of_one_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now, places = [1000.0], find_ends([0, 0, 0, 0], "nodes")
    clock = SimpleNamespace(monotonic=lambda: now[0])
    answers = {"n0": EndFacts(None, frozenset(), 1, 1), "n3": EndFacts(None, frozenset(), 1, 1)}

    class Actor:
        def __init__(self, _: Any, node_id: str, __: int) -> None:
            self.node_id = node_id

        def submit(self, *_: Any) -> str:
            return self.node_id

    def get(node_id: str, timeout: float) -> EndFacts:
        if node_id in answers:
            return answers[node_id]
        now[0] += timeout
        raise GetTimeoutError("not yet")

    monkeypatch.setattr(ends_module, "BenchActorHandle", Actor)
    monkeypatch.setattr(ends_module, "time", clock)
    monkeypatch.setattr(bench_actor, "time", clock)
    monkeypatch.setattr(bench_actor, "ray", SimpleNamespace(get=get))
    nodes = [BenchNode(f"n{place.node}", f"198.51.100.{place.node}", 0.0, 0.0) for place in places]
    ends = make_ends(nodes, places, kv_shape("tiny"), 1, 1)
    ends.start()
    assert now[0] - 1000.0 == ends_module.START_SECONDS
    assert [place.node for place in ends.facts] == [0, 3]
    assert set(ends.lost) == {"198.51.100.1", "198.51.100.2"}
    assert all(why.endswith("did not answer within 180 s") for why in ends.lost.values())
    answers.clear()
    assert ends.find_lost(places) == ["198.51.100.0", "198.51.100.3"]
    assert now[0] - 1000.0 == ends_module.START_SECONDS + ends_module._PING_SECONDS


@pytest.mark.parametrize(("num_gpus", "pairs"), [([1], "all"), ([0], "nodes"), ([4], "nodes")])
def test_a_cluster_without_a_pair_is_told_what_would_have_one(
    num_gpus: list[int], pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [BenchNode(f"n{number}", "198.51.100.1", 0.0, 0.0, gpus) for number, gpus in enumerate(num_gpus)]
    monkeypatch.setattr(measure, "BenchCluster", lambda _: nullcontext(SimpleNamespace(nodes=lambda: nodes)))
    with pytest.raises(ConfigError, match="several nodes") as caught:
        measure.run_matrix(MatrixSettings(pairs=pairs, model="tiny"), lambda _: None)
    assert ("all" in caught.value.expected) == (pairs == "nodes")


def test_what_an_end_keeps_of_all_others_must_fit() -> None:
    spec, places = kv_shape("tiny"), [EndPlace(node) for node in range(20)]
    ends = FakeEnds()
    # What it sends, five times; what it receives: a place for each of 8 at a time, and a copy of each of 19.
    copies = 5 + 8 + 19
    ends.facts = {place: EndFacts(None, frozenset(), copies * 100 * spec.bytes_per_token, 1) for place in places}
    measure._check_memory(100, spec, ends, 8, 19)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"at most 100: .* hold 32 copies at each of 1 ends"):
        measure._check_memory(101, spec, ends, 8, 19)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_nodes", [2, 3])
def test_without_any_figure_the_benchmark_fails(num_nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ends, nodes = FakeEnds(dead="n1"), [BenchNode(f"n{one}", f"198.51.100.{one}", 0.0, 0.0) for one in range(num_nodes)]
    ends.facts = {place: EndFacts(None, frozenset(), 2**30, 1) for place in find_ends([0] * num_nodes, "nodes")}
    monkeypatch.setattr(measure, "BenchCluster", lambda _: nullcontext(SimpleNamespace(nodes=lambda: nodes)))
    monkeypatch.setattr(measure, "make_ends", lambda *_: ends)
    settings = MatrixSettings(pairs="nodes", model="tiny", tokens=1)
    if num_nodes == 2:
        with pytest.raises(RunError, match="no pair could be measured: it died"):
            measure.run_matrix(settings, lambda _: None)
    else:
        outcome = measure.run_matrix(settings, lambda _: None)
        assert outcome.lost == {"n1": "it died"}
        assert sum(not one.failed for one in outcome.links) == 2


def test_altered_bytes_end_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(*_: Any) -> None:
        check_digests("a", "b")

    monkeypatch.setattr(measure, "check_digests", differ)
    run = measure._Measuring(FakeEnds(), 1, 100, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(AlteredBytesError):
        measure._measure_pair(run, EndPlace(0), EndPlace(1))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--pairs", "some"], "--pairs: got 'some'; it must be nodes or all"),
        (["--pairs", "all", "--concurrent", "0"], "--concurrent: got '0'; it must be at least 1"),
        (["--pairs", "all", "--tokens", "1,2"], "--tokens: got '1,2'; with --pairs it must be one"),
        (["--pairs", "all", "--transports", "tcp,gloo"], "--transports: got 'tcp,gloo'; with --pairs it must be one"),
        (["--pairs", "all", "--transports", "pigeon"], "--transports: got 'pigeon'; with --pairs it must be one of"),
        (["--pairs", "all", "--plot", "matrix.gif"], "--plot: got 'matrix.gif'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "transfer", "--model", "tiny", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
