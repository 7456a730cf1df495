"""Trained maps of thoughts between models: files, what fits, and runs that use them."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from latentmas_ray import LatentMAS, UnusedSettingWarning
from latentmas_ray.cli.main import main
from latentmas_ray.config import EMBEDDED_MODELS
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ConfigError, JournalError, ModelError
from latentmas_ray.memory import LATENT, RecomputeInputs
from latentmas_ray.models import load_model
from latentmas_ray.models.names import find_path
from latentmas_ray.models.translation import (
    ThoughtAdapter,
    choose_adapter,
    load_adapters,
    make_translator,
    save_adapter,
    stored_revision,
)
from latentmas_ray.tasks import load_questions

SIZES = {"tiny": 256, "small": 224}
RUN: dict[str, Any] = {
    "models": {"answerer": "small"},
    "task": "notes",
    "topology": "hierarchical",
    "memory": "latent-only",
    "thoughts": "soft",
    "latent_steps": 4,
    "temperature": 0.0,
    "max_new_tokens": 12,
    "runtime": "local",
    "threads": 1,
    "limit": 2,
}
FLAGS = [
    *("eval", "--model", "tiny", "--models", "answerer=small", "--task", "notes", "--topology", "hierarchical"),
    *("--limit", "1", "--runtime", "local"),
]


def adapter(writer: str = "tiny", reader: str = "small", **changes: Any) -> ThoughtAdapter:
    """A map of random numbers between two embedded models."""
    generator = torch.Generator().manual_seed(1)
    fields = {
        "matrix_AB": torch.randn(SIZES[writer], SIZES[reader], generator=generator),
        "writer": writer,
        "reader": reader,
        "writer_revision": stored_revision(writer),
        "reader_revision": stored_revision(reader),
    }
    return ThoughtAdapter(**(fields | changes))


def saved(folder: Path, name: str = "map", **changes: Any) -> Path:
    path = folder / f"{name}.safetensors"
    save_adapter(adapter(**changes), path)
    return path


def answers(**fields: Any) -> list[tuple[int, ...]]:
    with LatentMAS("tiny", **(RUN | fields)) as mas:
        return [one.answer_token_ids for one in mas.map(load_questions("notes", 2))]


def test_a_file_has_the_map_and_both_revisions(tmp_path: Path) -> None:
    one = adapter(trained={"seed": 3})
    save_adapter(one, tmp_path / "map.safetensors")
    (found,) = load_adapters(str(tmp_path / "map.safetensors"))
    assert torch.equal(found.matrix_AB, one.matrix_AB)
    assert (found.writer, found.reader, found.trained) == ("tiny", "small", {"seed": 3})
    assert (found.writer_revision, found.reader_revision) == (stored_revision("tiny"), stored_revision("small"))
    assert found.digest == one.digest


def test_thoughts_go_through_the_map_and_get_the_norm_of_words() -> None:
    one, reader = adapter(), load_model("small")
    thoughts_NE = torch.randn(3, SIZES["tiny"], generator=torch.Generator().manual_seed(2)).bfloat16()
    inputs = RecomputeInputs(torch.full((3,), LATENT), thoughts_NE, (3,))
    translator = make_translator("tiny", reader, read_environment().cache_dir, one)
    found_NE = translator.translate(inputs).latents_NE.float()
    norm = float(reader.input_embeddings().float().norm(dim=-1).mean())
    expected_NE = norm * normalize(thoughts_NE.float() @ one.matrix_AB, dim=-1)
    assert torch.allclose(found_NE, expected_NE, rtol=0.01, atol=0.01 * norm)


def test_revisions_are_those_of_the_weights_however_they_are_divided_into_files(tmp_path: Path) -> None:
    place = find_path("small")
    assert place is not None
    shutil.copytree(place, tmp_path / "copy")
    assert stored_revision(str(tmp_path / "copy")) == stored_revision("small") != stored_revision("tiny")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    file.unlink()
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, some in parts.items():
        save_file({name: tensors[name] for name in some}, tmp_path / "copy" / part, {"format": "pt"})
    index = {"weight_map": {name: part for part, some in parts.items() for name in some}}
    (tmp_path / "copy" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert stored_revision(str(tmp_path / "copy")) == stored_revision("small")
    layer = next(name for name in parts["a.safetensors"] if "layers" in name)
    tensors[layer] = tensors[layer] + 1
    save_file(
        {name: tensors[name] for name in parts["a.safetensors"]}, tmp_path / "copy" / "a.safetensors", {"format": "pt"}
    )
    assert stored_revision(str(tmp_path / "copy")) != stored_revision("small")


def test_a_run_translates_by_the_map_that_is_given(tmp_path: Path) -> None:
    reader = load_model("small")
    free = make_translator("tiny", reader, read_environment().cache_dir).matrix_AB
    same, other = saved(tmp_path, "same", matrix_AB=free), saved(tmp_path, "other")
    expected = answers()
    assert answers(translation=str(same)) == expected
    assert answers(translation=str(other)) != expected


def test_a_map_fits_its_models_in_every_number_format(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert len(answers(translation=str(path), dtype="float32")) == 2


def test_a_folder_has_maps_for_both_directions(tmp_path: Path) -> None:
    saved(tmp_path, "there")
    saved(tmp_path, "back", writer="small", reader="tiny")
    assert len(answers(translation=str(tmp_path))) == 2
    found = load_adapters(str(tmp_path))
    assert choose_adapter(found, str(tmp_path), "small", "tiny", "link").reader == "tiny"


def test_actors_get_the_map_from_the_driver(tmp_path: Path) -> None:
    """What is sent to an actor has the map itself, for the file is on the driver's machine."""
    import pickle

    from latentmas_ray.config import make_config
    from latentmas_ray.system.team.run_models import RunModels
    from latentmas_ray.topology import load_topology

    path = saved(tmp_path)
    config = make_config({"model": "tiny", "models": RUN["models"], "translation": str(path)})
    topology = load_topology("notes-hierarchical")
    models = RunModels.of(config, topology)
    loaded = [models.loading(one, topology)["adapters"] for one in models.team.models]
    path.unlink()
    writer, reader = pickle.loads(pickle.dumps(loaded))
    assert writer == {}
    assert torch.equal(reader["tiny"].matrix_AB, adapter().matrix_AB)


