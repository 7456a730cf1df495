"""The transfer benchmark without a cluster: figures from given times, the table, the plot, and what is refused."""

import contextlib
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from latentmas_ray.authentication import RunKey
from latentmas_ray.bench.endpoint import holds_kv_bytes
from latentmas_ray.bench.link_limits import Buffers, TcpReceiver, TcpSender
from latentmas_ray.bench.paths import check_digests
from latentmas_ray.bench.plot import draw, make_figure
from latentmas_ray.bench.setting_checks import check_plot_file
from latentmas_ray.bench.timings import p99, size_figures
from latentmas_ray.bench.transfer import fitting
from latentmas_ray.cli.main import main
from latentmas_ray.cli.render.bench.transfer_tables import transfer_tables
from latentmas_ray.errors import ConfigError, RunError
from latentmas_ray.memory import SegmentChunk
from latentmas_ray.models.load import load_model
from latentmas_ray.models.presets import SHAPES, kv_shape
from tests.architecture.source import ROOT
from tests.architecture.test_startup import HEAVY, RUN, imported_by
from tests.cases.memory import make_segment
from tests.cases.transfer import hand_over, outcome

KEY = RunKey(b"k" * 32)
QUICK = ["bench", "transfer", "--model", "tiny", "--no-end-to-end"]
KIB_PER_TOKEN = {
    "qwen3-0.6b": 112,
    "qwen3-1.7b": 112,
    "qwen3-4b": 144,
    "qwen3-8b": 144,
    "qwen3-14b": 160,
    "qwen3-32b": 256,
}


def test_a_hand_over_is_cut_at_the_stamps() -> None:
    one = hand_over()
    assert dict(one.phases) == {"copy_out": 1.0, "pack": 1.0, "way": 2.0, "unpack": 4.0, "write": 8.0}
    assert (one.move, one.total) == (2.0, 16.0)


def test_where_unpacking_brings_the_bytes_it_is_part_of_the_move() -> None:
    assert hand_over(holds_bytes=False).move == 6.0


@pytest.mark.parametrize("offset", [-3.5, 0.25])
def test_the_offset_of_the_other_clock_is_taken_off(offset: float) -> None:
    assert hand_over(offset=offset) == hand_over()


def test_figures_are_medians_and_shares_are_taken_pair_by_pair() -> None:
    runs = [hand_over(1.0, limit=1.0), hand_over(2.0, limit=4.0), hand_over(4.0, limit=2.0)]
    figures = size_figures(10, 1000, runs, is_remote=False)
    assert figures.move.seconds == 4.0
    assert (figures.move.p99_seconds, figures.move.best_seconds) == (8.0, 2.0)
    assert figures.move.bytes_per_second == 250.0
    assert figures.move.limit_bytes_per_second == 500.0
    assert figures.move.share_of_limit == 0.5  # of 1/2, 4/4 and 2/8
    assert figures.hand_over.seconds == 32.0
    assert figures.hand_over.share_of_limit == 0.125  # of 2/16, 8/32 and 4/64


def test_between_nodes_a_hand_over_needs_the_link_beside_the_copies() -> None:
    figures = size_figures(10, 1000, [hand_over(limit=1.0)], is_remote=True)
    assert figures.hand_over.limit_bytes_per_second == pytest.approx(1000 / 3)


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (5, 5), (100, 99), (200, 198)])
def test_p99_is_a_value_that_was_measured(count: int, rank: int) -> None:
    assert p99([float(number) for number in range(count, 0, -1)]) == rank


def test_what_does_not_fit_is_left_out_or_refused() -> None:
    assert fitting(None, 1000, free=7e6, store=None) == [1, 64]
    assert fitting(None, 1000, free=7e9, store=2.1e6) == [1, 64, 1024]
    assert fitting((64, 8, 8), 1000, free=7e6, store=None) == [8, 64]
    with pytest.raises(ConfigError, match=r"tokens: got '2000'; it must be at most 1000 tokens of 1 KB"):
        fitting((8, 2000), 1000, free=7e6, store=None)
    with pytest.raises(ConfigError, match="tokens: got '1'"):
        fitting(None, 1000, free=10.0, store=None)


