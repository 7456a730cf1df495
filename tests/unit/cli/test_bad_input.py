"""A user's mistakes through the command line: one line with the field and the value, exit code 2, nothing lost."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main

# A case makes its files in a folder and returns the flags, and what the message must hold.
Case = Callable[[Path], tuple[list[str], list[str]]]
GOLDEN_MODEL = Path(__file__).parents[2] / "golden" / "model"
AGENT = '- {name: planner, prompt: "{{ question }}"}'
JUDGER = '- {name: judger, reads: [planner], thinks: text, prompt: "{{ question }}"}'


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def flags(*args: str, names: list[str]) -> Case:
    return lambda folder: (list(args), names)


def task(content: str | bytes, *names: str, name: str = "questions.jsonl") -> Case:
    return lambda folder: (["--task", written(folder, name, content)], [name, *names])


def topology(agents: list[str], *names: str) -> Case:
    text = "name: mine\nagents:\n" + "".join(f"  {agent}\n" for agent in agents)
    return lambda folder: (["--topology", written(folder, "mine.yaml", text)], ["mine.yaml", *names])


def model(change: Callable[[Path], None], *names: str) -> Case:
    def case(folder: Path) -> tuple[list[str], list[str]]:
        path = folder / "model"
        shutil.copytree(GOLDEN_MODEL, path)
        change(path)
        return ["--model", str(path)], ["--model", str(path), *names]

    return case


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _without_rope(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    for path in folder.glob("*.safetensors"):
        path.unlink()
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=600)).save_pretrained(folder)


def _edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def question(**fields: object) -> str:
    return json.dumps({"id": "a", "question": "1 + 1?", **fields}) + "\n"


PROGRAM = question(kind="code", prompt="def f():\n", test="assert f()", entry_point="f")

CASES: dict[str, Case] = {
    "no such method": flags("--method", "telepathy", names=["--method", "telepathy", "latent"]),
    "a batch of nothing": flags("--batch-size", "0", names=["--batch-size", "'0'"]),
    "words for a number": flags("--latent-steps", "some", names=["--latent-steps", "'some'"]),
    "negative temperature": flags("--temperature", "-1", names=["--temperature", "'-1'"]),
    "more than everything": flags("--top-p", "2", names=["--top-p", "'2'"]),
    "a device that is not": flags("--device", "tpu", names=["--device", "'tpu'"]),
    "a GPU by number for actors": flags(
        "--device", "cuda:1", "--runtime", "ray", names=["--device", "'cuda:1'", "Ray chooses the GPU"]
    ),
    "a flag that is not": flags("--latent-step", "3", names=["--latent-step"]),
    "memory without a unit": flags("--memory-in-flight", "lots", names=["--memory-in-flight", "'lots'"]),
    "loopback between processes": flags(
        "--transport", "loopback", "--runtime", "ray", names=["--transport", "loopback"]
    ),
    "an output folder inside a file": lambda folder: (
        ["--output", written(folder, "file", "") + "/run"],
        ["--output", "/file/run'", "cannot be created"],
    ),
    "an output URL of no store": flags(
        "--output", "nosuch://bucket/a", names=["--output", "'nosuch://bucket/a'", "Protocol not known: nosuch"]
    ),
    "an unknown task": flags("--task", "homework", names=["--task", "'homework'", "sample"]),
    "a benchmark that is not shipped": flags("--task", "gsm8k", names=["--task", "'gsm8k'", "FILE.jsonl"]),
    "a code benchmark": flags("--task", "humanevalplus", names=["--task", "'humanevalplus'", "FILE.jsonl"]),
    "a missing question file": flags(
        "--task", "/nowhere/q.jsonl", names=["--task", "'/nowhere/q.jsonl'", "no such file"]
    ),
    "a folder of questions": flags("--task", "/tmp", names=["--task", "'/tmp'", "folder"]),
    "another kind of file": task("a,b\n", "--task", "FILE.jsonl", name="questions.csv"),
    "an empty file": task("\n\n", "--task", "no question"),
    "broken JSON": task(question() + '{"id": "b", \n', "questions.jsonl:2", "JSON"),
    "a list for a record": task("[1, 2]\n", "questions.jsonl:1", "object"),
    "no question in a record": task('{"id": "a"}\n', "questions.jsonl:1: question"),
    "no id in a record": task('{"question": "1 + 1?"}\n', "questions.jsonl:1: id"),
    "an empty question": task(question(question=" "), "questions.jsonl:1: question", "' '"),
    "a gold of another kind": task(question(gold=[1]), "questions.jsonl:1: gold", "[1]"),
    "an unknown kind": task(question(kind="essay"), "questions.jsonl:1: kind", "'essay'"),
    "a letter that is no option": task(question(gold="Z", kind="choice", options={"A": "x", "B": "y"}), "gold", "'Z'"),
    "code without a prompt": task(question(kind="code"), "questions.jsonl:1: prompt", "kind code"),
    "tests that are no text": task(
        question(kind="code", prompt="def f():", test=5, entry_point="f"), "questions.jsonl:1: test", "5"
    ),
    "code to be tested": task(question(test="assert f()", entry_point="f"), "questions.jsonl:1: prompt", "kind code"),
    "bytes that are no text": task(b"\xff\xfe\n", "questions.jsonl:1", "UTF-8"),
    "a cut gzip file": task(gzip.compress(question().encode())[:-12], "--task", "truncated", name="q.jsonl.gz"),
    "a gzip file that is none": task(question(), "--task", "gzip", name="q.jsonl.gz"),
    "an unknown topology": flags("--topology", "sequental", names=["--topology", "'sequental'", "sequential"]),
    "a missing topology file": flags("--topology", "/nowhere/t.yaml", names=["--topology", "'/nowhere/t.yaml'"]),
    "a cycle": topology(
        ['- {name: a, reads: [b], prompt: "x"}', '- {name: b, reads: [a], prompt: "x"}'], "agents.", "reads", "a", "b"
    ),
    "an agent that is not": topology([AGENT, JUDGER.replace("[planner]", "[plannr]")], "judger.reads", "'plannr'"),
    "two that answer": topology(
        [AGENT.replace('}}"', '}}", thinks: text'), JUDGER.replace(" reads: [planner],", "")], "planner"
    ),
    "no sample": flags("--samples", "0", names=["--samples", "'0'", "a whole number from 1 to"]),
    "samples that are all the same": flags(
        "--samples", "4", "--temperature", "0", names=["--samples", "'4'", "temperature above 0"]
    ),
    "an unknown rule": flags("--samples", "4", "--decides", "chance", names=["--decides", "'chance'", "majority"]),
    "a rule for one answer": flags("--decides", "ow", names=["--decides", "'ow'", "nothing is decided"]),
    "accuracies for one answer": flags("--decide-accuracies", "a.yaml", names=["--decide-accuracies", "nothing is"]),
    "a rule that takes no accuracies": flags(
        "--samples", "4", "--decide-accuracies", "a.yaml", names=["--decide-accuracies", "majority", "ow"]
    ),
    "no file of accuracies": flags(
        *("--samples", "4", "--decides", "ow", "--decide-accuracies", "/nowhere/a.yaml"),
        names=["--decide-accuracies", "'/nowhere/a.yaml'", "cannot be read"],
    ),
    "accuracies without an agent": lambda folder: (
        ["--samples", "4", "--decides", "ow", "--decide-accuracies", written(folder, "a.yaml", "planner: 0.5")],
        ["--decide-accuracies", "it has no accuracy of agent judger; it has planner"],
    ),
    "an accuracy that is none": lambda folder: (
        ["--samples", "4", "--decides", "ow", "--decide-accuracies", written(folder, "a.yaml", "judger: 1")],
        ["--decide-accuracies", "'judger: 1'", "between 0 and 1"],
    ),
    "samples of programs": lambda folder: (
        ["--samples", "2", "--unsafe-programs", "--task", written(folder, "q.jsonl", PROGRAM)],
        ["kind", "'code'", "programs"],
    ),
    "a team without a rule": topology([AGENT, JUDGER, JUDGER.replace("judger", "other")], "other", "decides"),
    "a rule of a topology for one answer": lambda folder: (
        ["--topology", written(folder, "t.yaml", f"name: mine\ndecides: ow\nagents:\n  {AGENT}\n  {JUDGER}\n")],
        ["t.yaml: decides", "'ow'", "judger alone answers"],
    ),
    "an unknown rule of a topology": lambda folder: (
        ["--topology", written(folder, "t.yaml", f"name: mine\ndecides: best\nagents:\n  {AGENT}\n  {JUDGER}\n")],
        ["t.yaml:2: decides", "'best'", "majority"],
    ),
    "an unknown key": topology([AGENT.replace("prompt", "promt"), JUDGER], "agents.planner", "promt", "prompt"),
    "a latent agent that answers": topology([AGENT], "planner", "thinks"),
    "a template that does not end": topology([AGENT, JUDGER.replace("{{ question }}", "{% if x %}")], "judger.prompt"),
    "a field that no record has": topology([AGENT, JUDGER.replace("question", "hint")], "judger.prompt", "'hint'"),
    "the gold in a prompt": topology([AGENT, JUDGER.replace("question", "gold")], "judger.prompt", "{{ gold }}"),
    "no YAML": topology(["- {name: ["], "mine.yaml:"),
    "nobody latent": flags("--topology", "single", names=["agents", "'chain-single'", "latent"]),
    "a missing model": flags("--model", "/nowhere/model", names=["--model", "'/nowhere/model'", "no such folder"]),
    "a folder that is no model": lambda folder: (["--model", str(folder)], ["--model", str(folder), "config.json"]),
    "a hub id without a hub": flags("--model", "nobody/nothing", names=["--model", "'nobody/nothing'"]),
    "weights that are cut": model(_cut_weights, "weights"),
    "no weights": model(lambda folder: (folder / "model.safetensors").unlink()),
    "no tokenizer": model(lambda folder: [path.unlink() for path in folder.glob("*token*")], "tokenizer"),  # type: ignore[arg-type, return-value]
    "learned positions": model(_without_rope, "RoPE"),
    "a model nobody knows": model(_edit_config(model_type="mystery"), "mystery"),
    "weights of another shape": model(_edit_config(hidden_size=32)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_mistake_is_one_line(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    args, names = case(tmp_path)
    defaults = {"--limit": "1", "--runtime": "local", "--output": str(output)}
    more = [word for pair in defaults.items() if pair[0] not in args for word in pair]
    assert main(["eval", *more, *args]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for name in names:
        assert name in err, err
    assert not (output / "results.jsonl").exists() or not (output / "results.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LATENTMAS_TORCH_THREADS", "many"),
        ("LATENTMAS_TORCH_THREADS", "0"),
        ("LATENTMAS_REQUIRE", "magic"),
    ],
)
def test_an_environment_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["ask", "why?", "--anyway", "--runtime", "local"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"error: {variable}: got '{value}'" in err


FINISHED = ["eval", "--limit", "2", "--runtime", "local", "--method", "single", "--max-new-tokens", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has come to its end."""
    folder = tmp_path_factory.mktemp("finished")
    assert main([*FINISHED, "--output", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ([], ["--output", "--resume"]),
        (["--resume", "--seed", "7"], ["--seed", "'7'", "42"]),
        (["--resume", "--method", "latent"], ["--method", "'latent'", "'single'"]),
        (["--resume", "--temperature", "0"], ["--temperature", "0.6"]),
        (["--resume", "--limit", "3"], ["--limit", "'3'", "2"]),
        (["--resume", "--topology", "hierarchical"], ["--topology", "'hierarchical'", "'sequential'"]),
    ],
)
def test_the_results_of_another_run_are_left_alone(
    finished: Path, capfd: pytest.CaptureFixture[str], args: list[str], names: list[str]
) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert main([*FINISHED, "--output", str(finished), *args]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    for name in names:
        assert name in err, err
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_a_topology_file_that_has_changed_is_another_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('name: mine\nagents:\n  - {name: solver, thinks: text, prompt: "{{ question }}"}\n')
    args = [*FINISHED, "--topology", str(path), "--output", str(tmp_path / "run")]
    assert main(args) == 0
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    path.write_text(path.read_text().replace("{{ question }}", "Now: {{ question }}"))
    capfd.readouterr()
    assert main([*args, "--resume"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert "topology" in err
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before


def test_a_file_in_the_place_of_the_output_folder_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(written(tmp_path, "file", "precious"))
    assert main([*FINISHED, "--output", str(path)]) == 2
    err = capfd.readouterr().err
    assert err == f"error: --output: got '{path}'; it is a file; give a folder\n"
    assert path.read_text() == "precious"


def test_a_damaged_row_is_named_and_kept(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    path = folder / "results.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"id"', b'{"Id"', 1))
    before = path.read_bytes()
    assert main([*FINISHED, "--output", str(folder), "--resume"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "results.jsonl:1" in err
    assert path.read_bytes() == before