def refusal(place: Path | str, capfd: pytest.CaptureFixture[str], *more: str) -> str:
    """The line with which a run is refused."""
    assert main([*FLAGS, *more, "--translation", str(place)]) == 2
    out, err = capfd.readouterr()
    lines = [line for line in (out + err).splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("error: --translation: got ")
    return lines[0]


def test_a_map_between_other_models_is_refused_with_both_sides(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, writer="small", reader="tiny")
    line = refusal(path, capfd)
    assert "it maps from small to tiny, and answerer with small reads expert_1 with tiny" in line
    assert "its maps are from small to tiny" not in line
    saved(tmp_path, "more", writer="small", reader="tiny")
    assert "its maps are from small to tiny, and answerer with small reads" in refusal(tmp_path, capfd)


@pytest.mark.parametrize("side", EMBEDDED_MODELS)
def test_a_map_of_other_weights_is_refused(side: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changed = {"writer_revision": "0" * 32} if side == "tiny" else {"reader_revision": "0" * 32}
    line = refusal(saved(tmp_path, **changed), capfd)
    assert "it maps from tiny to small, with other weights of these models, and answerer with small reads" in line


def test_two_maps_that_fit_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, "one")
    saved(tmp_path, "two")
    assert "2 maps of the folder fit answerer with small reads expert_1 with tiny" in refusal(tmp_path, capfd)


def test_a_map_of_other_sizes_is_refused(tmp_path: Path) -> None:
    wrong = adapter(matrix_AB=torch.ones(3, 224))
    with pytest.raises(
        ModelError, match=r"translation: got 'tiny to small'; .* \(256, 224\), and the map has \(3, 224"
    ):
        make_translator("tiny", load_model("small"), read_environment().cache_dir, wrong)
    with pytest.raises(ConfigError, match=r"hidden sizes .* \(256, 224\), and the map has \(3, 224\)"):
        LatentMAS("tiny", **RUN, translation=str(saved(tmp_path, matrix_AB=torch.ones(3, 224))))


def _metadata(**changes: str) -> dict[str, str]:
    fields = {"latentmas_adapter": "1", "writer": "tiny", "reader": "small"}
    return fields | {"writer_revision": "a", "reader_revision": "b"} | changes


WRONG = {
    "nothing": (None, "there is no such file or folder"),
    "folder": ("folder", r"the folder has no \*\.safetensors"),
    "text": (b"no map", "it is damaged or of another kind"),
    "empty": (b"", "it is damaged or of another kind"),
    "pipe": ("pipe", "it is no regular file"),
    "a model's file": (({"lm_head.weight": torch.ones(2, 2)}, {"format": "pt"}), "it is no trained map"),
    "without metadata": (({"matrix": torch.ones(2, 2)}, None), "it is no trained map"),
    "version": (({"matrix": torch.ones(2, 2)}, _metadata(latentmas_adapter="7")), "it has version 7, not 1"),
    "no matrix": (({"other": torch.ones(2, 2)}, _metadata()), "it is damaged or of another kind"),
    "no reader": (
        ({"matrix": torch.ones(2, 2)}, {k: v for k, v in _metadata().items() if k != "reader"}),
        "it is damaged or of another kind",
    ),
    "format": (({"matrix": torch.ones(2, 2).half()}, _metadata()), r"must be float32 .*, and it is float16 \[2, 2\]"),
    "dimensions": (({"matrix": torch.ones(4)}, _metadata()), r"two dimensions .*, and it is float32 \[4\]"),
    "numbers": (({"matrix": torch.full((2, 2), torch.nan)}, _metadata()), "finite numbers"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_is_no_map_is_one_line(kind: str, tmp_path: Path) -> None:
    content, expected = WRONG[kind]
    path = tmp_path / "map.safetensors"
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, tuple):
        save_file(content[0], path, content[1])
    with pytest.raises(ConfigError, match=expected) as raised:
        load_adapters(str(path))
    assert raised.value.field == "translation"
    assert "\n" not in str(raised.value)


def test_a_missing_file_ends_a_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "there is no such file or folder" in refusal(tmp_path / "none.safetensors", capfd)


def test_a_run_continues_with_the_same_map_only(tmp_path: Path) -> None:
    path = saved(tmp_path)
    output = str(tmp_path / "run")
    with LatentMAS("tiny", **RUN, translation=str(path)) as mas:
        mas.evaluate(output=output)
    moved = path.rename(tmp_path / "moved.safetensors")
    with LatentMAS("tiny", **RUN, translation=str(moved)) as mas:
        assert mas.evaluate(output=output, resume=True).num_questions == 2
    save_adapter(adapter(matrix_AB=torch.ones(256, 224)), moved)
    with LatentMAS("tiny", **RUN, translation=str(moved)) as mas, pytest.raises(JournalError, match="translation: got"):
        mas.evaluate(output=output, resume=True)
    with LatentMAS("tiny", **RUN) as mas, pytest.raises(JournalError, match="translation: got"):
        mas.evaluate(output=output, resume=True)


def test_without_a_second_model_it_does_nothing_and_says_so(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnusedSettingWarning)
        LatentMAS("tiny", task="notes", topology="hierarchical", runtime="local", translation=str(saved(tmp_path)))
    assert [
        (one.message.field, one.message.why) for one in caught if isinstance(one.message, UnusedSettingWarning)
    ] == [("translation", "all agents have one model")]