@pytest.mark.parametrize("name", SHAPES)
def test_the_kv_of_a_shape_needs_no_weights(name: str) -> None:
    assert kv_shape(name).bytes_per_token == KIB_PER_TOKEN[name] * 1024
    assert kv_shape(name, dtype="float32").bytes_per_token == 2 * KIB_PER_TOKEN[name] * 1024


def test_the_kv_of_a_folder_is_that_of_the_loaded_model(tmp_path: Path) -> None:
    lm = load_model("tiny")
    lm.model.save_pretrained(tmp_path)
    lm.chat.tokenizer.save_pretrained(tmp_path)
    by_config = kv_shape(str(tmp_path))
    assert by_config == replace(lm.spec, weights_revision=by_config.weights_revision)


def test_a_payload_carries_its_bytes_or_says_where_they_are() -> None:
    piece = SegmentChunk.whole(make_segment([(3, 1)]))
    raw = np.zeros(piece.num_bytes, np.uint8)
    assert holds_kv_bytes((b"header", raw), piece.num_bytes)
    assert holds_kv_bytes(piece, piece.num_bytes)
    assert not holds_kv_bytes((b"header", "name of a buffer", raw[1:]), piece.num_bytes)


def test_other_bytes_at_the_receiver_are_an_error() -> None:
    check_digests("a", "a")
    with pytest.raises(RunError, match="other bytes"):
        check_digests("a", "b")


def test_memcpy_and_tcp_move_all_bytes() -> None:
    buffers, other = Buffers(100_001), np.zeros(100_001, np.uint8)
    assert buffers.copy_seconds() > 0
    assert np.array_equal(buffers.source, buffers.target)
    sink = TcpReceiver("127.0.0.1", KEY)
    sink.set_target(other)
    line = TcpSender("127.0.0.1", sink.port, KEY)
    assert line.seconds(buffers.source) > 0
    assert np.array_equal(buffers.source, other)
    offset, error = line.clock()
    assert abs(offset) <= error + 1e-3
    for closing in (line, sink, buffers):
        closing.close()


def test_a_stranger_cannot_write_into_the_buffer() -> None:
    sink, target = TcpReceiver("127.0.0.1", KEY), np.zeros(100, np.uint8)
    sink.set_target(target)
    with pytest.raises(RunError, match="does not have the key"):
        TcpSender("127.0.0.1", sink.port, RunKey(b"f" * 32))
    with socket.create_connection(("127.0.0.1", sink.port)) as stranger:
        stranger.sendall(bytes(16) + (100).to_bytes(8, "little") + b"\1" * 100)
        with contextlib.suppress(ConnectionResetError):  # it has not read everything
            assert stranger.recv(1) == b""
    assert not target.any()
    sink.close()


def test_where_nobody_listens_no_line_is_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RunError, match="no TCP connection to"):
        TcpSender("127.0.0.1", port, KEY)


def test_the_tables_are_readable_at_80_columns() -> None:
    console = Console(width=80, file=io.StringIO(), highlight=False)
    console.print(transfer_tables(outcome()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in ("same process, loopback", "cross node, object_store", "> 200", "two clocks", "with overlap", "10.0 ×"):
        assert part in text
    assert [line.split()[0] for line in text.splitlines() if "235 MB" in line] == ["2048"] * 3


def test_the_plot_is_a_png_of_some_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    draw(outcome(), str(path))
    raw = path.read_bytes()
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(raw[first : first + 4], "big") for first in (16, 20))
    assert width > 1000
    assert height > 500


def test_names_stand_at_their_lines_and_do_not_touch() -> None:
    pytest.importorskip("matplotlib")
    figure = make_figure(outcome())
    figure.canvas.draw()  # so that everything has its place
    canvas = figure.canvas.get_renderer()
    whole = figure.bbox
    for axes in figure.axes:
        texts = {text.get_text(): text.get_window_extent(canvas) for text in axes.texts}
        assert {"object_store, same node", "object_store, cross node", "limit, cross node: TCP"} <= texts.keys()
        assert "Not drawn, as they move no bytes: loopback (same process)" in texts
        boxes = [*texts.values(), *(label.get_window_extent(canvas) for label in (axes.xaxis.label, axes.title))]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 for box in boxes)
    first, second = figure.axes
    right = max(text.get_window_extent(canvas).x1 for text in first.texts)
    assert right < second.get_tightbbox(canvas).x0
    assert figure.legends == []


