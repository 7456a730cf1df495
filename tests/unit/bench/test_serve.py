"""`latentmas bench serve` against a server without a model: loads, errors by kind, figures, and what is refused."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.bench.serve.arrivals import poisson_times
from latentmas_ray.bench.serve.figures import FirstAnswers, InTime, Percentiles, load_figures
from latentmas_ray.bench.serve.load import closed_loop, open_loop
from latentmas_ray.bench.serve.own_server import OwnServer
from latentmas_ray.bench.serve.plot import make_load_figure
from latentmas_ray.bench.serve.reply import ChatClient, ChatQuestion, ClientReply
from latentmas_ray.bench.serve.server_processes import (
    MemorySample,
    MemoryWatch,
    ServerProcesses,
    growth_bytes,
    is_actor,
)
from latentmas_ray.bench.serve.settings import ServeBenchSettings
from latentmas_ray.cli.main import main
from latentmas_ray.errors import ConfigError, RunError
from tests.cases.chat_server import MODELS, ChatServer, chat_server

KINDS = {
    "refused": "429 (queue_full)",
    "wrong": "400 (invalid_value)",
    "broken": "error event (aborted)",
    "cut": "cut off",
    "garbled": "unreadable",
    "slow": "timeout",
}


def questions(*texts: str) -> list[ChatQuestion]:
    return [ChatQuestion(model=MODELS[0], key=f"q{number}", text=text) for number, text in enumerate(texts)]


def asked(server: ChatServer, asks: list[ChatQuestion], clients: int = 4, timeout: float = 60.0) -> list[ClientReply]:
    async def ask() -> list[ClientReply]:
        async with ChatClient(server.url, max_tokens=8, timeout=timeout) as client:
            return await closed_loop(client, asks, clients)

    return asyncio.run(ask())


def test_an_answer_is_read_with_its_times_and_counts() -> None:
    with chat_server(seconds=0.01) as server:
        (reply,) = asked(server, questions("why"))
    assert reply.is_answered
    assert reply.text.strip() == "why is clear"
    assert (reply.output_tokens, reply.latent_steps) == (3, 30)
    assert 0.01 <= reply.first_token_seconds <= reply.seconds
    sent = server.bodies[0]
    assert sent["temperature"] == 0
    assert sent["stream_options"] == {"include_usage": True}


def test_errors_are_told_apart_and_the_others_are_answered() -> None:
    with chat_server() as server:
        replies = asked(server, questions("fine", *(kind for kind in KINDS if kind != "slow")))
        replies += asked(server, questions("slow"), timeout=1.0)
    assert {reply.question.text: reply.outcome for reply in replies} == {"fine": "answered", **KINDS}


def test_a_server_that_is_not_there_is_an_error_of_the_request() -> None:
    with chat_server() as server:
        pass
    (reply,) = asked(server, questions("why"))
    assert reply.outcome == "connection refused"


def test_a_closed_loop_has_as_many_requests_at_a_time_as_clients() -> None:
    with chat_server(seconds=0.01, waits_for=3) as server:
        replies = asked(server, questions(*(f"q{number}" for number in range(12))), clients=3)
    assert server.most_open == 3
    assert len(replies) == 12


def test_an_open_loop_asks_whether_it_is_answered_or_not() -> None:
    texts = [f"q{number}" for number in range(20)]

    async def ask(url: str) -> list[ClientReply]:
        async with ChatClient(url, max_tokens=8, timeout=60.0) as client:
            return await open_loop(client, questions(*texts), rate=400.0, seed=1)

    with chat_server(waits_for=len(texts)) as server:
        replies = asyncio.run(ask(server.url))
    assert {reply.outcome for reply in replies} == {"answered"}
    begin = replies[0].due
    assert [reply.due - begin for reply in replies] == pytest.approx(
        [one - next(poisson_times(400.0, 1, 1)) for one in poisson_times(400.0, 20, 1)]
    )


@given(st.floats(0.01, 1000.0), st.integers(0, 2**32))
def test_arrivals_are_those_of_their_seed_and_ascend(rate: float, seed: int) -> None:
    times = list(poisson_times(rate, 50, seed))
    assert times == sorted(times)
    assert times == list(poisson_times(rate, 50, seed))
    assert times != list(poisson_times(rate, 50, seed + 1))


def test_arrivals_come_at_their_rate() -> None:
    times = list(poisson_times(4.0, 20_000, 7))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert mean(gaps) == pytest.approx(0.25, rel=0.03)
    # Of an exponential distribution the share below the mean is 1 - 1 / e.
    assert mean(gap < 0.25 for gap in gaps) == pytest.approx(0.632, abs=0.015)


def test_percentiles_are_values_that_were_measured() -> None:
    assert Percentiles.of(range(1, 101)) == Percentiles(p50=50, p95=95, p99=99)
    assert Percentiles.of([3.0, 1.0]) == Percentiles(p50=1.0, p95=3.0, p99=3.0)
    assert Percentiles.of([]) == Percentiles(p50=0.0, p95=0.0, p99=0.0)


def reply(seconds: float, first: float, outcome: str = "answered", text: str = "yes", key: str = "q") -> ClientReply:
    question = ChatQuestion(model="m", key=key, text="?")
    return ClientReply(
        question=question,
        due=10.0,
        first_token=10.0 + first,
        finished=10.0 + seconds,
        outcome=outcome,
        text=text,
        output_tokens=4,
        latent_steps=20,
    )


def test_goodput_counts_what_came_in_time() -> None:
    replies = [reply(2.0, 0.5), reply(2.0, 1.5), reply(4.0, 0.5), reply(1.0, 0.1, "timeout")]
    limits = InTime(first_token_seconds=1.0, seconds=3.0)
    figures = load_figures(replies, model="m", load="2 clients", in_time=limits, num_changed=0, cpu_seconds=6.0)
    assert figures.seconds == 4.0
    assert figures.answered_per_second == 0.75
    assert figures.goodput == 0.25
    assert figures.errors == {"timeout": 1}
    assert (figures.output_tokens, figures.latent_steps, figures.cpu_seconds) == (4, 20, 2.0)
    assert figures.output_tokens_per_second == 3.0


def test_a_load_without_an_answer_has_figures_too() -> None:
    figures = load_figures([reply(1.0, 0.1, "500")], model="m", load="1/s", in_time=InTime(), num_changed=0)
    assert (figures.num_answered, figures.answered_per_second, figures.whole.p99) == (0, 0.0, 0.0)


def test_answers_that_change_are_counted_by_model_and_question() -> None:
    first = FirstAnswers()
    assert first.count_changed([reply(1, 1, text="a", key="q0"), reply(1, 1, text="b", key="q1")]) == 0
    others = [reply(1, 1, text="a", key="q0"), reply(1, 1, text="x", key="q1"), reply(1, 1, "timeout", "", "q0")]
    assert first.count_changed(others) == 1


def test_the_processes_of_a_server_on_this_machine_are_watched() -> None:
    with chat_server() as server:
        processes = ServerProcesses.at(server.url)
        assert processes is not None
        with MemoryWatch(processes, every_seconds=0.01) as watch:
            asked(server, questions("why"))
        assert processes.cpu_seconds() > 0
    assert len(watch.samples) >= 2
    assert all(sample.server_bytes > 2**20 and sample.num_files > 0 for sample in watch.samples)
    assert ServerProcesses.at("http://example.org/v1") is None
    assert ServerProcesses.at(server.url) is None, "it has ended"


def test_growth_is_from_the_second_quarter_to_the_last() -> None:
    def sample(size: int) -> MemorySample:
        return MemorySample(seconds=0.0, server_bytes=size, actor_bytes=1, num_actors=1, num_files=3)

    sizes = [0, 50, 100, 100, 120, 90, 130, 130]
    assert growth_bytes([sample(size) for size in sizes]) == 30.0
    assert growth_bytes([sample(5)]) == 0.0


def bench(*flags: str) -> int:
    return main(["bench", "serve", *flags])


def test_the_command_measures_every_model_under_every_load(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTMAS_API_KEY", "secret")
    plot, output = tmp_path / "load.png", tmp_path / "out"
    loads = ["--concurrency", "1,4", "--rates", "200", "--requests", "6", "--soak", "0.01"]
    with chat_server() as server:
        assert bench("--url", server.url, *loads, "--json", "--plot", str(plot), "--output", str(output)) == 0
    figures = json.loads(capfd.readouterr().out)
    assert server.keys == {"Bearer secret"}
    assert [(one["model"], one["load"]) for one in figures["loads"]] == [
        (model, load) for model in MODELS for load in ("1 client", "4 clients", "200/s")
    ]
    assert all((one["num_answered"], one["num_changed"], one["errors"]) == (6, 0, {}) for one in figures["loads"])
    assert [one["model"] for one in figures["soak"]["loads"]] == list(MODELS)
    assert all(one["num_answered"] == one["num_requests"] > 0 for one in figures["soak"]["loads"])
    assert figures["memory"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads((output / "figures.json").read_text()) == figures
    tables = (output / "figures.txt").read_text()
    assert all(words in tables for words in ("4 clients", "200/s", "soak: 0.01 min, 4 clients", "growth of memory"))


def test_tables_say_what_failed_and_what_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [{"id": f"q{number}", "question": text} for number, text in enumerate(("fine", "broken", "changes"))]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = ["--concurrency", "1,3", "--requests", "3", "--models", MODELS[1]]
    with chat_server() as server:
        assert bench("--url", server.url, "--task", str(tmp_path / "asked.jsonl"), *flags) == 0
    printed = capfd.readouterr()
    assert f"{MODELS[1]}, 1 client: 1 × error event (aborted)" in printed.out
    rates = [line.split() for line in printed.out.splitlines() if line.startswith("3 clients")][1]
    assert rates[-2:] == ["1", "1"]


def test_loads_that_nothing_answers_end_the_command_with_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "q", "question": "wrong"}))
    plot, flags = tmp_path / "load.png", ["--requests", "2", "--models", MODELS[0]]
    with chat_server() as server:
        asked = ("--url", server.url, "--task", str(tmp_path / "asked.jsonl"), "--plot", str(plot), *flags)
        assert bench(*asked, "--concurrency", "1,2") == 1
    printed = capfd.readouterr()
    assert f"no request was answered of {MODELS[0]}, 1 client; {MODELS[0]}, 2 clients" in printed.err.splitlines()[-1]
    times = next(line.split() for line in printed.out.splitlines() if line.startswith("2 clients"))
    assert times == ["2", "clients", *"––––––"]
    assert plot.exists()


def test_models_and_loads_that_are_given_twice_are_measured_once(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--models", f"{MODELS[0]},{MODELS[0]}", "--concurrency", "1,1", "--rates", "200,200", "--requests", "2"]
    with chat_server() as server:
        assert bench("--url", server.url, *flags, "--json") == 0
    assert [one["load"] for one in json.loads(capfd.readouterr().out)["loads"]] == ["1 client", "200/s"]


def test_clients_of_a_server_that_is_gone_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a soak asks it as fast as the machine can, and keeps every reply."""
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    with chat_server() as server:
        pass
    monkeypatch.setattr("latentmas_ray.bench.serve.load.asyncio.sleep", note)
    replies = asked(server, questions("one", "two", "three"), clients=1)
    assert [reply.outcome for reply in replies] == ["connection refused"] * 3
    assert pauses == [1.0] * 3


