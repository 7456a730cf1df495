"""`LatentMAS` from Python: what is checked before anything starts, and how one run follows another."""

import shutil
from pathlib import Path

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.errors import ActorError, TaskError
from tests.unit.fake_runtime import FakeRuntime

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


def test_after_a_run_that_lost_its_actors_the_next_one_starts_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(runtime: FakeRuntime) -> None:
        raise ActorError("no more of them")

    runtimes = [FakeRuntime(), FakeRuntime(on_wait=give_up)]
    monkeypatch.setattr(LatentMAS, "_make_runtime", lambda self, num_batches: runtimes.pop())
    with LatentMAS(runtime="local", model="tiny", method="single") as mas:
        with pytest.raises(ActorError, match="no more of them"):
            list(mas.run(["why?"]))
        (answer,) = mas.run(["why?"])
    assert answer.question == "why?"
    assert not runtimes
