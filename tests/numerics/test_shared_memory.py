"""Memory that is computed once for many settings gives the answers of `latentmas eval` with each of them."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.keep.spots import find_spots, keep_spots
from benchmarks.shared_memory.segments import cut, stack, take
from benchmarks.shared_memory.team import SharedMemoryTeam, read_answers, save_answers, shares_memory
from latentmas_ray import LatentMAS, load_run
from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.tasks import load_questions
from latentmas_ray.topology import Topology, load_topology

FIELDS = {"model": "tiny", "task": "notes", "topology": "hierarchical", "runtime": "local", "temperature": 0.0}
FIELDS |= {"limit": 6, "batch_size": 4, "max_new_tokens": 24, "dtype": "float32"}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_model("tiny", dtype="float32")


def config(**changes: object) -> RunConfig:
    return make_config({**FIELDS, **changes})


def evaluated(folder: Path, lm: LanguageModel, **changes: object) -> list[str]:
    """The texts of a run in the order of the questions, of which the team below must give the same."""
    fields = {name: value for name, value in {**FIELDS, **changes}.items() if name not in ("model", "dtype")}
    with LatentMAS(lm.model, tokenizer=lm.chat.tokenizer, output=str(folder), **fields) as mas:  # type: ignore[arg-type]
        mas.evaluate()
    answers = {answer.id: answer.answer for answer in load_run(str(folder)).answers}
    return [answers[name] for name in sorted(answers, key=lambda name: int(name.rpartition("-")[2]))]


@pytest.mark.parametrize(
    ("control", "steps"),
    [("matched", 0), ("matched", 2), ("deranged", 3), ("prompt-only", 2), ("latent-only", 3), ("latent-only+sink", 2)],
)
def test_a_part_of_the_memory_gives_the_answers_of_its_own_run(
    control: str, steps: int, lm: LanguageModel, tmp_path: Path
) -> None:
    team = SharedMemoryTeam(config(thoughts="soft"), lm)
    memory = team.think(4).cut(team.topology_of(control), steps)
    answers = team.answer(memory.of_next_questions() if control == "deranged" else memory, control)
    own = evaluated(tmp_path / "run", lm, thoughts="soft", memory=control, latent_steps=steps)
    assert [answer.text for answer in answers] == own


def test_without_memory_too(lm: LanguageModel, tmp_path: Path) -> None:
    answers = SharedMemoryTeam(config(), lm).answer(None, "none")
    assert [answer.text for answer in answers] == evaluated(tmp_path / "run", lm, memory="none")


@pytest.mark.parametrize("memory", ["matched", "deranged"])
@pytest.mark.parametrize(("by", "layers"), [("prompt", "shared"), ("reader", "own")])
def test_a_choice_of_positions_through_a_codec(
    memory: str, by: str, layers: str, lm: LanguageModel, tmp_path: Path
) -> None:
    choice = {"keep": 0.5, "keep_by": by, "keep_layers": layers}
    team = SharedMemoryTeam(config(), lm)
    found = team.think(2, choice, control=memory if by == "reader" else "matched")
    sizes, handed = found.sent_bytes("int8"), found.through("int8")
    if memory == "deranged" and by != "reader":
        handed = handed.of_next_questions()
    answers = team.answer(handed, memory)
    own = evaluated(tmp_path / "run", lm, memory=memory, latent_steps=2, codec="int8", **choice)
    assert [answer.text for answer in answers] == own
    rows = load_run(str(tmp_path / "run")).answers
    assert sum(sizes) == sum(sum(one.num_bytes for one in row.transfers) for row in rows)


def test_questions_are_stacked_and_taken_as_they_are(lm: LanguageModel) -> None:
    memory = SharedMemoryTeam(config(), lm).think(2, {"keep": 0.5, "keep_layers": "own"})
    segment = memory.segments["expert_1"]
    again = stack([take(segment, [0, 1]), take(segment, [2, 3, 4, 5])])
    assert again.meta == segment.meta
    assert again.kv.buffer().equal(segment.kv.buffer())
    assert again.recompute_inputs.token_ids_T.equal(segment.recompute_inputs.token_ids_T)
    whole = SharedMemoryTeam(config(), lm).think(2)
    part = cut(whole.segments["expert_1"], whole.prompt_lengths["expert_1"], 2, "all")
    assert part.kv.buffer().equal(whole.segments["expert_1"].kv.buffer())


def test_which_teams_share_their_memory() -> None:
    hierarchical = load_topology("notes-hierarchical")
    assert shares_memory(hierarchical)
    assert not shares_memory(load_topology("facts-sequential"))
    assert not shares_memory(load_topology("single"))
    first, *others = hierarchical.agents
    for own in ({"latent_steps": 3}, {"keep": 0.5}, {"close_turn": True}, {"hands_over": "prompt"}):
        assert not shares_memory(Topology(name="own", agents=[first.replace(**own), *others]))


def test_answers_of_other_settings_are_not_read(lm: LanguageModel, tmp_path: Path) -> None:
    answers, path = SharedMemoryTeam(config(), lm).answer(None, "none"), tmp_path / "cell" / "answers.json"
    assert read_answers(path, {"limit": 6}) is None
    save_answers(path, {"limit": 6}, answers)
    assert read_answers(path, {"limit": 6}) == {answer.id: float(bool(answer.correct)) for answer in answers}
    assert read_answers(path, {"limit": 7}) is None


def test_latent_steps_are_measured_in_both_batches_and_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["latent-steps", "--limit", "2", "--steps", "3", "--batch-size", "2", "--max-new-tokens", "4"]
    flags += ["--output", str(tmp_path)]
    assert main([*flags, "--settings", "max:3"]) == 0
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/results.jsonl")}
    assert len(stamps) == 4
    assert main([*flags, "--settings", "max:3,auto"]) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[1] for row in rows if row[0] == "3"] == ["2", "1", "2", "1"]
    assert main([*flags, "--other-batch-size", "2"]) == 2
    assert "--other-batch-size: got '2'; it must differ from the batch size" in capsys.readouterr().err


def test_the_table_of_thoughts_is_written_from_memory_that_is_shared(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = tmp_path / "thoughts.md"
    document.write_text("# Thoughts\n")
    flags = ["thoughts", "--rules", "realign,soft", "--steps", "0,3", "--limit", "3", "--batch-size", "3"]
    flags += ["--max-new-tokens", "8", "--output", str(tmp_path / "cells"), "--document", str(document)]
    assert main([*flags, "--controls", "matched,none"]) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").rglob("*.json")}
    assert len(stamps) == 4 + 2  # no thoughts, two rules, no memory; two convergences
    assert main([*flags, "--controls", "matched,latent-only,none"]) == 0
    kept = {path: path.stat().st_mtime_ns for path in stamps if path.name == "answers.json"}
    assert kept.items() <= stamps.items(), "what is there is not run again"
    rows = [line.split(" | ") for line in document.read_text().splitlines() if line.startswith("| ")]
    assert rows[0][:5] == ["| rule", "steps", "matched", "latent-only", "none"]
    assert [row[0] for row in rows[2:]] == ["| no thoughts", "| realign", "| soft"]
    assert "cosine to the thought before (3 questions)" in document.read_text()
    assert (tmp_path / "thoughts_tiny_notes_hierarchical.png").read_bytes().startswith(b"\x89PNG")


def test_thoughts_are_measured_block_by_block_and_more_questions_are_added(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = tmp_path / "thoughts.md"
    document.write_text("# Thoughts\n")
    flags = ["thoughts", "--task", "facts", "--rules", "realign", "--steps", "0,2", "--controls", "matched,deranged"]
    flags += ["--batch-size", "2", "--max-new-tokens", "4", "--output", str(tmp_path / "cells"), "--block", "2"]
    assert main([*flags, "--limit", "2", "--document", str(document)]) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").rglob("*.json")}
    assert main([*flags, "--limit", "4", "--document", str(document)]) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "what is there is not run again"
    files = sorted((tmp_path / "cells").rglob("answers-2-4.json"))
    assert len(files) == 4
    rows = [line.split(" | ") for line in document.read_text().splitlines() if line.startswith("| ")]
    assert rows[0][-1] == "own numbers |"
    assert rows[2][-1].endswith(" of 4 |")
    names = {answer["id"] for answer in json.loads(files[0].read_text())["answers"]}
    assert names == {question.id for question in load_questions("facts", 4)[2:]}
    files[0].unlink()
    assert main([*flags, "--limit", "4", "--no-run", "--document", str(document)]) == 0
    assert "\n2 questions a cell" in document.read_text(), "of the blocks that every cell has answered"
    assert not files[0].exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--limit", "5", "--block", "2"], "--block: got '2'; it must be at least 2 and divide --limit, which is 5"),
        (["--topology", "sequential", "--block", "2"], "--block: got '2'; it needs latent agents that read no other"),
        (["--no-run"], "it must have questions that every cell has answered"),
    ],
)
def test_blocks_that_cannot_be_are_refused(
    flags: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["thoughts", "--output", str(tmp_path / "none"), *flags]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("spot", "expected"),
    [("numbers", "12 7"), ("names+numbers", "Mia 12 Leo 7"), ("facts", "Mia has 12 nuts. Leo has 7 nuts.")],
)
def test_places_of_a_prompt_are_found_by_its_text(spot: str, expected: str, lm: LanguageModel) -> None:
    tokenizer = lm.chat.tokenizer
    ids = tokenizer.encode("Notes: Mia has 12 nuts. Leo has 7 nuts.\nRepeat the notes.", add_special_tokens=False)
    ranges = find_spots(ids, spot, tokenizer)
    assert ranges[0] == (0, 1), "the sink"
    kept = tokenizer.decode([token for first, stop in ranges[1:] for token in ids[first:stop]])
    assert "".join(kept.split()) == "".join(expected.split())


def test_places_take_fewer_bytes_and_thoughts_stay(lm: LanguageModel) -> None:
    whole = SharedMemoryTeam(config(), lm).think(2)
    part = keep_spots(whole, "numbers", lm.chat.tokenizer)
    for agent, segment in part.segments.items():
        for kept, length in zip(segment.meta.kept or [], [segment.meta.lengths] * 4, strict=True):
            assert [ranges[-1][1] for ranges in kept] == list(length)
        assert max(segment.kv_lengths) < min(whole.segments[agent].kv_lengths)
    prompts = keep_spots(whole, "prompts", lm.chat.tokenizer)
    assert {agent: one.kv_lengths for agent, one in prompts.segments.items()} == dict(whole.prompt_lengths)