def test_the_axes_of_a_figure_are_labelled_in_plain_numbers() -> None:
    from latentmas_ray.bench.serve.measure import ServeBench

    loads = tuple(
        load_figures([reply(whole, 0.05)], model="m", load="x", in_time=InTime(), num_changed=0, concurrency=count)
        for count, whole in ((1, 0.06), (3, 0.11))
    )
    figure = make_load_figure(
        ServeBench(settings=ServeBenchSettings(), machine="here", loads=loads, soak=None, memory=())
    )
    figure.canvas.draw()
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "3"]
        texts = [label.get_text() for label in [*axes.get_yticklabels(), *axes.get_yticklabels(minor=True)]]
        assert any(texts)
        assert not any("10" in text and "$" in text for text in texts)


def test_a_figure_without_memory_has_no_panel_of_it() -> None:
    from latentmas_ray.bench.serve.measure import ServeBench

    one = load_figures([reply(2.0, 0.5)], model="m", load="1 client", in_time=InTime(), num_changed=0, concurrency=1)
    outcome = ServeBench(settings=ServeBenchSettings(), machine="here", loads=(one,), soak=None, memory=())
    assert len(make_load_figure(outcome).axes) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--url", "localhost"], ["url", "localhost"]),
        (["--url", "http://127.0.0.1:99999/v1"], ["url", "99999"]),
        (["--url", "ftp://a/v1"], ["url", "ftp://a/v1"]),
        (["--url", "http://127.0.0.1:9/v1"], ["url", "'http://127.0.0.1:9/v1'", "no server", "Connect"]),
        (["--concurrency", "0"], ["concurrency", "0"]),
        (["--concurrency", "5000"], ["concurrency", "5000"]),
        (["--concurrency", "many"], ["concurrency", "many"]),
        (["--rates", "0"], ["rates", "0"]),
        (["--rates", "fast"], ["rates", "fast"]),
        (["--rates", "nan"], ["rates", "nan"]),
        (["--concurrency", "none"], ["concurrency", "none"]),
        (["--concurrency", "8", "--requests", "4"], ["requests", "4", "8"]),
        (["--requests", "0", "--concurrency", "none", "--rates", "1"], ["requests", "0"]),
        (["--soak", "0"], ["soak", "0"]),
        (["--timeout", "-1"], ["timeout", "-1"]),
        (["--first-within", "inf"], ["--first-within", "inf"]),
        (["--answer-within", "0"], ["--answer-within", "0"]),
        (["--task", "mistyped"], ["task", "mistyped"]),
        (["--models", ","], ["models", ","]),
        (["--plot", "a.pdf"], ["plot", "a.pdf"]),
        (["--output", ""], ["--output: got ''", "folder"]),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    given_url = [] if "--url" in flags else ["--url", "http://127.0.0.1:9/v1"]
    assert bench(*flags, *given_url) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
    assert "Traceback" not in error


