"""`LatentMAS` from Python: what is checked before anything starts."""

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.errors import TaskError


def test_an_id_twice_is_told_before_a_model_is_loaded() -> None:
    with LatentMAS(runtime="local") as mas, pytest.raises(TaskError) as caught:
        list(mas.run([{"id": "a", "question": "x?"}, "y?", {"id": "a", "question": "z?"}]))
    assert caught.value.field == "questions[2]: id"
    assert str(caught.value) == "questions[2]: id: got 'a'; ids must differ; questions[0] has the same"
