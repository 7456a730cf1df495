"""`LatentMAS` from Python: what is checked before anything starts."""

import shutil
from pathlib import Path

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.errors import TaskError

GOLDEN_MODEL = Path(__file__).parents[1] / "golden" / "model"


@pytest.mark.parametrize("name", ["./checkpoint", "checkpoint"])
def test_a_model_folder_is_found_from_another_working_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an actor on another machine of the cluster has one."""
    shutil.copytree(GOLDEN_MODEL, tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    with LatentMAS(model=name, runtime="local", method="single", max_new_tokens=2) as mas:
        monkeypatch.chdir("/")
        (answer,) = mas.run(["x?"])
        assert answer.id == "q0"
        assert mas.config.model == name


def test_an_id_twice_is_told_before_a_model_is_loaded() -> None:
    with LatentMAS(runtime="local") as mas, pytest.raises(TaskError) as caught:
        list(mas.run([{"id": "a", "question": "x?"}, "y?", {"id": "a", "question": "z?"}]))
    assert caught.value.field == "questions[2]: id"
    assert str(caught.value) == "questions[2]: id: got 'a'; ids must differ; questions[0] has the same"