def test_a_model_that_is_not_served_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with chat_server() as server:
        assert bench("--url", server.url, "--models", "latentmas/mistyped") == 2
    assert "latentmas/mistyped" in (error := capfd.readouterr().err)
    assert MODELS[0] in error


def test_a_key_that_no_header_can_hold_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATENTMAS_API_KEY", "sésame ouvre")
    with chat_server() as server:
        assert bench("--url", server.url) == 2
    error = capfd.readouterr().err
    assert "LATENTMAS_API_KEY" in error
    assert "ouvre" not in error


def test_a_server_that_does_not_start_is_an_error_with_its_last_line() -> None:
    with pytest.raises(RunError, match=r"ended while it started: .*mistyped"), OwnServer(["--mistyped"]):
        pass


def test_a_flag_that_the_server_refuses_is_bad_input() -> None:
    with (
        pytest.raises(ConfigError, match=r"^--topology: got 'mistyped'; it must be "),
        OwnServer(["--topology", "mistyped"]),
    ):
        pass


@pytest.mark.parametrize(
    ("title", "counts"),
    [("ray::AgentActor.load", True), ("ray::TextActor", True), ("ray::IDLE", False), ("ray::DashboardAgent", False)],
)
def test_processes_of_ray_itself_are_no_actors(title: str, counts: bool) -> None:
    assert is_actor(title) is counts