def test_within_one_process_no_cluster_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--transports", "loopback", "--tokens", "8,1", "--repeats", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (way,) = told["ways"]
    assert (way["link"], way["transport"], way["limit"]) == ("same_process", "loopback", "memcpy")
    assert [size["tokens"] for size in way["sizes"]] == [1, 8]
    for size in way["sizes"]:
        assert size["num_bytes"] == size["tokens"] * told["bytes_per_token"]
        assert 0 < size["move"]["seconds"] < size["hand_over"]["seconds"] <= size["hand_over"]["p99_seconds"]
        assert sum(size["phases"].values()) == pytest.approx(size["hand_over"]["seconds"], rel=0.5)
    assert told["end_to_end"] is None


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--tokens", "64,x"], "--tokens: got '64,x'"),
        (["--tokens", "0"], "--tokens: got '0'"),
        (["--tokens", "64,"], "--tokens: got '64,'"),
        (["--tokens", "99999999999", "--transports", "loopback"], "--tokens: got '99999999999'; it must be at most"),
        (["--tokens", "9" * 5000], "--tokens: got '999"),
        (["--transports", "pigeon"], "--transports: got 'pigeon'; the transports are loopback, object_store, "),
        (["--transports", "cuda_ipc"], "--transports: got 'cuda_ipc'; it does not work here: it moves memory of GPUs"),
        (["--transports", ""], "--transports: got ''"),
        (["--repeats", "0"], "--repeats: got '0'"),
        (["--prompt-tokens", "0"], "--prompt-tokens: got '0'"),
        (["--latent-steps", "0"], "--latent-steps: got '0'"),
        (["--dtype", "int8"], "--dtype: got 'int8'"),
        (["--model", "./nowhere"], "--model: got './nowhere'"),
        (["--plot", "plot.jpg"], "--plot: got 'plot.jpg'; it must be a file that ends in .png"),
        (["--plot", "./nowhere/plot.png"], "--plot: got './nowhere/plot.png'; its folder must exist"),
        (["--plot", ".png"], "--plot: got '.png'"),
        (["--repeats", "1.5"], "--repeats: got '1.5'; it must be a whole number"),
        (["--latent-steps", "auto"], "--latent-steps: got 'auto'; it must be a whole number"),
        (["--address", "127.0.0.1:1"], "--address: got '127.0.0.1:1'; a Ray cluster must answer there"),
        (["--address", ""], "--address: got ''"),
        (["--address", "x:1", "--transports", "loopback"], "--address: got 'x:1'; these transports work"),
        (["--repeats", "many"], "--repeats"),
    ],
)
def test_bad_flags_are_told_in_one_line(flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


def test_a_plot_into_a_folder_without_permission_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        check_plot_file(str(tmp_path / "plot.png"))


def test_a_plot_without_matplotlib_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*QUICK, "--plot", str(tmp_path / "plot.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--plot: got" in line
    assert "'.[report]'" in line


def test_the_job_takes_the_same_flags() -> None:
    job = ROOT / "jobs" / "bench_transfer.py"
    command = [sys.executable, str(job), "--repeats", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --repeats: got '0'")


def test_wrong_flags_are_told_before_anything_heavy_is_imported() -> None:
    assert imported_by(RUN, "bench", "transfer", "--tokens", "0") & HEAVY == set()
